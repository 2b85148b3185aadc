"""Generate scenes with exact ground truth, for tests, demos and the evaluation.

This generator is independent of the one that trains the demo checkpoints (`training/scenes.py`).
They share only the shapes' outlines and the colours' names, so results on these scenes measure
generalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.demo.shapes import COLORS, SHAPES, rasterize

IMAGE_SIZES: tuple[tuple[int, int], ...] = ((256, 256), (640, 480), (1920, 1080), (480, 640))
"""(width, height) in pixels of the evaluation's images, used in turn."""

_FULL_HD = 1080


@dataclass(frozen=True)
class SceneObject:
    """One shape of a scene.

    Attributes:
        shape: One of `SHAPES`.
        color: One of `COLORS`.
        mask: `bool[H, W]`, the visible pixels.
        center: (x, y) in pixels.
        radius: Radius of the circumscribed circle in pixels.
    """

    shape: str
    color: str
    mask: NDArray[np.bool_]
    center: tuple[float, float]
    radius: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1) of the visible pixels, (x1, y1) exclusive."""
        xs = np.flatnonzero(self.mask.any(axis=0))
        ys = np.flatnonzero(self.mask.any(axis=1))
        return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1

    def click(self) -> tuple[float, float]:
        """(x, y) in pixels of the visible pixel that is farthest from the edge."""
        padded = np.pad(self.mask.astype(np.uint8), 1)
        distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(int(distance.argmax()), distance.shape)
        return float(x) + 0.5, float(y) + 0.5


@dataclass(frozen=True)
class Scene:
    """An image and its objects.

    Attributes:
        image: `uint8[H, W, 3]`, RGB.
        objects: Objects in drawing order; a later one may cover part of an earlier one.
    """

    image: NDArray[np.uint8]
    objects: list[SceneObject]

    def matching(self, text: str) -> list[SceneObject]:
        """The objects that match a concept.

        Args:
            text: Colour and shape, such as `red circle`; either may be omitted, and `shape` matches
                any shape.
        """
        words = text.split()
        return [
            item
            for item in self.objects
            if all(word == "shape" or word in (item.shape, item.color) for word in words)
        ]


def _background(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """A muted colour with a brightness gradient and, half of the time, a texture."""
    height, width = size
    grey = rng.uniform(80, 175)
    base = grey + rng.uniform(-18, 18, 3)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    ys, xs = ys / height - 0.5, xs / width - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(-25, 25) * (np.cos(angle) * xs + np.sin(angle) * ys)
    light = light - rng.uniform(0, 30) * (xs**2 + ys**2)
    kind = rng.choice(["smooth", "smooth", "clouds", "weave"])
    if kind == "clouds":
        cells = int(rng.integers(4, 14))
        field = rng.normal(0, rng.uniform(4, 10), (cells, cells)).astype(np.float32)
        light = light + cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    elif kind == "weave":
        frequency = rng.uniform(15, 45)
        strength = rng.uniform(2, 7)
        light = light + strength * np.sin(frequency * xs * 2) * np.sin(frequency * ys * 2)
    return np.asarray(base + light[..., None], np.float32)


def make_scene(
    seed: int,
    size: tuple[int, int] = (256, 256),
    *,
    count: tuple[int, int] = (2, 7),
    shapes: tuple[str, ...] = SHAPES,
    colors: tuple[str, ...] = tuple(COLORS),
) -> Scene:
    """Generate a scene. Equal arguments give equal pixels.

    Args:
        seed: Seed of the random generator.
        size: (width, height) in pixels; default 256 x 256.
        count: Minimum and maximum number of shapes, inclusive; fewer are drawn if they do not fit.
        shapes: Names of the shapes to draw.
        colors: Names of the colours to use.

    Returns:
        The scene. Radii are 0.08 to 0.2 of the shorter side, rotations within 30 degrees of
        upright, and shapes overlap little or not at all.
    """
    rng = np.random.default_rng((0x5EED, seed))
    width, height = size
    short = min(width, height)
    canvas = _background(rng, (height, width))
    placed: list[tuple[float, float, float]] = []
    objects: list[SceneObject] = []
    for _ in range(int(rng.integers(count[0], count[1] + 1))):
        for _attempt in range(40):
            r = float(rng.beta(1.4, 1.8) * 0.115 + 0.082) * short
            cx = float(rng.uniform(r, width - r))
            cy = float(rng.uniform(r, height - r))
            spread = rng.uniform(0.9, 1.05)
            if all(np.hypot(cx - x, cy - y) > spread * (r + q) for x, y, q in placed):
                break
        else:
            continue
        placed.append((cx, cy, r))
        shape = str(rng.choice(shapes))
        color = str(rng.choice(colors))
        rotation = float(np.deg2rad(rng.uniform(-28, 28)))
        x0, y0, coverage = rasterize(shape, (cx, cy), (r, r), rotation, (height, width))
        h, w = coverage.shape
        window = canvas[y0 : y0 + h, x0 : x0 + w]
        paint = np.asarray(COLORS[color], np.float32) + rng.uniform(-12, 12, 3).astype(np.float32)
        slope = np.linspace(1 - rng.uniform(0, 0.12), 1 + rng.uniform(0, 0.06), h, dtype=np.float32)
        window += coverage[..., None] * (paint * slope[:, None, None] - window)
        seen = np.zeros((height, width), bool)
        seen[y0 : y0 + h, x0 : x0 + w] = coverage >= 0.5
        for i, below in enumerate(objects):
            covered = below.mask & ~seen
            if covered.sum() != below.mask.sum():
                objects[i] = SceneObject(
                    below.shape, below.color, covered, below.center, below.radius
                )
        objects.append(SceneObject(shape, color, seen, (cx, cy), r))
    # The grain of the noise scales with the resolution, as in photographs.
    grain = max(1, round(short / _FULL_HD * 2))
    noise = rng.normal(0, rng.uniform(1, 6), (-(-height // grain), -(-width // grain), 3))
    canvas += np.asarray(
        cv2.resize(noise.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR),
        np.float32,
    )
    return Scene(np.clip(np.round(canvas), 0, 255).astype(np.uint8), objects)
