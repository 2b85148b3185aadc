from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings

from inference_server.masks import Mask, polygons
from tests.masks.planes import EXAMPLES, Plane, examples, planes


def check(plane: Plane) -> None:
    expected, _ = cv2.findContours(
        plane.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    actual = polygons(Mask.from_plane(plane))
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
    assert len(polygons(Mask.from_plane(examples()["ring"]))) == 1
