"""Write the pins: run `make pins` in a working environment.

The versions are those installed in the running environment, limited to what the dependencies in
`pyproject.toml` require, directly or not. To upgrade a package, install it, run the tests, then run
this.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent

BUILD = ("setuptools", "wheel")
"""Build requirements of the source distributions among the dependencies."""

INSTEAD = {"opencv-python": "opencv-python-headless"}
"""Replacements: the same module without display libraries, which servers lack."""

RESOLVED_BY_TORCH = ("nvidia-", "cuda-", "triton")
"""Torch pins these itself, on the platforms that have them."""

UNUSED = ("py-spy",)
"""Ray lists it for its dashboard, which a server does not need."""

HEADERS = {
    "serve": "# Runtime dependencies. Written by `make pins`; see requirements/pin.py.\n",
    "tracing": "# Added by tracing; see serve.txt and docs/operations.md.\n-r serve.txt\n",
    "cluster": "# Added by a cluster; see serve.txt and docs/cluster.md.\n-r serve.txt\n",
    "dev": "# Added by tests, checks and training; see serve.txt.\n-r serve.txt\n",
}


def _edges(requirement: Requirement) -> Iterator[Requirement]:
    """Yield the requirements of an installed package, including those of the requested extras."""
    for line in distribution(requirement.name).requires or ():
        needed = Requirement(line)
        extras = ("", *requirement.extras)
        marker = needed.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            yield needed


def closure(requirements: Iterable[str]) -> dict[str, str]:
    """Collect all packages that requirements need, directly or not.

    Args:
        requirements: requirement lines as in `pyproject.toml`.

    Returns:
        Installed versions by canonical name.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        requirement.name = INSTEAD.get(name, name)
        mark = f"{requirement.name}{sorted(requirement.extras)}"
        if mark in seen or requirement.name.startswith(RESOLVED_BY_TORCH + UNUSED):
            continue
        seen.add(mark)
        found[requirement.name] = distribution(requirement.name).version
        waiting.extend(_edges(requirement))
    return found


def main() -> None:
    """Rewrite the files of `HEADERS`."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    serve = closure([*project["dependencies"], *BUILD])

    def besides(*extras: str) -> dict[str, str]:
        found = closure(line for extra in extras for line in optional[extra])
        return {name: version for name, version in found.items() if name not in serve}

    files = {
        "serve": serve,
        "tracing": besides("tracing"),
        "cluster": besides("cluster"),
        "dev": besides(*optional),
    }
    for file, pins in files.items():
        lines = "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))
        (HERE / f"{file}.txt").write_text(HEADERS[file] + lines)
        print(f"requirements/{file}.txt: {len(pins)} pins")


if __name__ == "__main__":
    main()
