"""The masks benchmark: equality with the reference, goals, and the generated logits."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import masks
from benchmarks.report import Report
from benchmarks.synthetic import AREAS, Logits, full_frame_logits, mask_logits, noise_logits
from inference_server.masks import upsample_mask


@pytest.fixture(scope="module")
def report() -> Report:
    return masks.run(small=True)


def test_results_equal_the_reference(report: Report) -> None:
    equal = [goal for goal in report.goals if "differ" in goal.what]
    assert len(equal) == 2 * len(masks.SMALL.cases)
    assert all(goal.met and goal.value == 0 for goal in equal)


def test_each_case_has_its_goals(report: Report) -> None:
    faster = [goal for goal in report.goals if goal.what.endswith("speed-up")]
    assert len(faster) == len(masks.GOALS) * len(masks.SMALL.cases)
    assert {(goal.bound, goal.sense) for goal in faster} == {(10.0, "at least")}
    memory = [goal for goal in report.goals if goal.what.endswith("peak memory")]
    assert len(memory) == len(masks.SMALL.cases)
    assert {(goal.bound, goal.sense, goal.unit) for goal in memory} == {(150.0, "at most", "MB")}


def test_growth_has_three_sizes_and_an_exponent(report: Report) -> None:
    growth = [table for table in report.tables if table.title.startswith("Cost by")]
    assert len(growth) == 2
    for table in growth:
        for row in table.rows:
            assert sum(column.endswith("(ms)") for column in row) >= 3
            assert isinstance(row["exponent"], float)


def test_the_report_is_written(report: Report) -> None:
    assert "full frame" in report.markdown()


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    kind=st.sampled_from([mask_logits, full_frame_logits, noise_logits]),
)
def test_equal_to_the_reference_at_any_size(
    seed: int, size: tuple[int, int], kind: Callable[..., Logits]
) -> None:
    found = masks.differences(kind(4, seed=seed, side=64), size)
    assert (found.far, found.results) == (0, 0)


def test_differences_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = mask_logits(3)
    monkeypatch.setattr(masks, "upsample_mask", lambda low, size: upsample_mask(low, size, 1.0))
    found = masks.differences(logits, (200, 300))
    assert found.masks == 3
    assert found.far > 0
    assert found.worst_iou < 1
    monkeypatch.setattr(masks, "upsample_mask", upsample_mask)
    monkeypatch.setattr(masks, "mask_polygons", lambda mask: [])
    assert masks.differences(logits, (200, 300)).results == 3
    monkeypatch.setattr(masks, "mask_nms", lambda *_: [])
    assert masks.differences(logits, (200, 300)).results == 4


def test_synthetic_masks_are_as_described() -> None:
    logits = mask_logits(60, seed=1)
    assert logits.dtype == np.float32
    assert logits.shape == (60, 256, 256)
    planes = logits > 0
    shares = planes.mean(axis=(1, 2))
    assert shares.min() > AREAS[0] / 2
    assert shares.max() < AREAS[1] * 1.1
    assert np.median(shares) < 0.02 < shares.mean()

    trees = [
        cv2.findContours(p.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[1] for p in planes
    ]
    holes = [(tree[0, :, 3] >= 0).sum() for tree in trees]
    parts = [(tree[0, :, 3] < 0).sum() for tree in trees]
    assert sum(h > 0 for h in holes) >= 10
    assert sum(p > 1 for p in parts) >= 10

    overlap = [
        (planes[i] & planes[i - 1]).sum() / (planes[i] | planes[i - 1]).sum()
        for i in range(3, 60, 4)
    ]
    assert np.mean(overlap) > 0.6
    np.testing.assert_array_equal(logits, mask_logits(60, seed=1))


def test_full_frames_and_noise() -> None:
    assert (full_frame_logits(4) > 0).mean() > 0.8
    assert 0.45 < (noise_logits(2) > 0).mean() < 0.55
