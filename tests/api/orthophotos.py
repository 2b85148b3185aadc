"""Generated orthophotos with many shapes, which windows cut, and their ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.demo.shapes import COLORS, rasterize
from tests.api.pictures import Plane, iou


@dataclass(frozen=True)
class Shape:
    """A shape of an orthophoto.

    Attributes:
        text: Colour and shape, such as `red circle`.
        mask: `bool[H, W]`.
        center: (x, y) in pixels.
    """

    text: str
    mask: Plane
    center: tuple[float, float]


@dataclass(frozen=True)
class Orthophoto:
    """A raster and its shapes, none of which touch.

    Attributes:
        image: `uint8[H, W, 3]`, RGB.
        shapes: The shapes.
    """

    image: NDArray[np.uint8]
    shapes: list[Shape]

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.image.shape[:2]
        return height, width

    def matching(self, text: str) -> list[Plane]:
        """The masks of a concept."""
        return [each.mask for each in self.shapes if each.text == text]


def orthophoto(
    seed: int, size: tuple[int, int] = (900, 1200), step: int = 150, radius: int = 42
) -> Orthophoto:
    """Generate an orthophoto: a shape in most cells of a grid, on a muted ground with clouds.

    Args:
        seed: Seed of the random generator.
        size: (height, width) in pixels.
        step: Side of a cell in pixels.
        radius: Largest radius of a shape in pixels.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    field = rng.normal(0, 6, (6, 8)).astype(np.float32)
    light = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    canvas = (np.array([118, 124, 112], np.float32) + light[..., None]).astype(np.float32)
    shapes = []
    for top in range(0, height - step + 1, step):
        for left in range(0, width - step + 1, step):
            shape = str(rng.choice(("circle", "square", "cross")))
            color = str(rng.choice(("red", "blue", "yellow")))
            if rng.random() < 0.15:
                continue
            r = float(rng.uniform(0.75, 1)) * radius
            x = left + float(rng.uniform(r + 2, step - r - 2))
            y = top + float(rng.uniform(r + 2, step - r - 2))
            rotation = float(rng.uniform(-0.4, 0.4))
            x0, y0, coverage = rasterize(shape, (x, y), (r, r), rotation, size)
            h, w = coverage.shape
            window = canvas[y0 : y0 + h, x0 : x0 + w]
            window += coverage[..., None] * (np.array(COLORS[color], np.float32) - window)
            mask = np.zeros(size, np.bool_)
            mask[y0 : y0 + h, x0 : x0 + w] = coverage >= 0.5
            shapes.append(Shape(f"{color} {shape}", mask, (x, y)))
    canvas += rng.normal(0, 3, (height, width, 3))
    return Orthophoto(np.clip(np.round(canvas), 0, 255).astype(np.uint8), shapes)


def f1(found: list[Plane], truth: list[Plane], at_least: float = 0.5) -> float:
    """F1 of masks that match one to one with an IoU."""
    left, matched = list(found), 0
    for mask in truth:
        scores = [iou(mask, other) for other in left]
        if scores and max(scores) >= at_least:
            matched += 1
            del left[int(np.argmax(scores))]
    return 2 * matched / (len(found) + len(truth))
