"""Test processes import the files of their tier only, and no test is missed by that."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import ROOT, SYSTEM, pytest_ignore_collect, selected

TEXT = (ROOT / "Makefile").read_text()
QUICK = "not system and not cluster and not slow"
PROCESSES = "system and not cluster and not image and not slow"


def test_the_makefile_has_these_tiers() -> None:
    assert re.findall(r'-m "(.+?)"', TEXT) == [QUICK, PROCESSES]


def test_every_name_is_of_a_file_a_directory_or_a_test() -> None:
    for name in SYSTEM:
        file, _, test = name.partition("[")[0].partition("::")
        assert (ROOT / file).exists(), name
        assert (ROOT / file).is_dir() == name.endswith("/"), name
        for part in filter(None, test.split("::")):
            assert re.search(rf"(def|class) {part}\b", (ROOT / file).read_text()), name


@pytest.mark.parametrize(
    ("marks", "outside", "inside"),
    [
        (QUICK, True, False),
        (PROCESSES, False, True),
        ("", True, True),
        ("not cluster and not image and not slow", True, True),
        ("cluster", True, True),
        ("system or slow", True, True),
        ("anyio and not system", True, True),
    ],
)
def test_files_without_selected_tests_are_skipped(marks: str, outside: bool, inside: bool) -> None:
    assert (selected(marks, system=False), selected(marks, system=True)) == (outside, inside)
    config: Any = SimpleNamespace(option=SimpleNamespace(markexpr=marks))

    def collected(path: str) -> bool:
        return pytest_ignore_collect(ROOT / path, config) is None

    for path in ("tests/api/test_app.py", "tests/test_executor.py"):
        assert collected(path) == outside
    for path in ("tests/api/test_load.py", "tests/e2e/test_shutdown.py"):
        assert collected(path) == inside
    for path in ("tests/test_database.py", "tests/api", "tests", "tests/e2e", "openapi/openapi.py"):
        assert collected(path), "has tests of both tiers, or is no test file"
