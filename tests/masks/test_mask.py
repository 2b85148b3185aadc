from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference_server.masks import Mask, clip, intersection, outside
from tests.masks.planes import EXAMPLES, Plane, examples, planes


def check(plane: Plane) -> None:
    mask = Mask.from_plane(plane)
    assert mask.size == plane.shape
    assert mask.area == plane.sum()
    assert mask.is_empty == (not plane.any())
    np.testing.assert_array_equal(mask.to_plane(), plane)

    ys, xs = np.nonzero(plane)
    box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, 0, 0)
    assert mask.box == box
    x0, y0, x1, y1 = box
    np.testing.assert_array_equal(mask.crop, plane[y0:y1, x0:x1])
    assert mask.crop.dtype == np.bool_


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    check(examples()[name])


@settings(deadline=None)
@given(planes())
def test_plane_round_trip(plane: Plane) -> None:
    check(plane)


@settings(deadline=None)
@given(planes(), st.data())
def test_pixels_of_a_larger_box(plane: Plane, data: st.DataObject) -> None:
    height, width = plane.shape
    mask = Mask.from_plane(plane)
    x0, y0, x1, y1 = mask.box
    x0, y0 = data.draw(st.integers(0, x0)), data.draw(st.integers(0, y0))
    x1, y1 = data.draw(st.integers(x1, width)), data.draw(st.integers(y1, height))
    np.testing.assert_array_equal(mask.pixels((x0, y0, x1, y1)), plane[y0:y1, x0:x1])


@settings(deadline=None)
@given(planes(), st.data())
def test_flips_in_any_order_and_number(plane: Plane, data: st.DataObject) -> None:
    mask = Mask.from_plane(plane)
    pairs = data.draw(st.lists(st.integers(0, plane.size), max_size=8))
    flips = np.concatenate([mask.runs.ravel(), np.array(pairs * 2, np.int64)])
    flips = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(flips)
    np.testing.assert_array_equal(Mask.from_flips(flips, mask.size).runs, mask.runs)


@settings(deadline=None)
@given(st.data())
def test_intersection_is_that_of_the_planes(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 16), st.integers(1, 16)))
    a, b = data.draw(planes(size)), data.draw(planes(size))
    mask_a, mask_b = Mask.from_plane(a), Mask.from_plane(b)
    assert intersection(mask_a, mask_b) == int((a & b).sum())


@settings(deadline=None)
@given(st.data())
def test_clip_is_that_of_the_planes(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 16), st.integers(1, 16)))
    a, b = data.draw(planes(size)), data.draw(planes(size))
    both = clip(Mask.from_plane(a), Mask.from_plane(b))
    assert both.size == size
    np.testing.assert_array_equal(both.runs, Mask.from_plane(a & b).runs)


def test_clip_refuses_masks_of_different_images() -> None:
    with pytest.raises(ValueError, match="different sizes"):
        clip(Mask.empty((2, 3)), Mask.empty((3, 2)))


def test_runs_of_an_image_that_no_plane_could_hold() -> None:
    size = (1 << 26, 1 << 26)  # 2 ** 52 pixels, whose indices are exact in float64
    a = Mask(np.array([[1, 1 << 52]]), size)
    b = Mask(np.array([[0, 3], [(1 << 52) - 1, 1 << 52]]), size)
    assert intersection(a, b) == 3
    assert a.area == (1 << 52) - 1


def test_empty() -> None:
    mask = Mask.empty((3, 4))
    assert mask.is_empty
    assert mask.area == 0
    assert mask.box == (0, 0, 0, 0)
    assert mask.crop.shape == (0, 0)
    assert mask.to_plane().shape == (3, 4)
    assert intersection(mask, mask) == 0


@pytest.mark.parametrize(
    "runs",
    [
        np.array([[-1, 1]]),
        np.array([[0, 13]]),
        np.array([[1, 1]]),
        np.array([[2, 1]]),
        np.array([[0, 1], [1, 2]]),  # adjacent runs must be one
        np.array([[3, 4], [0, 1]]),
        np.array([[0, 1]], np.int32),
        np.array([0, 1]),
        np.array([[0, 1, 2]]),
    ],
)
def test_runs_that_cannot_be_are_refused(runs: NDArray[np.int64]) -> None:
    with pytest.raises(ValueError, match="runs"):
        Mask(runs, (3, 4))


def test_masks_of_different_images_do_not_intersect() -> None:
    with pytest.raises(ValueError, match="different sizes"):
        intersection(Mask.empty((3, 4)), Mask.empty((4, 3)))


corners = st.tuples(*[st.floats(-5, 25, width=32)] * 4)


@settings(deadline=None)
@given(size=st.tuples(st.integers(1, 16), st.integers(1, 16)), boxes=st.lists(corners, max_size=4))
def test_outside_is_where_no_box_holds_the_centre(
    size: tuple[int, int], boxes: list[tuple[float, float, float, float]]
) -> None:
    y, x = np.indices(size) + 0.5
    plane = np.ones(size, np.bool_)
    for x0, y0, x1, y1 in boxes:
        plane &= ~((x >= x0) & (x < x1) & (y >= y0) & (y < y1))
    mask = outside(np.array(boxes, np.float32).reshape(-1, 4), size)
    np.testing.assert_array_equal(mask.runs, Mask.from_plane(plane).runs)


def test_outside_of_a_box_beyond_all_numbers_of_pixels() -> None:
    boxes = np.array([[-1e9, -1e9, 1e9, 1e9]], np.float32)
    assert outside(boxes, (8000, 6000)).is_empty
