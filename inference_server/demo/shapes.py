"""The vocabulary of the demo checkpoints (shapes and colours), and how to rasterise a shape.

Outlines are polygons in a unit frame: the circumscribed circle has radius 1, and y points down. So
a scene can be rasterised at any size and aspect ratio.
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
"""RGB values, 0 to 255, by name."""

_SUPERSAMPLING = 4
_SUBPIXEL_BITS = 8


def _regular(corners: int, phase: float) -> NDArray[np.float64]:
    angles = np.arange(corners) * 2 * np.pi / corners + phase
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def outline(shape: str) -> list[NDArray[np.float64]]:
    """The contours of a shape in its unit frame, filled by the even-odd rule.

    Args:
        shape: One of `SHAPES`.

    Returns:
        Contours, each `float64[n, 2]` in (x, y) order; the second contour of a ring is its hole.

    Raises:
        KeyError: Unknown shape.
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
    """Rasterise one shape with antialiased edges, within its bounding box.

    Args:
        shape: One of `SHAPES`.
        center: (x, y) in pixels; (0, 0) is the outer corner of the first pixel.
        radius: (horizontal, vertical) radius of the circumscribed circle in pixels.
        rotation: Clockwise rotation in radians, applied before the radii.
        size: (height, width) of the image in pixels.

    Returns:
        (x0, y0, coverage): offset of the bounding box in pixels, and `float32[h, w]`, the covered
        fraction of each pixel, 0 to 1; empty if the shape lies outside the image.
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
    # OpenCV's integer coordinates are pixel centres, ours are pixel edges: hence the 0.5.
    fixed = [
        np.round(((points - (x0, y0)) * s - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        for points in contours
    ]
    cv2.fillPoly(canvas, fixed, 255, shift=_SUBPIXEL_BITS)
    crop = cv2.resize(canvas, (int(x1 - x0), int(y1 - y0)), interpolation=cv2.INTER_AREA)
    return int(x0), int(y0), crop.astype(np.float32) / 255.0
