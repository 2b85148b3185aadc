"""The benchmark of a word and a click: one model beside two."""

from __future__ import annotations

from benchmarks.one_model import run


def test_one_model_encodes_once() -> None:
    report = run(small=True)
    one, two = report.tables[0].rows
    assert one["way"] == "one model"
    assert float(one["weights (MB)"]) < float(two["weights (MB)"])
    ratios = {
        row["figure"]: float(row["one model / two models (x)"]) for row in report.tables[1].rows
    }
    assert len(ratios) == 5
    assert ratios["made for the first click after a word (s)"] < 1
    assert [goal.unit for goal in report.goals] == ["x", "x"]
