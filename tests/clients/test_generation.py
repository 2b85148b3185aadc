"""`clients/` is generated from the committed document, complete and installable."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from inference_server_client import models

from inference_server import __version__
from openapi import clients
from tests.clients.conftest import PAGE

GENERATED = clients.TYPESCRIPT / "src" / "generated"
REMEDY = "clients/ does not match the document: run `make clients` and commit the result"
DOCUMENT: dict[str, Any] = json.loads(clients.DOCUMENT.read_bytes())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
OPERATIONS = {o["operationId"] for path in DOCUMENT["paths"].values() for o in path.values()}


def assert_committed(files: dict[Path, bytes]) -> None:
    """Assert that the repository has these files with this content."""
    read = {path: clients.ROOT / path for path in files}
    differ = [
        str(path)
        for path, file in read.items()
        if not file.exists() or file.read_bytes() != files[path]
    ]
    assert not differ, REMEDY


def test_the_python_client_is_generated() -> None:
    files = clients.python_files()
    assert_committed(files)
    assert not clients.stale_files(files), REMEDY


def test_the_typescript_client_is_generated(npm: Path) -> None:
    assert_committed(clients.typescript_files())


def test_the_packages_have_the_version_of_the_server() -> None:
    files = clients.metadata_files()
    assert_committed(files)
    for data in files.values():
        assert f'"{__version__}"'.encode() in data


def test_another_version_is_noticed(tmp_path: Path) -> None:
    changed = json.loads(clients.DOCUMENT.read_bytes())
    changed["info"]["version"] = "7.8.9"
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(changed))
    for data in clients.metadata_files(document).values():
        assert data.count(b'"7.8.9"') == (2 if b"lockfileVersion" in data else 1)
    with pytest.raises(AssertionError, match="make clients"):
        assert_committed(clients.metadata_files(document))


def test_what_cannot_be_read_is_not_left_out(tmp_path: Path) -> None:
    changed = json.loads(clients.DOCUMENT.read_bytes())
    changed["paths"]["/livez"]["get"]["responses"]["200"]["content"] = {
        "application/json": {"schema": {"$ref": "#/components/schemas/Nowhere"}}
    }
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(changed))
    with pytest.raises(subprocess.CalledProcessError):
        clients.python_files(document)


def test_nothing_says_where_packages_come_from() -> None:
    lock = json.loads((clients.ROOT / clients.TYPESCRIPT / "package-lock.json").read_bytes())
    for name, package in lock["packages"].items():
        assert "resolved" not in package, name
    exact = json.loads((clients.ROOT / clients.TYPESCRIPT / "package.json").read_bytes())
    assert "dependencies" not in exact  # as stated on the page
    for version in exact["devDependencies"].values():
        assert version[0].isdigit(), version


def test_every_operation_is_in_both() -> None:
    api = f"{clients.PACKAGE}.api"
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(importlib.import_module(api).__path__, f"{api}.")
        if not module.ispkg
    ]
    # The generator converts names: `embedImageSam3` is `embed_image_sam_3`.
    names = {module.__name__.rsplit(".", 1)[1].replace("_", "") for module in modules}
    assert names == {name.lower() for name in OPERATIONS}
    assert all(callable(module.sync_detailed) for module in modules)
    calls = (clients.ROOT / GENERATED / "sdk.gen.ts").read_text()
    assert set(re.findall(r"^export const (\w+) = ", calls, re.MULTILINE)) == OPERATIONS


@pytest.mark.parametrize(
    ("name", "example"),
    [
        pytest.param(name, example, id=f"{name}-{index}")
        for name, schema in SCHEMAS.items()
        for index, example in enumerate(schema.get("examples", []))
        if schema.get("type") == "object"
    ],
)
def test_examples_go_through_the_python_client(name: str, example: dict[str, Any]) -> None:
    """Examples of the document are parsed and serialised without loss."""
    sent = getattr(models, name).from_dict(example).to_dict()
    # Fields with defaults are sent too.
    assert sent == {**sent, **example}


def test_the_python_package_installs(tmp_path: Path) -> None:
    assert "\npip install ./clients/python\n" in PAGE.read_text()  # as shown on the page
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(
        clients.ROOT / clients.PYTHON, source
    )  # the build writes into its source directory
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--no-build-isolation", "--target", str(target), str(source)),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = importlib.metadata.distributions(path=[str(target)])
    assert (found.name, found.version) == ("inference-server-client", __version__)
    assert (target / clients.PACKAGE / "api" / "segmentation" / "concept_segment.py").exists()
    assert (target / clients.PACKAGE / "py.typed").exists()
