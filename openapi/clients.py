"""Generate the clients in `clients/` from the OpenAPI document next to this file.

The output is reproducible: the versions of the generators are pinned in `requirements/dev.txt` and
`clients/typescript/package-lock.json`.

    python openapi/clients.py    requires Node and npm; `make clients` runs it
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

# File, pattern before the version, number of occurrences.
_VERSIONS = (
    (PYTHON / "pyproject.toml", r'^(version = ")[^"]*', 1),
    (TYPESCRIPT / "package.json", r'^(  "version": ")[^"]*', 1),
    (TYPESCRIPT / "package-lock.json", r'^((?:  |      )"version": ")[^"]*', 2),
)


def python_files(document: Path = DOCUMENT) -> dict[Path, bytes]:
    """Generate the Python package.

    Args:
        document: Path of the OpenAPI document.

    Returns:
        Content of each file, by path in the repository.

    Raises:
        subprocess.CalledProcessError: If the generator fails or warns.
    """
    with tempfile.TemporaryDirectory() as directory:
        package = Path(directory) / PACKAGE
        # Without `--fail-on-warning`, the generator silently skips endpoints it cannot handle.
        _run(
            *(sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning"),
            *("--path", str(document), "--meta", "none", "--output-path", str(package)),
            *("--config", str(ROOT / "openapi" / "python-client.yaml")),
        )
        _require_bodies(package)
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
            str(package),
        )
        _run(
            *ruff,
            "format",
            "--isolated",
            "--no-cache",
            "--quiet",
            "--line-length",
            "100",
            str(package),
        )
        # The generator only writes it together with its own pyproject.toml.
        (package / "py.typed").touch()
        return _contents(package, PYTHON / PACKAGE)


def _require_bodies(package: Path) -> None:
    """Make bodies of several media types required, as the document says.

    The generator makes such a body optional, and uses `Unset` without importing it.

    Args:
        package: Directory of the generated package.
    """
    for path in (package / "api").rglob("*.py"):
        text = path.read_text()
        path.write_text(re.sub(r"(\bbody:[^,=]*?)\|\s*Unset = UNSET\s*,", r"\1,", text))


def typescript_files(document: Path = DOCUMENT) -> dict[Path, bytes]:
    """Generate the sources of the TypeScript package.

    Args:
        document: Path of the OpenAPI document.

    Returns:
        Content of each file, by path in the repository.
    """
    install_typescript()
    with tempfile.TemporaryDirectory() as directory:
        generated = Path(directory) / "generated"
        _run("node", "generate.mjs", str(document.resolve()), str(generated), cwd=ROOT / TYPESCRIPT)
        return _contents(generated, TYPESCRIPT / "src" / "generated")


def metadata_files(document: Path = DOCUMENT) -> dict[Path, bytes]:
    """Set the version of the server in the metadata of both packages.

    Args:
        document: Path of the OpenAPI document.

    Returns:
        Content of each file, by path in the repository.
    """
    version = json.loads(document.read_bytes())["info"]["version"]
    files = {}
    for path, pattern, count in _VERSIONS:
        text = (ROOT / path).read_text()
        text = re.sub(pattern, rf"\g<1>{version}", text, count=count, flags=re.MULTILINE)
        files[path] = text.encode()
    return files


def install_typescript() -> None:
    """Install the npm packages for generating and compiling, unless they are up to date."""
    package = ROOT / TYPESCRIPT
    lock, stamp = package / "package-lock.json", package / "node_modules" / ".package-lock.json"
    if stamp.exists() and stamp.stat().st_mtime >= lock.stat().st_mtime:
        return
    _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", cwd=package)


def stale_files(files: Iterable[Path]) -> set[Path]:
    """Find files in the generated directories that are no longer generated.

    Args:
        files: Paths of the generated files; only their directories are searched.
    """
    generated = (PYTHON / PACKAGE, TYPESCRIPT / "src" / "generated")
    current = set(files)
    return {
        path
        for directory in generated
        if any(file.is_relative_to(directory) for file in current)
        for path in _contents(ROOT / directory, directory)
        if path not in current and "__pycache__" not in path.parts
    }


def write(files: Mapping[Path, bytes]) -> None:
    """Write changed files and remove stale ones.

    Args:
        files: Content of each file, by path in the repository.
    """
    for path in stale_files(files):
        (ROOT / path).unlink()
    for path, data in files.items():
        file = ROOT / path
        if not file.exists() or file.read_bytes() != data:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)


def _contents(directory: Path, target: Path) -> dict[Path, bytes]:
    """Read the files of a directory.

    Args:
        directory: The directory to read.
        target: Path in the repository, by which the files are keyed.
    """
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {target / path.relative_to(directory): path.read_bytes() for path in files}


def _run(*command: str, cwd: Path = ROOT) -> bytes:
    """Run a command and return its output; print the output if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        sys.stderr.buffer.write(done.stdout + done.stderr)
        done.check_returncode()
    return done.stdout


def main() -> None:
    """Generate and write all files."""
    if not (shutil.which("node") and shutil.which("npm")):
        sys.exit("Generating the TypeScript client requires Node and npm; install both.")
    files = {**python_files(), **typescript_files(), **metadata_files()}
    write(files)
    print(f"{PYTHON}, {TYPESCRIPT}: {len(files)} files")


if __name__ == "__main__":
    main()
