from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_server.masks import Layer, Mask, id_type, label_plane, label_strips
from tests.masks.planes import Plane, planes

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def block(y0: int, y1: int, x0: int, x1: int, size: tuple[int, int] = (6, 8)) -> Mask:
    plane = np.zeros(size, np.bool_)
    plane[y0:y1, x0:x1] = True
    return Mask.from_plane(plane)


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


def test_the_order_says_which_mask_is_on_top() -> None:
    masks = [block(0, 3, 0, 4), block(1, 4, 2, 6), block(2, 3, 3, 4)]
    plane = label_plane(masks, (6, 8), order=[2, 1, 0])
    assert [(plane == i).sum() for i in (1, 2, 3)] == [12, 8, 0]
    plane = label_plane(masks, (6, 8), order=[1, 0, 2])
    assert [(plane == i).sum() for i in (1, 2, 3)] == [11, 8, 1]


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
@given(st.data(), st.integers(1, 5), st.booleans(), st.booleans())
def test_strips_are_those_of_the_plane(
    data: st.DataObject, rows: int, unique: bool, foreground: bool
) -> None:
    size = data.draw(SIZES)
    masks = [Mask.from_plane(part) for part in drawn(data, size)]
    order = data.draw(st.permutations(range(len(masks))))
    expected = label_plane(masks, size, order=order, unique=unique, foreground=foreground)
    layers = [Layer(i + 1, mask, (order.index(i), 0, (0, 0, 0, 0))) for i, mask in enumerate(masks)]
    asked: list[range] = []

    def touching(seen: range) -> list[Layer]:
        asked.append(seen)
        return layers

    strips = list(
        label_strips(touching, size, np.uint8, rows=rows, unique=unique, foreground=foreground)
    )
    assert {strip.dtype for strip in strips} == {np.dtype(np.uint8)}
    assert [len(strip) for strip in strips[:-1]] == [rows] * (len(strips) - 1)
    np.testing.assert_array_equal(np.concatenate(strips), expected)
    assert len(asked) == len(strips)
    assert max(map(len, asked)) <= rows + 2


@pytest.mark.parametrize("masks", [255, 256, 65_535, 65_536])
def test_strips_have_the_type_of_their_ids(masks: int) -> None:
    layer = Layer(masks, block(2, 5, 2, 6), (0.5, 0, (2, 2, 6, 5)))
    (strip,) = label_strips(lambda rows: [layer], (6, 8), id_type(masks))
    assert strip.max() == masks
