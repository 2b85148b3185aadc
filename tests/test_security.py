"""SECURITY.md names existing tests and settings, and their real defaults."""

from __future__ import annotations

import ast
import re
from functools import cache

from inference_server.settings import Settings
from inference_server.settings.types import PREFIX
from tests.conftest import SYSTEM
from tests.readme import ROOT

TEXT = (ROOT / "SECURITY.md").read_text()
TEST = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")
TESTS = sorted(set(TEST.findall(TEXT)))
SETTINGS = sorted(set(re.findall(r"`INFERENCE_([A-Z0-9_]+)(?:=([^`]*))?`", TEXT)))
MARK = re.compile(r"\bmark\.(?:system|cluster|slow)\b")
ROWS = [line for line in TEXT.splitlines() if re.match(r"\| (?!promise)\S", line)]


@cache
def names_in(file: str) -> set[str]:
    """Return the functions and classes of a module; methods as `Class::name`."""
    found = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}::{item.name}"
                for item in node.body
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return found


def test_named_tests_exist() -> None:
    for file, name in TESTS:
        assert name in names_in(file), f"{file}::{name}"
        assert name.rsplit("::", 1)[-1].startswith(("test_", "Test"))


def test_named_settings_exist_with_their_defaults() -> None:
    for name, default in SETTINGS:
        assert name.lower() in Settings.model_fields, f"there is no {PREFIX}{name}"
        # `INFERENCE_AUTH=off` is not the default, but the value to avoid.
        if default and (name, default) != ("AUTH", "off"):
            actual = Settings.model_fields[name.lower()].default
            told = str(actual).lower() if isinstance(actual, bool) else actual
            if isinstance(told, tuple):
                told = ",".join(told)
            assert default == (f"{told:g}" if isinstance(told, float) else str(told)), name


@cache
def names_outside_make_test(file: str) -> set[str]:
    """Return the names in a module that `make test` excludes; an empty name means all."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            marks = " ".join(map(ast.unparse, node.decorator_list))
            found |= {node.name} if MARK.search(marks) else set()
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            found |= {""} if MARK.search(ast.unparse(node.value)) else set()
    return found


def tier_of(file: str, name: str) -> str:
    """Return the make target that runs a test: `test`, `test-all` or `test-image`."""
    if file == "tests/deploy/test_image.py":
        return "test-image"
    marked = names_outside_make_test(file) & {"", *name.split("::")}
    return "test-all" if marked or f"{file}::{name}".startswith(SYSTEM) else "test"


def test_every_promise_has_a_test_its_tier_and_a_change_that_fails_it() -> None:
    assert len(ROWS) > 30
    for row in ROWS:
        promise, _, tests, tier, change = (cell.strip() for cell in row.strip()[1:-1].split("|"))
        assert promise, row
        assert "`tests/" in tests, row
        tiers = {tier_of(file, name) for file, name in TEST.findall(tests)}
        assert tier == ", ".join(f"`{each}`" for each in sorted(tiers)), row
        assert change, row


def test_every_reference_has_a_known_form() -> None:
    assert TEXT.count("`tests/") == len(TEST.findall(TEXT))
