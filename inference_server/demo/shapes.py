"""The demo vocabulary: shapes and colours, and how one shape is rasterised.

Everything that the demo checkpoints know is named here, once. Outlines are polygons in a unit
frame (the shape's circumscribed circle has radius 1, y grows downwards), so that a scene can be
rasterised at any size and aspect ratio from the same numbers.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "ring", "cross")

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 175, 60),
    "blue": (40, 80, 220),
    "yellow": (238, 218, 50),
    "purple": (150, 60, 200),
    "orange": (242, 138, 28),
    "white": (242, 242, 242),
    "black": (24, 24, 24),
}
"""RGB, 0 to 255."""

_SUPERSAMPLING = 4
_SUBPIXEL_BITS = 8


def _regular(corners: int, phase: float) -> NDArray[np.float64]:
    angles = np.arange(corners) * 2 * np.pi / corners + phase
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def outline(shape: str) -> list[NDArray[np.float64]]:
    """The contours of a shape in its unit frame, filled by the even-odd rule.

    Args:
        shape: one of `SHAPES`.

    Returns:
        Contours, each `float64[n, 2]` in (x, y) order; the second contour of a ring is its hole.

    Raises:
        KeyError: the shape is not in the vocabulary.
    """
    up = -np.pi / 2
    if shape == "circle":
        return [_regular(48, 0.0)]
    if shape == "ring":
        return [_regular(48, 0.0), _regular(48, 0.0) * 0.5]
    if shape == "square":
        return [_regular(4, np.pi / 4)]
    if shape == "triangle":
        return [_regular(3, up)]
    if shape == "star":
        points = _regular(10, up)
        points[1::2] *= 0.42
        return [points]
    if shape == "cross":
        a, b = 0.3, 0.95
        corner = [(a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b)]
        points = np.array(corner + [(-x, -y) for x, y in corner])
        return [points]
    raise KeyError(shape)


def rasterize(
    shape: str,
    center: tuple[float, float],
    radius: tuple[float, float],
    rotation: float,
    size: tuple[int, int],
) -> tuple[int, int, NDArray[np.float32]]:
    """Draw one shape with soft edges, only inside its own bounding box.

    Args:
        shape: one of `SHAPES`.
        center: (x, y) in pixels; (0, 0) is the outer corner of the first pixel.
        radius: (horizontal, vertical) radius of the circumscribed circle in pixels.
        rotation: clockwise, in radians, before the radii are applied.
        size: (height, width) of the image.

    Returns:
        (x0, y0, coverage): the crop's offset in the image and `float32[h, w]`, the covered share of
        each pixel in 0 to 1. The crop is empty when the shape lies outside the image.
    """
    height, width = size
    cos, sin = np.cos(rotation), np.sin(rotation)
    turn = np.array([[cos, sin], [-sin, cos]])
    contours = [
        points @ turn * np.asarray(radius) + np.asarray(center) for points in outline(shape)
    ]
    corners = np.concatenate(contours)
    x0, y0 = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
    x1, y1 = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, (width, height))
    if x0 >= x1 or y0 >= y1:
        return int(x0), int(y0), np.zeros((0, 0), np.float32)
    s = _SUPERSAMPLING
    canvas = np.zeros(((y1 - y0) * s, (x1 - x0) * s), np.uint8)
    # OpenCV's integer coordinates name pixel centres, ours name pixel edges: hence the half.
    fixed = [
        np.round(((points - (x0, y0)) * s - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        for points in contours
    ]
    cv2.fillPoly(canvas, fixed, 255, shift=_SUBPIXEL_BITS)
    crop = cv2.resize(canvas, (int(x1 - x0), int(y1 - y0)), interpolation=cv2.INTER_AREA)
    return int(x0), int(y0), crop.astype(np.float32) / 255.0
