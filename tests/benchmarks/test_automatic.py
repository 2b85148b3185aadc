"""The benchmark of automatic masks: it runs and compares masks; durations are not tested."""

from __future__ import annotations

import math

from benchmarks.automatic import PASS_IOU, SMALL, Ours, agreement, run
from benchmarks.sam2_models import demo
from inference_server.demo.scenes import make_scene


def test_some_candidates_pass_the_thresholds() -> None:
    ours = Ours(demo())
    image = make_scene(1, (160, 120)).image
    options = ours.thresholds(image)
    assert 0 < PASS_IOU < 1
    assert 0 < options.pred_iou_threshold < 1
    assert 0 < options.stability_threshold <= 1
    assert ours.find(image, options)


def test_agreement_of_nothing_with_something() -> None:
    assert agreement([], []) == 1.0
    rle = {"size": [2, 2], "counts": "04"}
    assert agreement([], [{"segmentation": rle}]) == 0.0


def test_the_benchmark_runs() -> None:
    report = run(small=True)
    cases, growth = report.tables
    assert len(cases.rows) == len(SMALL.cases)
    assert [row["implementation"] for row in growth.rows] == ["engine", "reference"]
    for row in cases.rows:
        assert row["engine masks"]
        assert all(math.isfinite(cell) for cell in row.values() if not isinstance(cell, str))
    assert "speed-up (x)" in report.markdown()
