"""Georeferences: conversion between pixel and map coordinates of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import ImageError, RequestError
from inference_server.executor import stop_if_cancelled
from inference_server.geo.crs import (
    MAX_CALLS,
    authority_of,
    harmless,
    label_of,
    parse_crs,
    transform_points,
    turn_of,
    urn_of,
)
from inference_server.images.file_bytes import Bytes
from inference_server.images.gdal import gdal
from inference_server.images.raster_file import RasterFile
from inference_server.images.tiff import MAX_METADATA_ITEMS

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS

_SLACK = 1e-3
"""Tolerance in pixels for points on the border, which a transformation may move off the image."""

_EDGE_STEPS = 8
"""Segments of a box's edge, because a straight edge is curved in another CRS."""


@dataclass(frozen=True)
class GeoReference:
    """The location of an image in the coordinate reference system (CRS) of its file.

    Pixel coordinates are continuous (column, row): (0, 0) is the image's top left corner and
    (0.5, 0.5) the centre of its first pixel. Map coordinates are (x, y); (longitude, latitude) in
    degrees if the CRS is geographic.

    Attributes:
        crs: CRS of the map coordinates; None if the file has only a transform.
        transform: invertible affine transform from pixel to map coordinates.
        size: (height, width) of the image in pixels.
        max_calls: maximum calls of GDAL per transformation of points; default 64.
    """

    crs: CRS | None
    transform: Affine
    size: tuple[int, int]
    max_calls: int = MAX_CALLS

    @classmethod
    def of(cls, file: RasterFile, max_calls: int = MAX_CALLS) -> GeoReference | None:
        """Read the georeference of a file, without its pixels.

        Args:
            file: an image file of any format.
            max_calls: maximum calls of GDAL per transformation of points; default 64.

        Returns:
            None if the file is not a TIFF, is damaged, is not stored upright, or has neither a CRS
            nor a transform.
        """
        try:
            if file.survey is None or file.survey.orientation != 1:  # rotation moves the pixels
                return None
            info = file.info
        except ImageError:  # reported when the pixels are read
            return None
        if info is None:
            return None
        with gdal():
            crs = harmless(info.crs)
        a, b, c, d, e, f = info.transform[:6]
        determinant = a * e - b * d
        if not (all(map(math.isfinite, (a, b, c, d, e, f, determinant))) and determinant):
            return None
        if crs is None and info.transform.is_identity:
            return None
        return cls(crs, info.transform, info.size, max_calls)

    @cached_property
    def authority(self) -> tuple[str, str] | None:
        """Authority and code of the CRS, such as `("EPSG", "3857")`; None if it has none."""
        return None if self.crs is None else authority_of(self.crs)

    @cached_property
    def label(self) -> str | None:
        """Name of the CRS, see `label_of`; None without a CRS."""
        return None if self.crs is None else label_of(self.crs)

    @cached_property
    def urn(self) -> str | None:
        """Name of the CRS in GeoJSON, see `urn_of`; None without a CRS."""
        return None if self.crs is None else urn_of(self.crs)

    def to_map(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert pixel coordinates to map coordinates, both `float64[N, 2]`."""
        linear, origin = self._affine
        return points @ linear.T + origin

    def map_parts(
        self, parts: Sequence[Sequence[NDArray[np.float64]]], *, exact: bool = True
    ) -> list[list[list[list[float]]]]:
        """Convert polygons from pixel to map coordinates; see `MapCoordinates`."""
        if not parts:
            return []
        rings = [ring for part in parts for ring in part]
        points = self.to_map(np.concatenate(rings)).tolist()  # one call: rings are many and short
        ends = np.cumsum([len(ring) for ring in rings]).tolist()
        found = (points[start:end] for start, end in zip([0, *ends], ends, strict=False))
        return [list(islice(found, len(part))) for part in parts]

    def cut(self, rings: list[list[list[float]]]) -> list[list[list[list[float]]]]:
        """Cut nothing: coordinates are those of the image, which may cross the antimeridian."""
        return [rings]

    def to_pixels(self, points: NDArray[np.float64], crs: str) -> NDArray[np.float64]:
        """Convert a client's points to pixel coordinates.

        Args:
            points: `float64[N, 2]`, (x, y) in `crs`.
            crs: name of the points' CRS, see `parse_crs`.

        Returns:
            `float64[N, 2]`, (column, row), not rounded, within [0, width] and [0, height].

        Raises:
            RequestError: `crs` is unknown, the image has no CRS, or a point cannot be transformed
                or lies outside the image.
        """
        asked = parse_crs(crs)
        pixels = self._from_crs(points[:, None], asked)[:, 0]
        for i in np.flatnonzero(np.isnan(pixels).any(axis=1)):
            raise self._failed(f"Point {i + 1} {_numbers(points[i])}", crs)
        least, most = pixels.min(axis=1, initial=0), (pixels - self._limits).max(axis=1, initial=0)
        for i in np.flatnonzero((least < -_SLACK) | (most > _SLACK)):
            raise self._outside(f"Point {i + 1} {_numbers(points[i])}", crs, asked)
        return pixels.clip(0, self._limits)

    def boxes_to_pixels(self, boxes: NDArray[np.float64], crs: str) -> NDArray[np.float64]:
        """Convert a client's boxes to the pixel boxes that enclose them.

        Args:
            boxes: `float64[N, 4]`, (xmin, ymin, xmax, ymax) in `crs`, or any two opposite corners.
                A box across the antimeridian has an `xmax` on the other side of it, see
                `across_antimeridian`.
            crs: name of the boxes' CRS, see `parse_crs`.

        Returns:
            `float64[N, 4]`, (left, top, right, bottom), not rounded; they may reach past the
            image's border.

        Raises:
            RequestError: `crs` is unknown, the image has no CRS, or a box cannot be transformed,
                lies completely outside the image, or reaches past the edge of an image of the whole
                world and continues at the opposite edge.
        """
        asked = parse_crs(crs)
        pixels = self._from_crs(_outlines(boxes), asked)
        for i in np.flatnonzero(np.isnan(pixels).any(axis=(1, 2))):
            raise self._failed(f"Box {i + 1} {_numbers(boxes[i])}", crs)
        first, last = pixels.min(axis=1), pixels.max(axis=1)
        outside = ((last <= 0) | (first >= self._limits)).any(axis=1)
        for i in np.flatnonzero(outside):
            raise self._outside(f"Box {i + 1} {_numbers(boxes[i])}", crs, asked)
        for i in np.flatnonzero(self._continues(first, last)):
            raise RequestError(
                f"Box {i + 1} {_numbers(boxes[i])} reaches past an edge of the image and continues "
                f"at the opposite edge; the image spans {self._span(crs, asked)}. Send two boxes, "
                "one up to the first edge and one from the opposite edge on."
            )
        return np.concatenate([first, last], axis=1)

    @cached_property
    def _affine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The transform as a matrix `[2, 2]` and an offset `[2]`."""
        a, b, c, d, e, f = self.transform[:6]
        return np.array([[a, b], [d, e]], np.float64), np.array([c, f], np.float64)

    @property
    def _limits(self) -> NDArray[np.float64]:
        """(width, height)."""
        return np.array(self.size[::-1], np.float64)

    @cached_property
    def _turn(self) -> float | None:
        """Distance in x once around the Earth; None if the CRS is not periodic."""
        return None if self.crs is None else turn_of(self.crs)

    def _from_crs(self, groups: NDArray[np.float64], crs: CRS) -> NDArray[np.float64]:
        """Convert groups of points in a CRS to pixel coordinates.

        Where x repeats once around the Earth, such as longitude every 360 degrees, each group is
        placed where it is nearest to the image, and is not torn apart.

        Args:
            groups: `float64[N, points, 2]`; consecutive points of a group are less than half a turn
                apart.
            crs: CRS of the points.

        Returns:
            `float64[N, points, 2]`; NaN for points that cannot be transformed.
        """
        if self.crs is None:
            raise RequestError(
                "point_crs requires an image with a coordinate reference system; this image has "
                "none. Omit point_crs and send pixel coordinates."
            )
        points = groups.reshape(-1, 2)
        moved = transform_points(crs, self.crs, points, max_calls=self.max_calls)
        moved = moved.reshape(groups.shape)
        if self._turn is not None and len(groups):
            moved[..., 0] = self._turned(moved[..., 0], self._turn)
        linear, origin = self._affine
        # Subtract the origin first: it is far larger than the image, and would cost precision.
        return (moved - origin) @ np.linalg.inv(linear).T

    def _turned(self, x: NDArray[np.float64], turn: float) -> NDArray[np.float64]:
        """Move each group of abscissas by whole turns, to where it is nearest to the image.

        Args:
            x: `float64[N, points]` in the image's CRS.
            turn: distance once around the Earth.
        """
        x = np.unwrap(x, period=turn, axis=1).astype(np.float64, copy=False)
        west, east = x.min(axis=1), x.max(axis=1)
        corners = self._corners[:, 0]
        distance = (corners.min() + corners.max()) / 2 - (west + east) / 2
        turns = np.round(distance / turn)
        turns[np.abs(distance) <= np.ptp(corners) / 2 * (1 + 1e-9)] = 0  # also on the border
        everywhere = east - west >= turn * (1 - 1e-9)
        turns[everywhere] = distance[everywhere] / turn
        moved: NDArray[np.float64] = x + turns[:, None] * turn
        return moved

    def _continues(
        self, first: NDArray[np.float64], last: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Whether another part of a box is on the image, one turn around the Earth further.

        Args:
            first: `float64[N, 2]`, the left top corners of the boxes in pixels.
            last: `float64[N, 2]`, the right bottom corners.

        Returns:
            `bool[N]`.
        """
        found = np.zeros(len(first), np.bool_)
        if self._turn is None:
            return found
        step = np.linalg.inv(self._affine[0]) @ np.array([self._turn, 0.0])
        left, right = first.clip(0, self._limits), last.clip(0, self._limits)
        for move in (-step, step):
            start, stop = ((edge + move).clip(0, self._limits) for edge in (first, last))
            is_seen = (stop - start > _SLACK).all(axis=1)
            is_within = ((start >= left - _SLACK) & (stop <= right + _SLACK)).all(axis=1)
            found |= is_seen & ~is_within
        return found

    @property
    def _corners(self) -> NDArray[np.float64]:
        """The image's corners in map coordinates, `float64[4, 2]`."""
        height, width = self.size
        return self.to_map(np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64))

    def _failed(self, what: str, crs: str) -> RequestError:
        return RequestError(
            f"{what} cannot be transformed from {crs.strip()} to the image's {self._shown}. Check "
            "that the order is x, y (longitude, latitude)."
        )

    def _outside(self, what: str, crs: str, asked: CRS) -> RequestError:
        return RequestError(
            f"{what} lies outside the image, which spans {self._span(crs, asked)}. Check that the "
            "order is x, y (longitude, latitude)."
        )

    def _span(self, crs: str, asked: CRS) -> str:
        """The image's extent in a client's CRS, or in its own if it cannot be transformed."""
        height, width = self.size
        span, name = self._corners, self._shown
        if self.crs is not None:
            border = _outlines(np.array([[0, 0, width, height]], np.float64))[0]
            moved = transform_points(self.crs, asked, self.to_map(border))
            if not np.isnan(moved).any():
                turn = turn_of(asked)
                if turn is not None:  # an image across the antimeridian spans what it covers
                    moved[:, 0] = np.unwrap(moved[:, 0], period=turn)
                span, name = moved, crs.strip()
        (x0, y0), (x1, y1) = span.min(axis=0), span.max(axis=0)
        return f"x {x0:.10g} to {x1:.10g} and y {y0:.10g} to {y1:.10g} in {name}"

    @property
    def _shown(self) -> str:
        """Name of the CRS in error messages, where WKT would be too long."""
        return "coordinate reference system" if self.authority is None else ":".join(self.authority)


def across_antimeridian(boxes: NDArray[np.float64], crs: str) -> NDArray[np.float64]:
    """Continue the boxes that cross the antimeridian beyond it: 179 to -179 becomes 179 to 181.

    A box crosses it if its xmin is greater than its xmax by more than half a turn around the Earth.

    Args:
        boxes: `float64[N, 4]`, (xmin, ymin, xmax, ymax) in `crs`.
        crs: name of the boxes' CRS, see `parse_crs`.

    Returns:
        The boxes, `float64[N, 4]`.

    Raises:
        RequestError: `crs` is unknown.
    """
    turn = turn_of(parse_crs(crs))
    if turn is None:
        return boxes
    boxes = boxes.copy()
    boxes[boxes[:, 0] - boxes[:, 2] > turn / 2, 2] += turn
    return boxes


def _outlines(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points along the borders of boxes `[N, 4]`, in order: `float64[N, points, 2]`."""
    steps = np.linspace(0, 1, _EDGE_STEPS + 1)
    zeros, ones = np.zeros_like(steps), np.ones_like(steps)
    x = np.concatenate([steps, ones, steps[::-1], zeros])
    y = np.concatenate([zeros, steps, ones, steps[::-1]])
    return np.stack(
        [
            boxes[:, :1] * (1 - x) + boxes[:, 2:3] * x,
            boxes[:, 1:2] * (1 - y) + boxes[:, 3:] * y,
        ],
        axis=-1,
    )


def _numbers(values: NDArray[np.float64]) -> str:
    return f"({', '.join(f'{value:.10g}' for value in values)})"


class GeoRaster(RasterFile):
    """A `RasterFile` that reads its georeference once.

    Args:
        data: the file.
        max_metadata_items: see `RasterFile`.
        max_calls: maximum calls of GDAL per transformation of points; default 64.
        bands: see `RasterFile`.
    """

    def __init__(
        self,
        data: Bytes,
        *,
        max_metadata_items: int = MAX_METADATA_ITEMS,
        max_calls: int = MAX_CALLS,
        bands: Sequence[int] | None = None,
    ) -> None:
        super().__init__(data, max_metadata_items=max_metadata_items, bands=bands)
        self._max_calls = max_calls

    def read(self) -> None:
        """Read the valid mask and the georeference ahead, in a thread for slow work.

        Raises:
            ImageError: the file is a damaged TIFF.
        """
        # The mask first: with its opening, the metadata need none of their own.
        _ = self.valid
        stop_if_cancelled()
        _ = self.reference

    @cached_property
    def reference(self) -> GeoReference | None:
        """The georeference; None if the file has none."""
        return GeoReference.of(self, self._max_calls)
