from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from inference_server.engines.nms import box_nms


def some_boxes(count: int, side: float) -> NDArray[np.float32]:
    """Boxes with integer coordinates, many of them equal or overlapping, some without area."""
    rng = np.random.default_rng(0)
    middle, half = rng.uniform(0, 100, (count, 2)), rng.uniform(0, side, (count, 2))
    return np.round(np.concatenate([middle - half, middle + half], axis=1)).astype(np.float32)


def brute_force(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], iou_threshold: float
) -> list[int]:
    """Non-maximum suppression by definition: IoU in float32, compared in float64."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        side = np.minimum(boxes[i, 2:], boxes[kept, 2:]) - np.maximum(boxes[i, :2], boxes[kept, :2])
        shared = side.clip(0).prod(axis=1)
        area = (boxes[kept, 2:] - boxes[kept, :2]).prod(axis=1)
        own = (boxes[i, 2:] - boxes[i, :2]).prod()
        with np.errstate(invalid="ignore"):  # two boxes without area
            if not (shared / (area + own - shared) > np.float64(iou_threshold)).any():
                kept.append(i)
    return kept


@pytest.mark.parametrize("side", [2, 20])
def test_equal_to_brute_force_with_ties_in_order(side: float) -> None:
    boxes = some_boxes(500, side)
    scores = np.random.default_rng(1).uniform(0, 1, 500).astype(np.float32).round(2)  # ties
    for threshold in (0.0, 0.3, 0.5, 0.7, 0.95, 1.0):
        found = box_nms(boxes, scores, threshold)
        assert found == brute_force(boxes, scores, threshold)
        assert len(found) < 500 or threshold >= 0.95


def test_an_iou_at_the_threshold_is_compared_in_float64() -> None:
    """7/10 in float32 is less than 0.7 in float64, and 3/10 is more than 0.3."""
    scores = np.array([0.9, 0.8], np.float32)
    for wide in range(1, 11):
        boxes = np.array([[0, 0, 10, 1], [0, 0, wide, 1]], np.float32)
        assert box_nms(boxes, scores, wide / 10) == brute_force(boxes, scores, wide / 10)
    assert box_nms(np.array([[0, 0, 10, 1], [0, 0, 7, 1]], np.float32), scores, 0.7) == [0, 1]
    assert box_nms(np.array([[0, 0, 10, 1], [0, 0, 3, 1]], np.float32), scores, 0.3) == [0]


def test_no_boxes() -> None:
    assert box_nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.5) == []
