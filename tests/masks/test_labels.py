from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference_server.masks import LabelPlane, Mask, extents, label_plane
from tests.masks.planes import Plane, planes

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def block(y0: int, y1: int, x0: int, x1: int, size: tuple[int, int] = (6, 8)) -> Mask:
    plane = np.zeros(size, np.bool_)
    plane[y0:y1, x0:x1] = True
    return Mask.from_plane(plane)


def slow_extents(plane: LabelPlane) -> list[tuple[int, tuple[int, int, int, int]]]:
    found = []
    for value in sorted(set(plane.ravel().tolist()) - {0}):
        ys, xs = np.nonzero(plane == value)
        found.append((value, (int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max()))))
    return found


def drawn(data: st.DataObject, size: tuple[int, int]) -> list[Plane]:
    return [data.draw(planes(size)) for _ in range(data.draw(st.integers(0, 4)))]


def test_the_later_mask_wins() -> None:
    plane = label_plane([block(0, 3, 0, 4), block(2, 5, 2, 6), Mask.empty((6, 8))], (6, 8))
    assert plane.dtype == np.uint8
    np.testing.assert_array_equal(
        plane,
        [
            [1, 1, 1, 1, 0, 0, 0, 0],
            [1, 1, 1, 1, 0, 0, 0, 0],
            [1, 1, 2, 2, 2, 2, 0, 0],
            [0, 0, 2, 2, 2, 2, 0, 0],
            [0, 0, 2, 2, 2, 2, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0],
        ],
    )


@settings(deadline=None)
@given(st.data())
def test_ids_and_union_are_those_of_planes(data: st.DataObject) -> None:
    size = data.draw(SIZES)
    parts = drawn(data, size)
    masks = [Mask.from_plane(part) for part in parts]
    expected = np.zeros(size, np.uint8)
    for i, part in enumerate(parts):
        expected[part] = i + 1
    np.testing.assert_array_equal(label_plane(masks, size), expected)
    union = label_plane(masks, size, unique=False)
    assert union.dtype == np.uint8
    np.testing.assert_array_equal(union, np.where(expected, 255, 0))
    # `foreground` has no effect on unique ids.
    np.testing.assert_array_equal(label_plane(masks, size, foreground=False), expected)


@settings(deadline=None)
@given(st.data())
def test_without_foreground_all_but_the_outlines_is_255(data: st.DataObject) -> None:
    size = data.draw(SIZES)
    parts = drawn(data, size)
    outlines = np.zeros(size, np.bool_)
    for part in parts:
        whole = part.astype(np.uint8)
        outlines |= whole != cv2.erode(whole, np.ones((3, 3), np.uint8))
    plane = label_plane(
        [Mask.from_plane(part) for part in parts], size, unique=False, foreground=False
    )
    assert plane.dtype == np.uint8
    np.testing.assert_array_equal(plane, np.where(outlines, 0, 255))


def test_the_edge_of_the_image_is_no_outline() -> None:
    plane = label_plane([block(0, 4, 0, 4)], (6, 8), unique=False, foreground=False)
    np.testing.assert_array_equal(plane[:4, :4] == 0, [[0, 0, 0, 1]] * 3 + [[1, 1, 1, 1]])
    assert (plane[4:] == 255).all()
    assert (plane[:, 4:] == 255).all()


@pytest.mark.parametrize(
    ("masks", "dtype"),
    [(0, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)],
)
def test_ids_are_as_wide_as_need_be(masks: int, dtype: type) -> None:
    plane = label_plane([Mask.empty((1, 2))] * (masks - 1) + [block(0, 1, 1, 2, (1, 2))], (1, 2))
    if masks:
        assert plane.dtype == dtype
        assert plane.tolist() == [[0, masks]]
    assert label_plane([], (1, 2)).tolist() == [[0, 0]]


def test_a_mask_of_another_image_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit an image"):
        label_plane([Mask.empty((3, 4))], (4, 3))


@settings(deadline=None)
@given(st.data())
def test_extents_are_those_of_a_loop(data: st.DataObject) -> None:
    size = data.draw(SIZES)
    dtype = data.draw(st.sampled_from(["uint8", "uint16", "uint32"]))
    highest = data.draw(st.sampled_from([1, 3, 255, int(np.iinfo(dtype).max)]))
    values = np.random.default_rng(data.draw(st.integers(0, 9999)))
    ids: NDArray[np.int64] = values.integers(0, min(highest, 5), size, endpoint=True)
    plane = np.where(ids == 5, highest, ids).astype(dtype)
    assert extents(plane) == slow_extents(plane)


def test_extents_of_nothing() -> None:
    assert extents(np.zeros((3, 4), np.uint8)) == []
    assert extents(np.zeros((0, 4), np.uint8)) == []
    assert extents(np.zeros((4, 0), np.uint8)) == []


def test_extents_of_thousands() -> None:
    plane = np.arange(1, 90_001, dtype=np.uint32).reshape(300, 300)
    found = extents(plane)
    assert [value for value, _ in found] == list(range(1, 90_001))
    assert found[301] == (302, (1, 1, 1, 1))
