from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_server.masks import Mask, intersection, iou
from tests.masks.planes import EXAMPLES, Plane, examples, planes, untrimmed


def check(plane: Plane) -> None:
    mask = Mask.from_plane(plane)
    assert mask.size == plane.shape
    assert mask.area == plane.sum()
    assert mask.is_empty == (not plane.any())
    np.testing.assert_array_equal(mask.to_plane(), plane)

    ys, xs = np.nonzero(plane)
    box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, 0, 0)
    assert mask.box == box
    assert (mask.x0, mask.y0) == box[:2]
    assert mask.crop.shape == (box[3] - box[1], box[2] - box[0])

    loose = untrimmed(plane)
    assert loose.box == box
    assert loose.area == mask.area
    assert loose.is_empty == mask.is_empty
    trimmed = loose.trimmed()
    assert (trimmed.x0, trimmed.y0, trimmed.size) == (mask.x0, mask.y0, mask.size)
    np.testing.assert_array_equal(trimmed.crop, mask.crop)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    check(examples()[name])


@settings(deadline=None)
@given(planes())
def test_plane_round_trip(plane: Plane) -> None:
    check(plane)


@settings(deadline=None)
@given(st.data())
def test_intersection_and_iou_are_those_of_the_planes(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 16), st.integers(1, 16)))
    a, b = data.draw(planes(size)), data.draw(planes(size))
    both, either = int((a & b).sum()), int((a | b).sum())
    for mask_a in (Mask.from_plane(a), untrimmed(a)):
        mask_b = Mask.from_plane(b)
        assert intersection(mask_a, mask_b) == both
        assert iou(mask_a, mask_b) == (both / either if either else 0.0)


def test_the_crop_is_a_copy_and_not_a_view_of_the_plane() -> None:
    plane = np.ones((4, 5), np.bool_)
    mask = Mask.from_plane(plane)
    assert not np.shares_memory(mask.crop, plane)


def test_empty() -> None:
    mask = Mask.empty((3, 4))
    assert mask.is_empty
    assert mask.area == 0
    assert mask.box == (0, 0, 0, 0)
    assert mask.trimmed().is_empty
    assert mask.to_plane().shape == (3, 4)
    assert iou(mask, mask) == 0.0


@pytest.mark.parametrize(
    ("x0", "y0", "crop"),
    [
        (-1, 0, np.ones((1, 1), np.bool_)),
        (0, -1, np.ones((1, 1), np.bool_)),
        (4, 0, np.ones((1, 1), np.bool_)),
        (0, 2, np.ones((2, 1), np.bool_)),
        (0, 0, np.ones((1, 1), np.uint8)),
        (0, 0, np.ones(1, np.bool_)),
    ],
)
def test_a_crop_that_cannot_be_is_refused(x0: int, y0: int, crop: Plane) -> None:
    with pytest.raises(ValueError, match="crop"):
        Mask(x0, y0, crop, (3, 4))


def test_masks_of_different_images_do_not_intersect() -> None:
    with pytest.raises(ValueError, match="different sizes"):
        intersection(Mask.empty((3, 4)), Mask.empty((4, 3)))
