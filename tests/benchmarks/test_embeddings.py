"""The benchmark of half-precision embeddings tells bytes and masks as they are."""

from __future__ import annotations

from benchmarks.embeddings import DTYPES, run


def test_halves_take_half_and_change_masks_little() -> None:
    report = run(small=True)
    rows = report.tables[0].rows
    assert [row["kept in"] for row in rows] == [*DTYPES, *DTYPES]
    for whole, *halves in (rows[:3], rows[3:]):
        assert whole["mean IoU"] == 1.0
        for half in halves:
            assert float(half["kB an image"]) * 2 == float(whole["kB an image"])
            assert float(half["mean IoU"]) > 0.9
    assert all(goal.met for goal in report.goals)
    assert "| SAM 3 (demo) | float16 |" in report.markdown()
