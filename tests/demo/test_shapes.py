"""Shapes: their outlines, and rasterisation that matches them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference_server.demo.shapes import COLORS, SHAPES, outline, rasterize


def area(points: NDArray[np.float64]) -> float:
    """Area of a polygon, by the shoelace formula."""
    x, y = points.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def perimeter(points: NDArray[np.float64]) -> float:
    return float(np.hypot(*(points - np.roll(points, -1, axis=0)).T).sum())


def area_of(shape: str) -> float:
    outer, *holes = (area(contour) for contour in outline(shape))
    return outer - sum(holes)


def test_the_vocabulary() -> None:
    assert set(SHAPES) == {"circle", "square", "triangle", "star", "ring", "cross"}
    assert set(COLORS) == {
        *("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
    }
    assert len(set(COLORS.values())) == len(COLORS)


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_fit_the_unit_circle(shape: str) -> None:
    reach = [float(np.hypot(*contour.T).max()) for contour in outline(shape)]
    assert 0.9 <= reach[0] <= 1 + 1e-9
    assert len(reach) == (2 if shape == "ring" else 1)


def test_an_unknown_shape() -> None:
    with pytest.raises(KeyError):
        outline("hexagon")


@given(
    shape=st.sampled_from(SHAPES),
    center=st.tuples(st.floats(60, 140), st.floats(60, 100)),
    radius=st.tuples(st.floats(15, 50), st.floats(15, 50)),
    rotation=st.floats(-3.2, 3.2),
)
def test_coverage_is_the_outlines_area(
    shape: str, center: tuple[float, float], radius: tuple[float, float], rotation: float
) -> None:
    x0, y0, coverage = rasterize(shape, center, radius, rotation, (160, 200))
    assert coverage.dtype == np.float32
    assert 0 <= coverage.min() <= coverage.max() <= 1
    # Rotation is applied before the radii, so it does not change the area.
    true = area_of(shape) * radius[0] * radius[1]
    # OpenCV also fills the outline's pixels, in a drawing four times as large.
    edge = sum(perimeter(contour) for contour in outline(shape)) * max(radius)
    assert float(coverage.sum()) == pytest.approx(true, abs=0.25 * edge)
    # The crop is tight and contains the whole shape.
    assert max(coverage.shape) <= 2 * max(radius) + 5
    assert coverage[0].max() < 1
    assert coverage[:, -1].max() < 1
    assert x0 >= 0
    assert y0 >= 0


@given(
    shape=st.sampled_from(SHAPES),
    rotation=st.floats(-0.5, 0.5),
    center=st.tuples(st.floats(40, 60), st.floats(40, 60)),
)
def test_half_covered_pixels_are_those_inside_of_the_outline(
    shape: str, rotation: float, center: tuple[float, float]
) -> None:
    x0, y0, coverage = rasterize(shape, center, (30, 30), rotation, (100, 100))
    seen = np.zeros((100, 100), bool)
    seen[y0 : y0 + coverage.shape[0], x0 : x0 + coverage.shape[1]] = coverage >= 0.5
    cos, sin = np.cos(rotation), np.sin(rotation)
    turn = np.array([[cos, sin], [-sin, cos]])
    contours = [(points @ turn * 30 + center).astype(np.float32) for points in outline(shape)]
    for y in range(0, 100, 3):
        for x in range(0, 100, 3):
            # Distances are positive inside a contour; inside a hole is outside the shape.
            distances = [cv2.pointPolygonTest(c, (x + 0.5, y + 0.5), True) for c in contours]
            inside = distances[0] if len(distances) == 1 else min(distances[0], -distances[1])
            if abs(inside) > 1:
                assert seen[y, x] == (inside > 0), (x, y)


@pytest.mark.parametrize("center", [(-100.0, 50.0), (50.0, 500.0), (300.0, 50.0)])
def test_outside_of_the_image_there_is_nothing(center: tuple[float, float]) -> None:
    *_, coverage = rasterize("circle", center, (20, 20), 0, (100, 100))
    assert coverage.size == 0


def test_at_the_border_it_is_cut_off() -> None:
    x0, y0, coverage = rasterize("square", (0, 0), (40, 40), 0, (100, 100))
    assert (x0, y0) == (0, 0)
    whole = 2 * 40 * 40
    assert float(coverage.sum()) == pytest.approx(whole / 4, rel=0.02)
