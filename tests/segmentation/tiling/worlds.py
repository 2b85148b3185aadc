"""Rasters whose objects are known, and a search that returns what a window shows of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.images.window import Window
from inference_server.masks import Mask
from inference_server.segmentation.tiling.grid import Grid
from inference_server.segmentation.tiling.seams import SeamMerger, SeamOptions
from inference_server.segmentation.types import Instance

Plane = NDArray[np.bool_]

Show = Callable[[int, Plane], list[Plane]]
"""What a model makes of an object's pixels in a window: number of the object, its plane there."""


def exact(number: int, plane: Plane) -> list[Plane]:
    """One mask per object, exactly its pixels."""
    return [plane]


def connected(number: int, plane: Plane) -> list[Plane]:
    """One mask per part that is connected inside the window."""
    count, labels = cv2.connectedComponents(plane.view(np.uint8))
    return [labels == i for i in range(1, count)]


def seen(objects: Sequence[Plane], window: Window, show: Show = exact) -> list[Instance]:
    """The instances that a window shows, in pixels of the window."""
    found = []
    for number, plane in enumerate(objects):
        part = np.ascontiguousarray(plane[window.slices])
        if part.any():
            found += [
                Instance(0, 0.5 + number / 1000, Mask.from_plane(shown))
                for shown in show(number, part)
            ]
    return found


def in_raster(window: Window, instance: Instance, size: tuple[int, int]) -> Instance:
    """An instance of a window as one of the raster."""
    plane = np.zeros(size, np.bool_)
    plane[window.slices] = instance.mask.to_plane()
    return Instance(instance.prompt, instance.score, Mask.from_plane(plane))


def merged(
    grid: Grid,
    windows: Iterator[list[Instance]] | Sequence[list[Instance]],
    options: SeamOptions | None = None,
) -> list[Instance]:
    """Join the instances of all windows, which are in pixels of their windows."""
    found: list[Instance] = []
    merger = SeamMerger(grid, options or SeamOptions(), found.append)
    for index, instances in enumerate(windows):
        merger.add(index, [in_raster(grid[index], each, grid.size) for each in instances])
    merger.finish()
    return found


def rectangle(size: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> Plane:
    """A filled rectangle, (x1, y1) exclusive."""
    plane = np.zeros(size, np.bool_)
    plane[y0:y1, x0:x1] = True
    return plane


def ring(size: tuple[int, int], x: float, y: float, outer: float, inner: float) -> Plane:
    """A ring around a point."""
    ys, xs = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(xs - x, ys - y)
    return np.asarray((distance <= outer) & (distance > inner))
