# Commands for users and developers; `make help` lists them.

VENV ?= .venv
BIN := $(VENV)/bin
# Some dependencies are source distributions; the pinned setuptools and wheel build them.
INSTALL := SAM2_BUILD_CUDA=0 $(BIN)/python -m pip install --disable-pip-version-check -qq --no-build-isolation --no-compile
# pip compiles on one core, and also a quarter that is never imported: packages' tests, and models
# of other families. Some packages contain files for other versions of Python, which fail.
COMPILE := $(BIN)/python -W ignore -m compileall -qq -j 0 -x '/tests?/|/transformers/models/' $(VENV)/lib || true
ARGS ?=
# Test processes that run side by side: one more than cores, because tests wait for processes,
# sockets and databases a fifth of their time.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PARALLEL := --dist loadfile -n $(WORKERS)
# Plugins that these tests do not use take each process a second to import.
LIGHT = -p no:schemathesis -p no:hydra_pytest
# Otherwise each of the hundreds of processes that tests start compiles the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help serve test test-system test-cluster test-image test-all lint format openapi clients readme docs bench fuzz pins clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/.serve ## Install what serving needs and serve on 127.0.0.1:9001 (ARGS="--port 9002" for options)
	@$(BIN)/inference-server serve $(ARGS)

test: $(VENV)/.dev ## Install everything and run the unit and contract tests (ARGS="-k polygons" for some)
	@$(BIN)/python -m pytest $(PARALLEL) $(LIGHT) -m "not system and not cluster and not slow" $(ARGS)

test-system: $(VENV)/.dev ## Run the tests with processes, databases, browsers, clients and the code in the docs
	@$(BIN)/python -m pytest $(PARALLEL) -m "system and not cluster and not image and not slow" $(ARGS)

# Ray measures how busy its replicas are, so nothing else runs beside the clusters; those that the
# command line starts end before that of the other tests begins.
test-cluster: $(VENV)/.dev ## Run the tests on real Ray clusters only
	@RAY_USAGE_STATS_ENABLED=0 $(BIN)/python -m pytest -m cluster tests/cli tests/cluster $(ARGS)

test-image: $(VENV)/.dev ## Build the Dockerfile and run the image (as root, with buildah and debootstrap)
	@$(BIN)/python -m pytest -m image tests/deploy $(ARGS)

test-all: test test-cluster test-system ## Run all tests but those of the image, tier after tier (with make -k also after a failure)

lint: $(VENV)/.dev ## Check style, types and the import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/mypy --strict

format: $(VENV)/.dev ## Format the code and apply ruff's fixes
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

openapi: $(VENV)/.serve ## Regenerate openapi/openapi.json
	@$(BIN)/inference-server openapi -o openapi/openapi.json

clients: openapi $(VENV)/.dev ## Regenerate clients/ from openapi/openapi.json (needs Node and npm)
	@$(BIN)/python openapi/clients.py

readme: $(VENV)/.dev ## Run the code in README.md and docs/ and update its output and the settings tables
	@$(BIN)/python -m tests.readme $(ARGS)

docs: $(VENV)/.dev ## Build docs/ as a site, build/site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

fuzz: $(VENV)/.dev ## Fuzz with random requests and files, twenty times as many as in the tests
	@FUZZ_TIMES=$${FUZZ_TIMES:-20} $(BIN)/python -m pytest --timeout 7200 $(ARGS) \
		tests/api/test_schemathesis.py tests/api/test_fuzz.py tests/api/test_corpus.py \
		tests/images/test_hostile.py tests/images/test_parsers.py tests/schemas/test_properties.py

bench: $(VENV)/.dev ## Run the benchmarks (ARGS="click --small" for some)
	@$(BIN)/python -m benchmarks $(ARGS)

pins: $(VENV)/.dev ## Regenerate requirements/*.txt from the installed versions
	@$(BIN)/python requirements/pin.py

clean: ## Remove the environment and all caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info \
		clients/typescript/node_modules clients/typescript/dist

$(BIN)/python:
	@for python in python3.11 python3.12 python3.13 python3; do \
		if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
			echo "Creating $(VENV) with $$($$python --version)"; \
			$$python -m venv $(VENV) && exit 0; \
			rm -rf $(VENV); \
			echo "$$python cannot create virtual environments. On Debian: apt-get install python3-venv" >&2; \
			exit 1; \
		fi; \
	done; \
	echo "Install Python 3.11, 3.12 or 3.13 first." >&2; exit 1

# A stamp marks a complete installation; a newer pin file makes it run again.
$(VENV)/.serve: $(BIN)/python pyproject.toml requirements/serve.txt
	@echo "1/3 Installing torch: 2 minutes or more, it is 3 GB"
	@$(INSTALL) -c requirements/serve.txt torch torchvision setuptools wheel
	@echo "2/3 Installing the other dependencies: some minutes"
	@$(INSTALL) -r requirements/serve.txt
	@echo "3/3 Installing this package"
# Versions before 0.2.0 had another distribution name.
	@$(BIN)/python -m pip uninstall --disable-pip-version-check -qq --yes inference-server 2>/dev/null
	@$(INSTALL) --no-deps --editable .
	@$(COMPILE)
	@touch $@

# The pins are complete, so pip resolves nothing: a client under test would otherwise install
# opencv-python, which overwrites opencv-python-headless and needs display libraries.
$(VENV)/.dev: $(VENV)/.serve requirements/dev.txt
	@echo "Installing test and lint tools: some minutes"
	@$(INSTALL) --no-deps -r requirements/dev.txt
	@$(COMPILE)
	@touch $@
