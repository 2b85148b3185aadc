"""docs/architecture.md names every module of the package."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "inference_server"
ROW = re.compile(r"^\| `([\w/]+(?:\.py|/))` \|", re.MULTILINE)


def test_every_module_is_on_the_map() -> None:
    named = ROW.findall((ROOT / "docs" / "architecture.md").read_text())
    modules = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if not path.name.startswith("__") and "migrations/versions" not in path.as_posix()
    }
    assert len(named) == len(set(named)), "a module is listed twice"
    assert {name for name in named if name.endswith(".py")} == modules


def test_modules_are_short() -> None:
    """No module of the package is much longer than 400 lines."""
    lengths = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > 420} == {}
