"""CONTRIBUTING.md: the API of its tutorial is built from the shown code, and works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.readme import ROOT

SECTION = re.compile(r"^## Add a vendor's API\n(.*?)^## ", re.M | re.S)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
NAMED = re.compile(r"`([\w/.]+\.py)`")
APP = "inference_server/api/app.py"
TEST = "tests/api/acme/test_routes.py"


def tutorial() -> str:
    """Return the section about a vendor's API."""
    found = SECTION.search((ROOT / "CONTRIBUTING.md").read_text())
    assert found is not None
    return found[1]


def modules(text: str) -> dict[str, str]:
    """Return the Python code of the section by the file that is named last before it."""
    found: dict[str, str] = {}
    for block in BLOCK.finditer(text):
        path = NAMED.findall(text[: block.start()])[-1]
        assert path not in found, f"{path} is shown twice"
        found[path] = block[1]
    return found


def replaced(file: Path, old: str, new: str) -> None:
    """Replace a text that the file has once."""
    text = file.read_text()
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new))


def registered(tree: Path, text: str, shown: str) -> None:
    """Follow the section's step "Registration".

    Args:
        tree: root of the source.
        text: the section.
        shown: its code for `app.py`.
    """
    tag = re.search(r'add `("Acme": ".*?",)` to `TAGS`', text)
    assert tag is not None
    replaced(
        tree / "inference_server/api/openapi.py",
        '        "Jobs": ',
        f'        {tag[1]}\n        "Jobs": ',
    )
    imports, added = shown.split("VENDOR_APIS = (\n    ...,\n")
    app = tree / APP
    replaced(
        app,
        "from inference_server.api.dependencies",
        f"{imports.strip()}\nfrom inference_server.api.dependencies",
    )
    replaced(app, "VENDOR_APIS = (\n", "VENDOR_APIS = (\n" + added.rpartition(")\n")[0])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source with the API of the tutorial."""
    root = tmp_path_factory.mktemp("source")
    nothing = shutil.ignore_patterns("__pycache__", "results", "node_modules")
    for name in ("inference_server", "schemas", "tests", "openapi"):
        shutil.copytree(ROOT / name, root / name, ignore=nothing)
    shutil.copy(ROOT / "pyproject.toml", root)
    text = tutorial()
    code = modules(text)
    for path in (*code, "inference_server/api/acme/__init__.py", "tests/api/acme/__init__.py"):
        if path != APP:
            (root / path).parent.mkdir(exist_ok=True)
            (root / path).write_text(code.get(path, '"""The API of acme."""\n'))
    registered(root, text, code[APP])
    return root


def run(tree: Path, *arguments: str) -> str:
    """Run a Python module in the copy; return its output."""
    environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_modules_are_shown() -> None:
    package = "inference_server/api/acme"
    expected = {f"{package}/{name}.py" for name in ("prompts", "results", "routes")}
    assert set(modules(tutorial())) == {"schemas/acme.py", *expected, APP, TEST}


def test_the_api_passes_its_tests(tree: Path) -> None:
    output = run(tree, "pytest", "-q", "-p", "no:cacheprovider", TEST)
    assert "2 passed" in output


def test_the_api_is_in_the_openapi_document(tree: Path) -> None:
    run(tree, "inference_server.cli", "openapi", "-o", "openapi/openapi.json")
    document = json.loads((tree / "openapi/openapi.json").read_text())
    assert "/acme/segment" in document["paths"]
    assert "Acme" in [tag["name"] for tag in document["tags"]]


def test_the_code_follows_the_style(tree: Path) -> None:
    paths = ["schemas/acme.py", "inference_server/api/acme", "tests/api/acme", APP]
    run(tree, "ruff", "check", "--no-cache", *paths)
    run(tree, "ruff", "format", "--no-cache", "--check", *paths)
