"""The workflows of GitHub: against their schema, checked by zizmor, and against the repository.

No workflow was run; docs/deployment.md tells what was.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema.validators import validator_for

from tests.deploy.test_container import ROOT, arguments

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def load(name: str) -> dict[str, Any]:
    # YAML 1.1 reads the key `on` as true.
    loaded: dict[str, Any] = yaml.load(
        (ROOT / ".github/workflows" / name).read_text(), Loader=yaml.BaseLoader
    )
    return loaded


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_match_the_schema(path: Path) -> None:
    schema = get_builtin_schema("vendor.github-workflows")
    validator = validator_for(schema)(schema)
    # As GitHub reads them, but with `on` as a text.
    read = yaml.safe_load(re.sub(r"^on:", "'on':", path.read_text(), flags=re.MULTILINE))
    validator.validate(read)
    assert not validator.is_valid(read | {"job": {}})


def test_zizmor_finds_nothing() -> None:
    """It checks permissions, injection into scripts, credentials, and that actions are pinned."""
    done = subprocess.run(
        [Path(sys.executable).parent / "zizmor", "--offline", "--no-progress", ".github/workflows"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_actions_are_pinned_to_commits() -> None:
    for path in WORKFLOWS:
        for line in re.findall(r"uses: (.*)", path.read_text()):
            assert re.fullmatch(r"\./\S+( #.*)?|[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_a_release_needs_all_checks() -> None:
    ci, release = load("ci.yml"), load("release.yml")
    assert ci["jobs"]["checks"]["steps"][-1]["run"] == ".ci/run"
    jobs = release["jobs"]
    assert jobs["tests"]["uses"] == "./.github/workflows/ci.yml"
    assert "workflow_call" in ci["on"]
    assert set(jobs["publish"]["needs"]) == {"tests", "wheel", "image"}
    assert jobs["image"]["needs"] == "tests"


def test_images_are_built_for_cuda_cpus_and_clusters() -> None:
    job = load("release.yml")["jobs"]["image"]
    variants = {each["variant"]: each for each in job["strategy"]["matrix"]["include"]}
    assert set(variants) == {"cuda", "cpu", "cluster"}
    assert "cluster" in variants["cluster"]["extras"]
    assert variants["cpu"]["torch_index"]
    (build,) = [step for step in job["steps"] if "build-push" in step.get("uses", "")]
    given = {line.split("=")[0] for line in build["with"]["build-args"].splitlines()}
    assert given == {argument.split("=")[0] for argument in arguments("ARG")}
    assert (build["with"]["sbom"], build["with"]["provenance"]) == ("true", "mode=max")
    assert any("cosign sign" in step.get("run", "") for step in job["steps"])


def test_the_wheel_is_built_from_the_pins() -> None:
    steps = load("release.yml")["jobs"]["wheel"]["steps"]
    script = "\n".join(step.get("run", "") for step in steps)
    for name in re.findall(r"requirements/\w+\.txt|deploy/helm/[\w-]+", script):
        assert (ROOT / name).exists(), name
    version = re.search(r"sed -n '(.*)' (\S+)\)", script)
    assert version
    found = subprocess.run(
        ["sed", "-n", version[1], ROOT / version[2]], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", found.stdout)
