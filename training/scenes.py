"""Training scenes, more varied than those of the evaluation, rendered at the model's input size.

Models resize images to a square. So a training scene chooses an aspect ratio and distorts its
shapes accordingly; no large image is rendered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.demo.shapes import COLORS, SHAPES, rasterize

COLOR_NAMES: tuple[str, ...] = tuple(COLORS)
_PALETTE = np.array(list(COLORS.values()), np.float32)
_ASPECTS = (1.0, 1.0, 1.0, 4 / 3, 3 / 4, 16 / 9, 9 / 16, 3 / 2)


@dataclass(slots=True)
class TrainingObject:
    """One shape of a training scene.

    Attributes:
        shape: index into `SHAPES`.
        color: index into `COLOR_NAMES`.
        mask: visible pixels, `bool[S, S]`.
        box: box of the mask: x0, y0, x1, y1 as shares of the side.
    """

    shape: int
    color: int
    mask: NDArray[np.bool_]
    box: tuple[float, float, float, float]


def _background(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    if rng.random() < 0.75:
        base = rng.uniform(60, 200) + rng.normal(0, 16, 3)
    else:
        base = rng.uniform(20, 235, 3)
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = base
    for _ in range(int(rng.integers(0, 3))):
        line = np.linspace(-0.5, 0.5, size, dtype=np.float32)[:, None]
        slope = line * rng.normal() + line.T * rng.normal()
        canvas += (slope[..., None] * rng.normal(0, 14, 3)).astype(np.float32)
    texture = rng.random()
    if texture < 0.35:
        cells = int(rng.integers(3, 33))
        field = rng.normal(0, rng.uniform(1, 9), (cells, cells, 3 if rng.random() < 0.4 else 1))
        clouds = cv2.resize(field.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
        canvas += np.asarray(clouds, np.float32).reshape(size, size, -1)
    elif texture < 0.5:
        angle, period = rng.uniform(0, np.pi), rng.uniform(4, 30)
        pixels = np.arange(size, dtype=np.float32)
        across = np.cos(angle) * pixels[:, None] + np.sin(angle) * pixels
        wave = np.sin(across * (2 * np.pi / period))
        if rng.random() < 0.5:
            wave = np.sign(wave)
        canvas += (wave * rng.uniform(2, 8))[..., None]
    elif texture < 0.6:
        block = int(rng.integers(6, 33))
        blocks = np.arange(size) // block
        canvas += (((blocks[:, None] + blocks) % 2) * rng.uniform(-14, 14))[..., None]
    return canvas


def training_scene(
    rng: np.random.Generator, size: int, most: int = 8
) -> tuple[NDArray[np.uint8], list[TrainingObject]]:
    """Render one scene.

    Args:
        rng: source of randomness.
        size: side of the square image in pixels.
        most: maximum number of objects. Default: 8.

    Returns:
        Image `uint8[size, size, 3]`, RGB, and its objects.
    """
    canvas = _background(rng, size)
    aspect = float(rng.choice(_ASPECTS)) * float(np.exp(rng.normal(0, 0.04)))
    width, height = (aspect, 1.0) if aspect > 1 else (1.0, 1 / aspect)  # shorter side is 1
    shapes, colors = _kinds(rng, (0.08, 0.2, 0.2, 0.52), (0.12, 0.22, 0.18, 0.48))
    crowd = rng.uniform(0.82, 1.1)
    small = rng.random() < 0.4
    count = int(rng.integers(1, most + 1))
    style = _Style(size, (width, height), shapes, colors, crowd, 0.85)
    objects = _draw_shapes(
        canvas, style, count, lambda: rng.uniform(0.075, 0.12 if small else 0.21), rng
    )
    return _finished(canvas, rng), _boxed(objects, size)


def crowded_scene(
    rng: np.random.Generator, size: int, most: int = 24
) -> tuple[NDArray[np.uint8], list[TrainingObject]]:
    """Render many objects of few kinds, some of them cut by an edge, as in a window of a raster.

    Args:
        rng: source of randomness.
        size: side of the square image in pixels.
        most: maximum number of objects. Default: 24.

    Returns:
        Image `uint8[size, size, 3]`, RGB, and its objects.
    """
    canvas = _background(rng, size)
    shapes, colors = _kinds(rng, (0.3, 0.3, 0.2, 0.2), (0.3, 0.3, 0.2, 0.2))
    typical = float(np.exp(rng.uniform(np.log(0.045), np.log(0.13))))
    style = _Style(size, (1.0, 1.0), shapes, colors, rng.uniform(0.85, 1.5), -0.4)
    count = int(rng.integers(4, most + 1))
    objects = _draw_shapes(canvas, style, count, lambda: typical * rng.uniform(0.75, 1.35), rng)
    return _finished(canvas, rng), _boxed(objects, size)


def _kinds(
    rng: np.random.Generator, shapes: tuple[float, ...], colors: tuple[float, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the shapes and colours of a scene.

    Args:
        rng: source of randomness.
        shapes: probabilities of one, two, three and six shapes.
        colors: probabilities of one, two, three and eight colours.

    Returns:
        Indices into `SHAPES` and `COLOR_NAMES`.
    """
    some = rng.permutation(len(SHAPES))[: int(rng.choice([1, 2, 3, 6], p=shapes))]
    return some, rng.permutation(len(COLOR_NAMES))[: int(rng.choice([1, 2, 3, 8], p=colors))]


@dataclass(frozen=True, slots=True)
class _Style:
    """How shapes are placed.

    Attributes:
        size: side of the square image in pixels.
        extent: width and height of the scene; the shorter is 1.
        shapes: indices into `SHAPES` to draw.
        colors: indices into `COLOR_NAMES` to use.
        spread: minimum distance of two centres, relative to the sum of their radii.
        margin: minimum distance of a centre from the edges in radii; negative: may lie outside.
    """

    size: int
    extent: tuple[float, float]
    shapes: NDArray[np.int64]
    colors: NDArray[np.int64]
    spread: float
    margin: float


def _draw_shapes(
    canvas: NDArray[np.float32],
    style: _Style,
    count: int,
    radius: Callable[[], float],
    rng: np.random.Generator,
) -> list[TrainingObject]:
    """Draw shapes on a canvas; fewer than `count` where they do not fit or lack contrast."""
    size, (width, height), margin = style.size, style.extent, style.margin
    placed: list[tuple[float, float, float]] = []
    objects: list[TrainingObject] = []
    for _ in range(count):
        for _attempt in range(12):
            r = radius()
            cx, cy = (
                rng.uniform(margin * r, width - margin * r),
                rng.uniform(margin * r, height - margin * r),
            )
            if all(np.hypot(cx - x, cy - y) > style.spread * (r + q) for x, y, q in placed):
                break
        else:
            continue
        shape, color = int(rng.choice(style.shapes)), int(rng.choice(style.colors))
        x0, y0, coverage = rasterize(
            SHAPES[shape],
            (cx / width * size, cy / height * size),
            (r / width * size, r / height * size),
            rng.uniform(-0.55, 0.55),
            (size, size),
        )
        h, w = coverage.shape
        window = canvas[y0 : y0 + h, x0 : x0 + w]
        inside = coverage >= 0.5
        if not inside.any():
            continue
        paint = _PALETTE[color] + rng.normal(0, 9, 3) + rng.normal(0, 5)
        if np.linalg.norm(window[inside].mean(axis=0) - paint) < 60:
            continue  # too little contrast
        placed.append((cx, cy, r))
        shade = (
            1
            + rng.normal(0, 0.07) * np.linspace(-1, 1, h)[:, None]
            + rng.normal(0, 0.07) * (np.linspace(-1, 1, w))
        )
        window += coverage[..., None] * (paint * shade[..., None] - window).astype(np.float32)
        seen = np.zeros((size, size), bool)
        seen[y0 : y0 + h, x0 : x0 + w] = inside
        for item in objects:
            item.mask &= ~seen
        objects.append(TrainingObject(shape, color, seen, (0, 0, 0, 0)))
    return objects


def _finished(canvas: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blur a quarter of the canvases and add noise."""
    if rng.random() < 0.25:
        blurred = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.8))
        canvas = np.asarray(blurred, np.float32)
    canvas = canvas + rng.standard_normal(canvas.shape, np.float32) * rng.uniform(0, 8)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _boxed(objects: list[TrainingObject], size: int) -> list[TrainingObject]:
    """Return the objects of at least 3 x 3 pixels, with their boxes."""
    kept = []
    for item in objects:
        xs, ys = np.flatnonzero(item.mask.any(axis=0)), np.flatnonzero(item.mask.any(axis=1))
        if len(xs) >= 3 and len(ys) >= 3:
            edges = np.array([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1]) / size
            item.box = (float(edges[0]), float(edges[1]), float(edges[2]), float(edges[3]))
            kept.append(item)
    return kept


def plain_scene(
    rng: np.random.Generator, size: int, most: int = 8
) -> tuple[NDArray[np.uint8], list[TrainingObject]]:
    """Render plain shapes on a plain background, as in drawings and test images.

    Rectangles are twice as frequent as ellipses and triangles together. Colours are any, not those
    of the demo's words. Shapes do not overlap.

    Args:
        rng: source of randomness.
        size: side of the square image in pixels.
        most: maximum number of objects. Default: 8.

    Returns:
        Image `uint8[size, size, 3]`, RGB, and its objects; their shape and colour are 0.
    """
    canvas = np.empty((size, size, 3), np.float32)
    luck = rng.random()
    canvas[:] = 0 if luck < 0.3 else 255 if luck < 0.45 else rng.uniform(0, 255, 3)
    if rng.random() < 0.3:
        canvas[:] = canvas.mean()
    objects: list[TrainingObject] = []
    taken = np.zeros((size, size), bool)
    grey = rng.random() < 0.3
    for _ in range(int(rng.integers(1, most + 1))):
        paint = rng.choice([rng.uniform(0, 255, 3), 255.0 * rng.integers(0, 2, 3)])
        if grey:
            paint = np.full(3, paint[0])
        if np.linalg.norm(canvas[0, 0] - paint) < 50:
            continue
        width, height = np.exp(rng.uniform(np.log(0.05), np.log(0.35), 2)) * size
        center = rng.uniform(0.08, 0.92, 2) * size
        angle = 0.0 if rng.random() < 0.7 else rng.uniform(0, np.pi)
        kind = rng.choice(["rectangle", "ellipse", "triangle"], p=[0.66, 0.2, 0.14])
        if kind == "rectangle":
            corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], np.float64)
        elif kind == "ellipse":
            around = np.arange(40) * np.pi / 20
            corners = np.stack([np.cos(around), np.sin(around)], axis=1)
        else:
            corners = np.array([(0, -1), (1, 1), (-1, 1)], np.float64)
        corners = corners * (width, height)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        points = corners @ turn + center
        if kind == "rectangle" and angle == 0 and rng.random() < 0.7:
            points = np.round(points)  # no half-covered pixels
        scale = 4
        plane = np.zeros((size * scale, size * scale), np.uint8)
        fixed = np.round((points * scale - 0.5) * 256).astype(np.int32)
        cv2.fillPoly(plane, [fixed], 255, shift=8)
        coverage = np.asarray(cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA)) / 255.0
        inside = coverage >= 0.5
        around_it = cv2.dilate(inside.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        if not inside.any() or (taken & around_it).any():
            continue
        taken |= inside
        canvas += coverage[..., None].astype(np.float32) * (paint.astype(np.float32) - canvas)
        objects.append(TrainingObject(0, 0, inside, (0, 0, 0, 0)))
    if rng.random() < 0.3:
        canvas += rng.standard_normal((size, size, 3), np.float32) * rng.uniform(0, 6)
    return np.clip(canvas, 0, 255).astype(np.uint8), _boxed(objects, size)
