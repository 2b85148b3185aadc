"""The benchmark of rasters: it runs, and windows find what single images find."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.mosaic import Mosaic
from benchmarks.tiles import Score, run, scored
from inference_server.demo.shapes import SHAPES
from inference_server.segmentation.types import Instance


def test_a_mosaic_is_drawn_the_same_in_any_rows(tmp_path: Path) -> None:
    mosaic = Mosaic.of(1, (700, 900), 12, 300)
    assert len(mosaic.shapes) == 12
    whole = mosaic.rows(0, 700)
    for placed in mosaic.shapes:
        plane = placed.mask(mosaic.size).to_plane()
        assert plane.any()
        color = whole[plane].mean(axis=0)
        assert abs(color - whole[~plane].mean(axis=0)).max() > 20
    low, high = mosaic.rows(0, 350).astype(int), mosaic.rows(350, 700).astype(int)
    assert abs(np.concatenate([low, high]) - whole).mean() < 5  # the noise differs


def test_objects_are_scored() -> None:
    mosaic = Mosaic.of(1, (700, 900), 12, 300)
    right = [
        Instance(SHAPES.index(each.shape), 0.9, each.mask(mosaic.size)) for each in mosaic.shapes
    ]
    assert scored(right, mosaic) == Score(hits=12)
    assert scored(right, mosaic).f1 == 1
    assert scored([*right[:-1], right[0]], mosaic) == Score(11, missed=1, wrong=1, twice=1)


def test_the_benchmark_runs() -> None:
    report = run(small=True)
    accuracy, growth, _, exemplars = report.tables
    for row in accuracy.rows:
        assert float(row["F1"]) > 0.8
    own, other, words = (float(row["F1"]) for row in exemplars.rows)
    assert own > 0.5
    assert words > 0.5
    assert 0 <= other <= 1  # of two pairs, too few to say more
    assert all(float(row["peak extra memory (MB)"]) < 500 for row in growth.rows)
    skipped = {row["file"]: row["skipped"] for row in growth.rows}
    assert skipped["tiles"] == 0
    assert int(skipped["half without data"]) > 0
