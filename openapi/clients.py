"""Writes what is generated in `clients/` anew, from the OpenAPI document beside this file.

The same document and the same versions of the generators (`requirements/dev.txt` and
`clients/typescript/package-lock.json`) give the same bytes.

    python openapi/clients.py    takes Node and npm; `make clients` runs it
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "openapi" / "openapi.json"
PYTHON = Path("clients/python")
TYPESCRIPT = Path("clients/typescript")
PACKAGE = "inference_server_client"

_FORMS = (  # of pyproject.toml, package.json and package-lock.json; the lock has it twice
    (PYTHON / "pyproject.toml", r'^(version = ")[^"]*', 1),
    (TYPESCRIPT / "package.json", r'^(  "version": ")[^"]*', 1),
    (TYPESCRIPT / "package-lock.json", r'^((?:  |      )"version": ")[^"]*', 2),
)


def python_files(document: Path = DOCUMENT) -> dict[Path, bytes]:
    """The Python package.

    Returns:
        The bytes of each file, by its path in the repository.

    Raises:
        subprocess.CalledProcessError: when the generator would leave something out.
    """
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / PACKAGE
        # Without `--fail-on-warning` an endpoint that cannot be read is left out silently.
        _run(
            *(sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning"),
            *("--path", str(document), "--meta", "none", "--output-path", str(made)),
            *("--config", str(ROOT / "openapi" / "python-client.yaml")),
        )
        ruff = (sys.executable, "-m", "ruff")
        _run(
            *ruff,
            "check",
            "--isolated",
            "--no-cache",
            "--fix",
            "--quiet",
            "--select",
            "F401,I",
            str(made),
        )
        _run(
            *ruff,
            "format",
            "--isolated",
            "--no-cache",
            "--quiet",
            "--line-length",
            "100",
            str(made),
        )
        (made / "py.typed").touch()  # the generator writes it with a pyproject.toml of its own only
        return _contents(made, PYTHON / PACKAGE)


def typescript_files(document: Path = DOCUMENT) -> dict[Path, bytes]:
    """What is generated of the TypeScript package, as `python_files` gives its own."""
    install_typescript()
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / "generated"
        _run("node", "generate.mjs", str(document.resolve()), str(made), cwd=ROOT / TYPESCRIPT)
        return _contents(made, TYPESCRIPT / "src" / "generated")


def metadata_files(document: Path = DOCUMENT) -> dict[Path, bytes]:
    """The files that say what the packages are, with the version of the server."""
    version = json.loads(document.read_bytes())["info"]["version"]
    files = {}
    for path, form, count in _FORMS:
        text = (ROOT / path).read_text()
        text = re.sub(form, rf"\g<1>{version}", text, count=count, flags=re.MULTILINE)
        files[path] = text.encode()
    return files


def install_typescript() -> None:
    """Installs what generating and compiling TypeScript takes, unless it is there."""
    package = ROOT / TYPESCRIPT
    lock, stamp = package / "package-lock.json", package / "node_modules" / ".package-lock.json"
    if stamp.exists() and stamp.stat().st_mtime >= lock.stat().st_mtime:
        return
    _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", cwd=package)


def strangers(files: Iterable[Path]) -> set[Path]:
    """What lies where these files lie, in the generated directories, without being one of them."""
    generated = (PYTHON / PACKAGE, TYPESCRIPT / "src" / "generated")
    known = set(files)
    return {
        path
        for place in generated
        if any(file.is_relative_to(place) for file in known)
        for path in _contents(ROOT / place, place)
        if path not in known and "__pycache__" not in path.parts
    }


def write(files: Mapping[Path, bytes]) -> None:
    """Writes the files that differ, and removes generated ones that are no more."""
    for path in strangers(files):
        (ROOT / path).unlink()
    for path, data in files.items():
        file = ROOT / path
        if not file.exists() or file.read_bytes() != data:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)


def _contents(directory: Path, place: Path) -> dict[Path, bytes]:
    """The files of a directory, as if it lay at this place."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {place / path.relative_to(directory): path.read_bytes() for path in files}


def _run(*command: str, cwd: Path = ROOT) -> bytes:
    """What a command prints; what it says besides is shown when it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        sys.stderr.buffer.write(done.stdout + done.stderr)
        done.check_returncode()
    return done.stdout


def main() -> None:
    """Writes all of it."""
    if not (shutil.which("node") and shutil.which("npm")):
        sys.exit("The TypeScript client is made with Node and npm: install both first.")
    files = {**python_files(), **typescript_files(), **metadata_files()}
    write(files)
    print(f"{PYTHON}, {TYPESCRIPT}: {len(files)} files")


if __name__ == "__main__":
    main()
