"""The Dockerfile and the systemd unit refer to existing files, settings and commands.

`test_image.py` builds and runs the image.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from inference_server.cli import main
from inference_server.observability.tracing import ENDPOINTS
from inference_server.settings import Settings
from inference_server.settings.types import PREFIX
from tests.api.serving import Running, until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
VARIABLES = {PREFIX + name.upper() for name in Settings.model_fields}
OTHERS = {"HF_TOKEN", "HF_HOME", *ENDPOINTS}
"""Variables that the server's libraries read."""


def steps() -> list[tuple[str, str]]:
    """Return the Dockerfile as (instruction, arguments)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def arguments(instruction: str) -> list[str]:
    return [given for name, given in steps() if name == instruction]


def environment() -> dict[str, str]:
    """Return the variables that the image sets."""
    last = arguments("ENV")[-1]
    return dict(pair.split("=", 1) for pair in shlex.split(last))


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    """Load a Compose file."""
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return loaded


def settings_in(text: str) -> set[str]:
    return set(re.findall(rf"\b{PREFIX}[A-Z0-9_]+\b", text))


@pytest.mark.parametrize(
    "file",
    [
        ROOT / "Dockerfile",
        *sorted(file for file in DEPLOY.rglob("*") if file.is_file()),
        ROOT / "docs/operations.md",
        ROOT / "docs/deployment.md",
    ],
    ids=lambda file: file.name,
)
def test_named_settings_exist(file: Path) -> None:
    assert settings_in(file.read_text()) <= VARIABLES


def test_copied_files_exist_and_are_in_the_build_context() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in rules
    sent = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = [
        source
        for given in arguments("COPY")
        if not given.startswith("--from=")
        for source in given.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in sent, source
    # Nothing else is sent, so secrets and data of a checkout stay out of the image.
    assert sent == {source.split("/")[0] for source in copied}


def test_all_package_data_is_installed() -> None:
    """The image has no checkout, so undeclared files are missing."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    installed = {
        file
        for package, patterns in declared["package-data"].items()
        for pattern in patterns
        for file in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    tracked = subprocess.run(
        ["git", "ls-files", "inference_server", "schemas"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert tracked
    data = {ROOT / name for name in tracked if not name.endswith((".py", ".md"))}
    assert data - installed == set()


def test_the_image_runs_the_server_as_an_unprivileged_user() -> None:
    names = [name for name, _ in steps()]
    assert names.count("FROM") == 2
    last = names[len(names) - names[::-1].index("FROM") :]
    assert last.index("USER") < last.index("ENTRYPOINT")
    (user,) = arguments("USER")
    (making,) = [given for given in arguments("RUN") if "useradd" in given]
    assert int(user) > 0
    assert re.search(rf"useradd .*--uid {user} ", making)
    (entry,) = arguments("ENTRYPOINT")
    (command,) = arguments("CMD")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert json.loads(entry)[0] in scripts
    assert json.loads(command)[0] in main.commands
    volumes = json.loads(arguments("VOLUME")[0])
    kept = environment()
    assert kept["INFERENCE_DATA_DIR"] in volumes
    assert kept["HF_HOME"].startswith("/weights")
    assert "/weights" in volumes
    assert kept["INFERENCE_HOST"] == "0.0.0.0"
    port = Settings.model_fields["port"].default
    assert arguments("EXPOSE") == [str(port)]
    assert not any("TOKEN" in given or "KEY" in given for name, given in steps() if name == "ENV")


def test_the_health_check_reports_readiness(server: Running) -> None:
    (given,) = arguments("HEALTHCHECK")
    command = json.loads(given[given.index("[") :])
    assert command[0] == "python"
    ast.parse(command[2])

    def status(port: str) -> int:
        return subprocess.run(
            [sys.executable, *command[1:]],
            env={"INFERENCE_PORT": port},
            capture_output=True,
            check=False,
        ).returncode

    # Container engines also retry before they report a server as unhealthy.
    until(lambda: status(server.url.rsplit(":", 1)[1]) == 0)
    assert status("1") != 0


def test_stop_timeouts_cover_a_drain() -> None:
    least = Settings.model_fields["drain_seconds"].default
    least += Settings.model_fields["shutdown_timeout"].default
    grace = compose()["services"]["inference-server"]["stop_grace_period"]
    unit = (DEPLOY / "inference-server.service").read_text()
    seconds = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert seconds
    assert min(int(grace.removesuffix("s")), int(seconds[1])) >= least + 20


def test_the_unit_starts_the_server(tmp_path: Path) -> None:
    text = (DEPLOY / "inference-server.service").read_text()
    start = re.search(r"^ExecStart=(\S+) (\w+)$", text, re.MULTILINE)
    assert start
    assert Path(start[1]).name == "inference-server"
    assert start[2] in main.commands
    for name in ("DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict"):
        assert f"\n{name}\n" in text
    if shutil.which("systemd-analyze"):
        unit = tmp_path / "inference-server.service"
        unit.write_text(text.replace(start[1], "/bin/true"))
        done = subprocess.run(
            ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
