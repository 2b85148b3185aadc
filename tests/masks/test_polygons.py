from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings

from inference_server.masks import Mask, mask_polygons, outline, simplified_parts
from tests.masks.planes import EXAMPLES, Plane, examples, planes


def check(plane: Plane) -> None:
    expected, _ = cv2.findContours(
        plane.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    actual = mask_polygons(Mask.from_plane(plane))
    assert len(actual) == len(expected)
    for polygon, contour in zip(actual, expected, strict=True):
        assert polygon.dtype == np.int32
        np.testing.assert_array_equal(polygon, contour[:, 0])


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    check(examples()[name])


@settings(deadline=None)
@given(planes())
def test_equal_to_opencv_on_the_plane(plane: Plane) -> None:
    check(plane)


def test_holes_are_not_traced() -> None:
    assert len(mask_polygons(Mask.from_plane(examples()["ring"]))) == 1


def test_the_outline_is_that_of_the_largest_part() -> None:
    plane = np.zeros((60, 90), np.bool_)
    plane[2:4, 2:60] = True
    plane[20:50, 30:80] = True
    plane[30:40, 40:60] = False
    corners = {(30, 20), (30, 49), (79, 49), (79, 20)}
    assert set(map(tuple, outline(Mask.from_plane(plane), 0.0).tolist())) == corners


def test_an_outline_is_as_far_off_as_it_may_be() -> None:
    plane = np.zeros((200, 200), np.uint8)
    cv2.circle(plane, (100, 90), 70, 1, -1)
    mask = Mask.from_plane(plane.astype(np.bool_))
    exact, near, far = (outline(mask, epsilon) for epsilon in (0.0, 2.0, 20.0))
    assert exact.dtype == np.int32
    assert len(exact) > len(near) > len(far) >= 3
    drawn = np.zeros_like(plane)
    cv2.fillPoly(drawn, [near], [1])
    assert (drawn & plane).sum() / (drawn | plane).sum() > 0.95


@pytest.mark.parametrize("epsilon", [0.0, 2.0, 1000.0])
def test_the_outline_of_a_pixel_is_the_pixel(epsilon: float) -> None:
    plane = np.zeros((5, 5), np.bool_)
    plane[3, 1] = True
    assert outline(Mask.from_plane(plane), epsilon).tolist() == [[1, 3]]


def test_an_empty_mask_has_no_outline() -> None:
    with pytest.raises(ValueError, match="empty"):
        outline(Mask.empty((4, 4)), 2.0)


class TestSimplifiedParts:
    def test_each_part_is_traced_along_its_edges(self) -> None:
        plane = np.zeros((60, 90), np.bool_)
        plane[2:4, 2:60] = True
        plane[20:50, 30:80] = True
        plane[30:40, 40:60] = False  # a hole
        large, small = simplified_parts(Mask.from_plane(plane), 0.5)
        assert set(map(tuple, large.tolist())) == {(30, 20), (30, 50), (80, 50), (80, 20)}
        assert set(map(tuple, small.tolist())) == {(2, 2), (2, 4), (60, 4), (60, 2)}

    def test_the_area_is_kept(self) -> None:
        plane = np.zeros((200, 200), np.uint8)
        cv2.circle(plane, (100, 90), 70, 1, -1)
        mask = Mask.from_plane(plane.astype(np.bool_))
        (near,), (far,) = (simplified_parts(mask, epsilon) for epsilon in (1.0, 20.0))
        assert len(near) > len(far) >= 3
        assert cv2.contourArea(near.astype(np.float32)) == pytest.approx(mask.area, rel=0.02)

    def test_small_parts_stay(self) -> None:
        plane = np.zeros((9, 9), np.bool_)
        plane[4, 4] = True
        for epsilon in (0.0, 9.0):
            (part,) = simplified_parts(Mask.from_plane(plane), epsilon)
            assert len(part) >= 3
        assert simplified_parts(Mask.empty((9, 9)), 1.0) == []
