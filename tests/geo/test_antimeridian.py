"""Polygons that are cut at the antimeridian have the same pixels as before."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference_server.geo.antimeridian import Ring, cut
from inference_server.masks import Mask, mask_rings


def painted(polygons: list[list[Ring]], size: tuple[int, int], left: float) -> NDArray[np.int64]:
    """How often each pixel is in polygons whose x is that of the pixel's left edge plus `left`."""
    height, width = size
    x = np.arange(width) + 0.5 + left
    count = np.zeros(size, np.int64)
    for rings in polygons:
        odd = np.zeros(size, np.bool_)
        for ring in rings:
            for (x0, y0), (x1, y1) in pairwise(ring):
                assert x0 == x1 or y0 == y1
                low, high = sorted((y0, y1))
                rows = (np.arange(height) + 0.5 > low) & (np.arange(height) + 0.5 < high)
                odd[np.ix_(rows, x < x0)] ^= True
        count += odd
    return count


@given(
    st.integers(1, 9),
    st.integers(2, 12),
    st.integers(0, 11),
    st.integers(0, 2**32 - 1),
)
def test_any_polygon_is_cut(height: int, width: int, before: int, seed: int) -> None:
    """Shapes with holes, holes on the meridian, and parts that touch it or one another."""
    plane = np.random.default_rng(seed).random((height, width)) < 0.65
    left = 180.0 - min(before, width - 1) - 1
    for part in mask_rings(Mask.from_plane(plane)):
        rings: list[Ring] = [
            [[x + left, float(y)] for x, y in ring.astype(float).tolist()] for ring in part
        ]
        if rings[0] and min(x for x, _ in rings[0]) >= 180:
            continue
        parts = cut(rings, 180.0)
        west = [each for each in parts if max(x for x, _ in each[0]) > 0]
        rest = [each for each in parts if max(x for x, _ in each[0]) <= 0]
        for each in west:
            assert all(x <= 180 for ring in each for x, _ in ring)
        for each in rest:
            assert all(x >= -180 for ring in each for x, _ in ring)
        for each in parts:
            assert all(ring[0] == ring[-1] and len(ring) > 4 for ring in each)
        own = painted([rings], (height, width), left)
        found = painted(west, (height, width), left)
        found += painted(rest, (height, width), left - 360)
        np.testing.assert_array_equal(found, own)


def test_a_polygon_that_does_not_cross_stays_as_it_is() -> None:
    ring = [[170.0, 0.0], [180.0, 0.0], [180.0, 5.0], [170.0, 5.0], [170.0, 0.0]]
    assert cut([ring], 180.0) == [[ring]]


def test_slanted_edges_meet_the_meridian_at_the_right_place() -> None:
    ring = [[179.0, 0.0], [181.0, 1.0], [181.0, 3.0], [179.0, 2.0], [179.0, 0.0]]
    west, east = cut([ring], 180.0)
    assert [180.0, 0.5] in west[0]
    assert [180.0, 2.5] in west[0]
    assert [-180.0, 0.5] in east[0]
    assert [-180.0, 2.5] in east[0]
    assert [-179.0, 3.0] in east[0]


def test_a_polygon_that_goes_round_twice() -> None:
    ring = [[-10.0, 0.0], [550.0, 0.0], [550.0, 1.0], [-10.0, 1.0], [-10.0, 0.0]]
    extents = [(min(x for x, _ in p[0]), max(x for x, _ in p[0])) for p in cut([ring], 180.0)]
    assert extents == [(-10.0, 180.0), (-180.0, 180.0), (-180.0, -170.0)]
