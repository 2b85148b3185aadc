"""The benchmark of a click: which masks are compared with the reference's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from benchmarks import click

SIZE = (40, 30)


def rle(width: int, height: int) -> dict[str, Any]:
    """A rectangle at the top left corner."""
    plane = np.zeros(SIZE[::-1], np.uint8, order="F")
    plane[:height, :width] = 1
    encoded = coco.encode(plane)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


@pytest.mark.parametrize(
    ("found", "expected", "overlap"),
    [
        ((8, 8), (8, 8), 1.0),
        ((9, 8), (8, 8), 64 / 72),
        ((4, 3), (8, 8), 12 / 64),
        ((13, 1), (12, 1), 1.0),  # a pixel more or less on the background
        ((9, 7), (0, 0), 1.0),
        ((8, 8), (0, 0), 0.0),  # a mask that the reference does not have is a difference
    ],
)
def test_only_masks_of_a_few_pixels_are_not_compared(
    found: tuple[int, int], expected: tuple[int, int], overlap: float
) -> None:
    assert click._iou(rle(*found), rle(*expected), SIZE) == pytest.approx(overlap)
    assert click._iou(rle(*expected), rle(*found), SIZE) == pytest.approx(overlap)
