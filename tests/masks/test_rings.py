"""Outlines of pixels, compared with those that GDAL traces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray
from rasterio.features import shapes

from inference_server.masks import Mask, mask_rings
from tests.masks.planes import EXAMPLES, Plane, examples, planes

Ring = tuple[tuple[int, int], ...]


def cycle(ring: NDArray[Any]) -> Ring:
    """The points of a closed ring in their order, from the smallest on."""
    points = [(int(x), int(y)) for x, y in ring]
    assert points[0] == points[-1]
    least = points.index(min(points))
    return tuple(points[least:-1] + points[:least])


def traced_by_gdal(plane: Plane) -> list[tuple[Ring, list[Ring]]]:
    found = []
    for geometry, _ in shapes(plane.astype(np.uint8), mask=plane, connectivity=4):
        outer, *holes = geometry["coordinates"]
        found.append((cycle(outer), sorted(map(cycle, holes))))
    return sorted(found)


def assert_same(plane: Plane) -> None:
    parts = mask_rings(Mask.from_plane(plane))
    found = sorted((cycle(outer), sorted(map(cycle, holes))) for outer, *holes in parts)
    assert found == traced_by_gdal(plane)  # also the direction of each ring
    firsts = [(int(outer[0, 1]), int(outer[0, 0])) for outer, *_ in parts]
    assert firsts == sorted(firsts)
    assert all(plane[place] for place in firsts)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    assert_same(examples()[name])


@settings(deadline=None, max_examples=300)
@given(planes())
def test_any_plane(plane: Plane) -> None:
    assert_same(plane)


def test_holes_that_touch_at_a_corner_are_rings_of_their_own() -> None:
    plane = np.ones((5, 6), np.bool_)
    plane[1, 1] = plane[2, 2] = plane[3, 1] = plane[4, 2] = False  # the last one is not enclosed
    assert_same(plane)
    ((outer, *holes),) = mask_rings(Mask.from_plane(plane))
    assert sorted(len(ring) for ring in holes) == [5, 5, 5]
    assert outer[0].tolist() == [0, 0]


def test_parts_that_touch_at_a_corner_are_apart() -> None:
    parts = mask_rings(Mask.from_plane(np.eye(3, dtype=np.bool_)))
    assert [part[0].tolist() for part in parts] == [
        [[i, i], [i, i + 1], [i + 1, i + 1], [i + 1, i], [i, i]] for i in range(3)
    ]
