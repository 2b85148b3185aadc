# Everything that a newcomer or a machine runs; `make help` lists it.

VENV ?= .venv
BIN := $(VENV)/bin
# Some of the dependencies are source distributions: they are built with what is pinned here.
INSTALL := SAM2_BUILD_CUDA=0 $(BIN)/python -m pip install --disable-pip-version-check -qq --no-build-isolation
ARGS ?=

.PHONY: help serve test test-cluster lint format openapi clients readme docs bench fuzz pins clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/.serve ## Install what serving takes, and serve on 127.0.0.1:9001 (ARGS="--port 9002" for options)
	@$(BIN)/inference-server serve $(ARGS)

test: $(VENV)/.dev ## Install everything, and run the tests (ARGS="-k polygons" for some of them)
	@$(BIN)/python -m pytest $(ARGS)

test-cluster: $(VENV)/.dev ## Run the tests on real Ray clusters
	@RAY_USAGE_STATS_ENABLED=0 $(BIN)/python -m pytest -m cluster tests/cluster tests/cli $(ARGS)

lint: $(VENV)/.dev ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict

format: $(VENV)/.dev ## Format the code, and mend what ruff can
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

openapi: $(VENV)/.serve ## Write openapi/openapi.json anew
	@$(BIN)/inference-server openapi -o openapi/openapi.json

clients: openapi $(VENV)/.dev ## Generate clients/ anew from openapi/openapi.json; they are committed (takes Node and npm)
	@$(BIN)/python openapi/clients.py

readme: $(VENV)/.dev ## Run the code in README.md and docs/, and mend its output and the settings' tables
	@$(BIN)/python -m tests.readme $(ARGS)

docs: $(VENV)/.dev ## Build the pages of docs/ as a site, build/site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

fuzz: $(VENV)/.dev ## Try twenty times as many made-up requests and files as the tests do
	@FUZZ_TIMES=$${FUZZ_TIMES:-20} $(BIN)/python -m pytest --timeout 7200 $(ARGS) \
		tests/api/test_schemathesis.py tests/api/test_fuzz.py tests/api/test_corpus.py \
		tests/images/test_hostile.py tests/images/test_parsers.py tests/schemas/test_properties.py

bench: $(VENV)/.dev ## Measure speed and memory side by side (ARGS="click --small" for some of it)
	@$(BIN)/python -m benchmarks $(ARGS)

pins: $(VENV)/.dev ## Write requirements/*.txt anew, from what is installed
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
			echo "$$python cannot make virtual environments. On Debian: apt-get install python3-venv" >&2; \
			exit 1; \
		fi; \
	done; \
	echo "Python 3.11, 3.12 or 3.13 is needed." >&2; exit 1

# The stamps say that an installation is complete; they are older than the pins after a change.
$(VENV)/.serve: $(BIN)/python pyproject.toml requirements/serve.txt
	@echo "1/3 Installing torch: 2 minutes or more, it is 3 GB"
	@$(INSTALL) -c requirements/serve.txt torch torchvision setuptools wheel
	@echo "2/3 Installing the other dependencies: half a minute"
	@$(INSTALL) -r requirements/serve.txt
	@echo "3/3 Installing inference-server itself"
	@$(INSTALL) --no-deps --editable .
	@touch $@

# The pins are complete, so nothing is resolved: a client that we test with would bring
# opencv-python, which overwrites opencv-python-headless and needs display libraries.
$(VENV)/.dev: $(VENV)/.serve requirements/dev.txt
	@echo "Installing what tests and checks take: half a minute"
	@$(INSTALL) --no-deps -r requirements/dev.txt
	@touch $@
