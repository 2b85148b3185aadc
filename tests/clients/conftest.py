"""Fixtures: the TypeScript client, and a project that uses it as a dependency."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from openapi import clients
from tests.api.serving import ALICE, Running, RunningHere
from tests.readme import DOCS, KEY, LISTENS, ROOT

PROGRAMS = Path(__file__).parent / "typescript"
PAGE = DOCS / "clients.md"
OLDEST_NODE = 20


@dataclass(frozen=True)
class Project:
    """A directory of programs compiled with the client.

    Attributes:
        directory: directory of the programs and the compiled JavaScript.
        mistakes: compiler errors as (file, line, code).
    """

    directory: Path
    mistakes: set[tuple[str, int, int]]

    def run(self, program: str, *arguments: str) -> str:
        """Run a compiled program and return its output.

        Args:
            program: name of the file without `.ts`.
            arguments: command-line arguments.
        """
        assert not [mistake for mistake in self.mistakes if mistake[0] == f"{program}.ts"]
        return command("node", str(self.directory / f"{program}.js"), *arguments)


def command(*words: str, cwd: Path = ROOT) -> str:
    """Run a command that must succeed; return its output."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def blocks(language: str) -> list[tuple[str, str]]:
    """Return the page's code blocks in a language, each with its output."""
    fence = rf"^```{language}\n(.*?)^```$(?:\n+^```text\n(.*?)^```$)?"
    return re.findall(fence, PAGE.read_text(), re.MULTILINE | re.DOTALL)


def told(code: str, server: Running) -> str:
    """Return a code block of the page with this server's address and key."""
    return code.replace(f"http://{LISTENS}", server.url).replace(KEY, ALICE)


@pytest.fixture(scope="session")
def npm() -> Path:
    """The TypeScript client's directory, with its dependencies installed."""
    found = shutil.which("node") and shutil.which("npm")
    if not found and not os.environ.get("CI"):
        pytest.skip("Node and npm are not installed")
    version = command("node", "--version")
    assert int(version[1:].split(".")[0]) >= OLDEST_NODE, f"Node {version} is too old"
    clients.install_typescript()
    return ROOT / clients.TYPESCRIPT


@pytest.fixture(scope="session")
def project(npm: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The programs of these tests and of the page, compiled in strict mode."""
    command("npm", "run", "--silent", "prepare", cwd=npm)
    directory = tmp_path_factory.mktemp("project")
    (directory / "package.json").write_text('{"name": "mine", "private": true, "type": "module"}')
    command("npm", "install", "--silent", "--offline", "--no-audit", str(npm), cwd=directory)
    (directory / "node_modules" / "@types").symlink_to(npm / "node_modules" / "@types")
    for program in PROGRAMS.iterdir():
        shutil.copy(program, directory)
    for index, (code, _) in enumerate(blocks("typescript")):
        (directory / f"page{index}.ts").write_text(code)
    tsc = npm / "node_modules" / ".bin" / "tsc"
    arguments = (str(tsc), "--project", ".", "--strict", "--noEmit", "false", "--pretty", "false")
    done = subprocess.run(arguments, cwd=directory, capture_output=True, text=True, timeout=240)
    found = re.findall(r"^(\S+)\((\d+),\d+\): error TS(\d+)", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr  # the intended mistakes
    return Project(directory, {(file, int(line), int(code)) for file, line, code in found})


@pytest.fixture(scope="session")
def server(listening: RunningHere) -> RunningHere:
    """A server behind a socket."""
    return listening
