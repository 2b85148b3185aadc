"""The benchmark of reading rasters."""

from __future__ import annotations

from benchmarks.rasters import run


def test_every_raster_is_read() -> None:
    report = run(small=True)
    rows = report.tables[0].rows
    assert [row["windows with data"] for row in rows] == [1, 4, 1, 4, 1, 2]
    assert report.goals[0].met
