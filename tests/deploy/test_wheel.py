"""The wheel: installed in a bare environment, outside the checkout, it starts and answers."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest
from packaging.requirements import Requirement

from inference_server import __version__
from tests.api.serving import ALICE, CONCEPT, until
from tests.environment import clean_environment
from tests.readme import ROOT

SOURCES = ("LICENSE", "README.md", "pyproject.toml", "inference_server", "schemas")
"""What the Dockerfile copies."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    # A copy, because setuptools leaves its work in the source, and takes stale files from there.
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--wheel-dir", source / "dist", source),
        ],
        check=True,
    )
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`inference-server`, installed from the wheel.

    The environment sees the packages of this one, instead of downloading gigabytes; but not its
    editable installation, which a `.pth` file of its own adds.
    """
    root = tmp_path_factory.mktemp("environment")
    venv.create(root)
    (own,) = root.glob("lib/python3*/site-packages")
    (own / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", root / "bin/python", "install", "--quiet"),
            *("--no-index", "--ignore-installed", "--no-deps", wheel),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return root / "bin/inference-server"


def test_the_wheel_has_the_demo_weights_and_no_tests(wheel: Path) -> None:
    assert wheel.name == f"sam_inference_server-{__version__}-py3-none-any.whl"
    names = ZipFile(wheel).namelist()
    assert {"inference_server/demo/scene.jpg", "inference_server/py.typed"} <= set(names)
    assert any(re.match(r"inference_server/demo/weights/.*\.safetensors", name) for name in names)
    assert any(name.startswith("inference_server/playground/static/") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert tops == {
        *("inference_server", "schemas", f"sam_inference_server-{__version__}.dist-info")
    }


def test_its_requirements_are_those_of_the_project_and_satisfied(wheel: Path) -> None:
    metadata = ZipFile(wheel).read(f"sam_inference_server-{__version__}.dist-info/METADATA")
    listed = re.findall(r"^Requires-Dist: (.*)$", metadata.decode(), re.MULTILINE)
    needed = {str(each) for each in map(Requirement, listed) if "extra" not in str(each.marker)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert needed == {str(Requirement(line)) for line in project["dependencies"]}
    for each in map(Requirement, needed):
        assert each.specifier.contains(distribution(each.name).version, prereleases=True), each


def test_it_starts_and_answers(command: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {
        **clean_environment(),
        "INFERENCE_API_KEYS": ALICE,
        "INFERENCE_DATA_DIR": str(tmp_path / "data"),
    }
    environment.pop("PYTHONPATH", None)
    where = subprocess.run(
        [command.parent / "python", "-c", "import inference_server as i; print(i.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert Path(where).is_relative_to(command.parents[1])
    with log.open("wb") as written:
        running = subprocess.Popen(
            [command, "serve", "--port", "0"], cwd=tmp_path, env=environment, stderr=written
        )
    try:

        def address() -> re.Match[str] | None:
            assert running.poll() is None, log.read_text()
            return re.search(r" on (http://[^\s\"]+)[\s\"]", log.read_text())

        until(address, pause=0.1)
        found = address()
        assert found
        with httpx.Client(base_url=found[1], timeout=120) as http:

            def ready() -> bool:
                assert running.poll() is None, log.read_text()
                try:
                    return http.get("/readyz").is_success
                except httpx.TransportError:
                    return False

            until(ready, pause=0.1)
            scene = (ROOT / "inference_server/demo/scene.jpg").read_bytes()
            answer = http.post(
                CONCEPT,
                headers={"x-api-key": ALICE},
                json={
                    "image": {"type": "base64", "value": base64.b64encode(scene).decode()},
                    "prompts": [{"type": "text", "text": "red circle"}],
                },
            )
            assert answer.status_code == 200, answer.text
            assert answer.json()["prompt_results"][0]["predictions"]
            assert http.get("/").status_code == 200  # the playground
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
    finally:
        running.kill()
        running.wait()
    assert os.listdir(tmp_path / "data")
