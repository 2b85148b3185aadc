"""The benchmark of both ways to threshold concept masks."""

from __future__ import annotations

from benchmarks.thresholds import run
from inference_server.demo.scenes import IMAGE_SIZES


def test_the_benchmark_compares_masks_of_every_size() -> None:
    report = run(small=True)
    rows = report.tables[0].rows
    assert [row["image"] for row in rows] == [f"{w} x {h}" for w, h in IMAGE_SIZES]
    for row in rows:
        assert int(row["masks"]) > 0
        assert 0 <= float(row["changed, mean (% of image)"]) < 1
        assert float(row["IoU of both, minimum"]) > 0.8
        assert float(row["IoU with truth, logits"]) > 0.5
    assert "IoU with truth, probabilities" in report.markdown()
