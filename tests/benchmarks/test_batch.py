"""The benchmark of many files: it runs; durations are not tested."""

from __future__ import annotations

import math

from benchmarks.batch import run


def test_the_benchmark_runs() -> None:
    report = run(small=True)
    (table,) = report.tables
    assert [(row["search"], row["images in parallel"]) for row in table.rows] == [
        ("words", 1),
        ("words", 4),
        ("click", 1),
        ("click", 4),
    ]
    for row in table.rows:
        assert isinstance(row["seconds"], float)
        assert math.isfinite(row["seconds"])
    assert [goal.sense for goal in report.goals] == ["at least"] * 2
