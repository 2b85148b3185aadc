"""Large rasters of generated shapes with ground truth, written as GeoTIFF in strips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

from inference_server.demo.shapes import COLORS, SHAPES, rasterize
from inference_server.masks import Mask, moved

_ROWS = 512
"""Rows that are drawn at a time, and the side of the file's tiles."""

_ATTEMPTS = 400
"""How often a place for a shape is tried."""


@lru_cache(maxsize=2)
def _noise(seed: int) -> NDArray[np.float32]:
    """Noise of a mosaic, `float32[1024, 1024, 3]`."""
    rng = np.random.default_rng((0x401E, seed))
    return rng.standard_normal((1024, 1024, 3), np.float32) * np.float32(3)


@dataclass(frozen=True, slots=True)
class Placed:
    """A shape of a mosaic.

    Attributes:
        shape: one of `SHAPES`.
        color: one of `COLORS`.
        center: (x, y) in pixels.
        radius: radius of the circumscribed circle in pixels.
        rotation: clockwise rotation in radians.
        tint: added to the colour.
    """

    shape: str
    color: str
    center: tuple[float, float]
    radius: float
    rotation: float
    tint: tuple[float, float, float]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1) in pixels around the circumscribed circle."""
        (x, y), r = self.center, self.radius + 2
        return int(x - r), int(y - r), int(x + r) + 1, int(y + r) + 1

    def drawn(self) -> tuple[int, int, NDArray[np.float32]]:
        """Offset (x, y) and coverage of the pixels; the same wherever it is drawn."""
        x0, y0, x1, y1 = self.box
        center = self.center[0] - x0, self.center[1] - y0
        radius = self.radius, self.radius
        x, y, coverage = rasterize(self.shape, center, radius, self.rotation, (y1 - y0, x1 - x0))
        return x0 + x, y0 + y, coverage

    def mask(self, size: tuple[int, int]) -> Mask:
        """The mask in a raster of (height, width)."""
        x, y, coverage = self.drawn()
        return moved(Mask.from_plane(coverage >= 0.5), (x, y), size)


@dataclass(frozen=True, slots=True)
class Mosaic:
    """A raster of shapes that do not touch, with the proportions of the demo's scenes.

    Attributes:
        size: (height, width) in pixels.
        shapes: the shapes.
        seed: seed of background and noise.
    """

    size: tuple[int, int]
    shapes: tuple[Placed, ...]
    seed: int

    @classmethod
    def of(cls, seed: int, size: tuple[int, int], count: int, scene: int) -> Mosaic:
        """Place shapes.

        Args:
            seed: seed of the random generator.
            size: (height, width) in pixels.
            count: number of shapes; fewer if they do not fit.
            scene: side in pixels of the part that looks like one of the demo's scenes: radii are
                0.082 to 0.2 of it.
        """
        rng = np.random.default_rng((0x3051, seed))
        height, width = size
        cell = round(0.42 * scene)
        near: dict[tuple[int, int], list[Placed]] = {}
        shapes: list[Placed] = []
        for _ in range(count):
            r = float(rng.beta(1.4, 1.8) * 0.115 + 0.082) * scene
            for _attempt in range(_ATTEMPTS):
                x = float(rng.uniform(r + 3, width - r - 3))
                y = float(rng.uniform(r + 3, height - r - 3))
                column, row = int(x // cell), int(y // cell)
                others = (
                    other
                    for i in (column - 1, column, column + 1)
                    for j in (row - 1, row, row + 1)
                    for other in near.get((i, j), ())
                )
                if all(
                    np.hypot(x - each.center[0], y - each.center[1]) > 1.08 * (r + each.radius)
                    for each in others
                ):
                    break
            else:
                continue
            placed = Placed(
                str(rng.choice(SHAPES)),
                str(rng.choice(list(COLORS))),
                (x, y),
                r,
                float(np.deg2rad(rng.uniform(-28, 28))),
                tuple(rng.uniform(-12, 12, 3).tolist()),
            )
            shapes.append(placed)
            near.setdefault((column, row), []).append(placed)
        return cls(size, tuple(shapes), seed)

    def rows(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Draw some rows, `uint8[stop - first, width, 3]`, RGB.

        Args:
            first: first row.
            stop: row after the last, at most 1024 later.
        """
        width = self.size[1]
        ys = np.arange(first, stop, dtype=np.float32)[:, None]
        xs = np.arange(width, dtype=np.float32)[None]
        light = 14 * np.sin(xs / 900) * np.cos(ys / 700) + 9 * np.sin((xs + ys) / 2300)
        canvas = np.empty((stop - first, width, 3), np.float32)
        for channel, base in enumerate((122.0, 128.0, 117.0)):
            canvas[..., channel] = base + light
        for placed in self.shapes:
            if placed.box[1] >= stop or placed.box[3] <= first:
                continue
            x, y, coverage = placed.drawn()
            top, bottom = max(y, first), min(y + coverage.shape[0], stop)
            if top >= bottom:
                continue
            part = coverage[top - y : bottom - y, :, None]
            paint = np.asarray(COLORS[placed.color], np.float32) + np.asarray(placed.tint)
            place = canvas[top - first : bottom - first, x : x + coverage.shape[1]]
            place += part * (paint - place)
        # The same noise again and again, shifted: drawing it anew would take most of the time.
        noise = _noise(self.seed)
        for x in range(0, width, noise.shape[1]):
            part = canvas[:, x : x + noise.shape[1]]
            shift = (first * 7 + x * 3) % noise.shape[0]
            part += np.roll(noise, shift, axis=0)[: part.shape[0], : part.shape[1]]
        return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)

    def write(self, path: Path, *, tiled: bool = True, empty_from: int | None = None) -> None:
        """Write a GeoTIFF of JPEG-compressed tiles or of deflated strips.

        Args:
            path: the file.
            tiled: whether in tiles; default true.
            empty_from: first row without data; default: all rows have data.
        """
        height, width = self.size
        profile = {
            "driver": "GTiff",
            "height": height,
            "width": width,
            "count": 3,
            "dtype": "uint8",
            "crs": "EPSG:32633",
            "transform": from_origin(500_000, 5_400_000, 0.1, 0.1),
            "photometric": "RGB",
            "BIGTIFF": "IF_SAFER",
        }
        if tiled:
            profile |= {"tiled": True, "blockxsize": _ROWS, "blockysize": _ROWS}
            profile |= {"compress": "jpeg", "jpeg_quality": 92, "photometric": "YCBCR"}
        else:
            profile |= {"blockysize": 16, "compress": "deflate", "zlevel": 1}
        if empty_from is not None:
            profile |= {"compress": "deflate", "zlevel": 1, "photometric": "RGB", "nodata": 0}
        with rasterio.open(path, "w", **profile) as file:
            for first, stop in self._strips(height if empty_from is None else empty_from):
                rows = np.maximum(self.rows(first, stop), 1).transpose(2, 0, 1)
                window = rasterio.windows.Window(0, first, width, stop - first)
                file.write(np.ascontiguousarray(rows), window=window)

    @staticmethod
    def _strips(height: int) -> Iterator[tuple[int, int]]:
        for first in range(0, height, _ROWS):
            yield first, min(first + _ROWS, height)
