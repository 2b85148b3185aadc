"""Write the pins: `make pins`, in an environment that works.

The versions are those of the environment that runs this, narrowed to what the dependencies in
`pyproject.toml` reach. To raise one, install it there, run the tests, and run this.
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
"""What building the source distributions among the dependencies takes."""

INSTEAD = {"opencv-python": "opencv-python-headless"}
"""The same module, without the display libraries that a server does not have."""

RESOLVED_BY_TORCH = ("nvidia-", "cuda-", "triton")
"""Torch names the versions of these itself, and only on the platforms that have them."""

UNUSED = ("py-spy",)
"""Ray lists it for its dashboard, which attaches it to processes: a server has no need of it."""

HEADERS = {
    "serve": "# What serving takes. Written by `make pins`; see requirements/pin.py.\n",
    "tracing": "# What traces take besides; see serve.txt and docs/operations.md.\n-r serve.txt\n",
    "cluster": "# What a cluster takes besides; see serve.txt and docs/cluster.md.\n-r serve.txt\n",
    "dev": "# What tests, checks and training take besides; see serve.txt.\n-r serve.txt\n",
}


def _edges(requirement: Requirement) -> Iterator[Requirement]:
    """What a requirement requires here, with the extras that it asks for."""
    for line in distribution(requirement.name).requires or ():
        needed = Requirement(line)
        extras = ("", *requirement.extras)
        marker = needed.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            yield needed


def closure(requirements: Iterable[str]) -> dict[str, str]:
    """Everything that requirements reach in this environment.

    Args:
        requirements: as in `pyproject.toml`.

    Returns:
        Versions by canonical name.
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
