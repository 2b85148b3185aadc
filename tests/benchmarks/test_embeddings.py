"""The benchmark of half-precision embeddings: sizes and masks."""

from __future__ import annotations

from benchmarks.embeddings import DTYPES, run


def test_half_precision_halves_the_size_and_keeps_masks() -> None:
    report = run(small=True)
    rows = report.tables[0].rows
    assert [row["cache dtype"] for row in rows] == [*DTYPES, *DTYPES]
    for whole, *halves in (rows[:3], rows[3:]):
        assert whole["mean IoU"] == 1.0
        for half in halves:
            assert float(half["kB per image"]) * 2 == float(whole["kB per image"])
            assert float(half["mean IoU"]) > 0.9
    assert all(goal.met for goal in report.goals)
    assert "| SAM 3 (demo) | float16 |" in report.markdown()
