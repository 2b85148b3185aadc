"""Masks of windows in the plane of a larger image, compared with planes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.masks import Mask, enlarged, moved, union, within
from tests.masks.planes import EXAMPLES, Plane, examples, planes


def shifted(plane: Plane, corner: tuple[int, int], size: tuple[int, int]) -> Plane:
    whole = np.zeros(size, np.bool_)
    x, y = corner
    whole[y : y + plane.shape[0], x : x + plane.shape[1]] = plane
    return whole


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("room", [(0, 0, 0, 0), (3, 0, 2, 0), (0, 5, 0, 4), (2, 3, 1, 6)])
def test_examples_are_moved(name: str, room: tuple[int, int, int, int]) -> None:
    """Also those whose runs continue from column to column, with and without room above."""
    plane = examples()[name]
    left, above, right, below = room
    size = plane.shape[0] + above + below, plane.shape[1] + left + right

    mask = moved(Mask.from_plane(plane), (left, above), size)

    assert mask.size == size
    assert np.array_equal(mask.to_plane(), shifted(plane, (left, above), size))


@given(planes(), st.tuples(*[st.integers(0, 6)] * 4))
def test_masks_are_moved(plane: Plane, room: tuple[int, int, int, int]) -> None:
    left, above, right, below = room
    size = plane.shape[0] + above + below, plane.shape[1] + left + right
    found = moved(Mask.from_plane(plane), (left, above), size).to_plane()
    assert np.array_equal(found, shifted(plane, (left, above), size))


@pytest.mark.parametrize("corner", [(-1, 0), (0, -1), (1, 0), (0, 1)])
def test_a_window_outside_the_image_is_refused(corner: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="exceeds"):
        moved(Mask.empty((5, 5)), corner, (5, 5))


@given(planes(), st.integers(1, 60), st.integers(1, 60))
def test_masks_are_enlarged_to_the_nearest_pixel(plane: Plane, height: int, width: int) -> None:
    (old_height, old_width) = plane.shape
    rows = (2 * np.arange(height) + 1) * old_height // (2 * height)
    columns = (2 * np.arange(width) + 1) * old_width // (2 * width)

    found = enlarged(Mask.from_plane(plane), (height, width))

    assert np.array_equal(found.to_plane(), plane[np.ix_(rows, columns)])


@given(st.data())
def test_the_part_in_a_box_is_cut_out(data: st.DataObject) -> None:
    plane = data.draw(planes())
    height, width = plane.shape
    x0, y0 = data.draw(st.integers(0, width)), data.draw(st.integers(0, height))
    x1, y1 = data.draw(st.integers(x0, width)), data.draw(st.integers(y0, height))
    found = within(Mask.from_plane(plane), (x0, y0, x1, y1))
    assert found.size == (y1 - y0, x1 - x0)
    assert np.array_equal(found.to_plane(), plane[y0:y1, x0:x1])


@given(st.lists(planes((9, 7)), min_size=1, max_size=5))
def test_the_union_has_the_pixels_of_all(many: list[Plane]) -> None:
    found = union([Mask.from_plane(plane) for plane in many])
    assert np.array_equal(found.to_plane(), np.any(many, axis=0))


def test_a_union_of_different_images_is_refused() -> None:
    with pytest.raises(ValueError, match="different sizes"):
        union([Mask.empty((5, 5)), Mask.empty((5, 6))])
