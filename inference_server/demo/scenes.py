"""Generated scenes with exact ground truth: what tests, demos and the evaluation look at.

This generator is apart from the one that trains the demo checkpoints (`training/scenes.py`): they
share the shapes' outlines and the colours' names, and nothing else, so that a figure measured here
measures the model and does not repeat its training.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.demo.shapes import COLORS, SHAPES, rasterize

IMAGE_SIZES: tuple[tuple[int, int], ...] = ((256, 256), (640, 480), (1920, 1080), (480, 640))
"""(width, height) of the images that the evaluation goes round."""

_FULL_HD = 1080


@dataclass(frozen=True)
class SceneObject:
    """One shape of a scene.

    Attributes:
        shape: one of `SHAPES`.
        color: one of `COLORS`.
        mask: `bool[H, W]`, the pixels of it that can be seen.
        center: (x, y) in pixels.
        radius: of the circumscribed circle, in pixels.
    """

    shape: str
    color: str
    mask: NDArray[np.bool_]
    center: tuple[float, float]
    radius: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1), the second corner exclusive."""
        xs = np.flatnonzero(self.mask.any(axis=0))
        ys = np.flatnonzero(self.mask.any(axis=1))
        return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1

    def click(self) -> tuple[float, float]:
        """A point well inside the visible part: the pixel farthest from its edge, as (x, y)."""
        padded = np.pad(self.mask.astype(np.uint8), 1)
        distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(int(distance.argmax()), distance.shape)
        return float(x) + 0.5, float(y) + 0.5


@dataclass(frozen=True)
class Scene:
    """An image and everything in it.

    Attributes:
        image: `uint8[H, W, 3]`, RGB.
        objects: in drawing order; a later one may cover a little of an earlier one.
    """

    image: NDArray[np.uint8]
    objects: list[SceneObject]

    def matching(self, text: str) -> list[SceneObject]:
        """The objects that a concept such as `"red circle"`, `"star"` or `"blue shape"` means."""
        words = text.split()
        return [
            item
            for item in self.objects
            if all(word == "shape" or word in (item.shape, item.color) for word in words)
        ]


def _background(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """A muted base colour with a slow change of light and, half of the time, a texture."""
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
    """Generate a scene; the same arguments give the same pixels.

    Args:
        seed: of the random generator.
        size: (width, height) in pixels.
        count: fewest and most shapes, both inclusive; fewer are drawn when there is no room.
        shapes: shapes to draw from.
        colors: colour names to draw from.

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
    # Sensor noise has a grain of its own at every resolution: a photograph's, not a screen's.
    grain = max(1, round(short / _FULL_HD * 2))
    noise = rng.normal(0, rng.uniform(1, 6), (-(-height // grain), -(-width // grain), 3))
    canvas += np.asarray(
        cv2.resize(noise.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR),
        np.float32,
    )
    return Scene(np.clip(np.round(canvas), 0, 255).astype(np.uint8), objects)
