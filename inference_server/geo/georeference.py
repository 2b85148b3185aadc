"""Georeferences: conversion between pixel and map coordinates of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import ImageError, RequestError
from inference_server.geo.crs import harmless, parse_crs, transform_points
from inference_server.images.gdal import gdal
from inference_server.images.raster_file import RasterFile

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
    """

    crs: CRS | None
    transform: Affine
    size: tuple[int, int]

    @classmethod
    def of(cls, file: RasterFile) -> GeoReference | None:
        """Read the georeference of a file, without its pixels.

        Args:
            file: an image file of any format.

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
        return cls(crs, info.transform, info.size)

    @cached_property
    def epsg(self) -> int | None:
        """EPSG code of the CRS; None if it has none."""
        if self.crs is None:
            return None
        with gdal():
            code = self.crs.to_epsg()
        return None if code is None else int(code)

    @cached_property
    def label(self) -> str | None:
        """Such as `EPSG:3857`, or WKT if the CRS has no EPSG code; None without a CRS."""
        if self.crs is None:
            return None
        return f"EPSG:{self.epsg}" if self.epsg is not None else str(self.crs.to_wkt())

    @property
    def urn(self) -> str | None:
        """Name of the CRS in GeoJSON, such as `urn:ogc:def:crs:EPSG::3857`; None without a code.

        EPSG:4326 becomes `urn:ogc:def:crs:OGC:1.3:CRS84`, which has longitude before latitude.
        """
        if self.epsg is None:
            return None
        if self.epsg == 4326:
            return "urn:ogc:def:crs:OGC:1.3:CRS84"
        return f"urn:ogc:def:crs:EPSG::{self.epsg}"

    def to_map(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert pixel coordinates to map coordinates, both `float64[N, 2]`."""
        linear, origin = self._affine
        return points @ linear.T + origin

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
        pixels = self._from_crs(points, asked)
        for i in np.flatnonzero(np.isnan(pixels).any(axis=1)):
            raise self._failed(f"Point {i + 1} {_numbers(points[i])}", crs)
        least, most = pixels.min(axis=1, initial=0), (pixels - self._limits).max(axis=1, initial=0)
        for i in np.flatnonzero((least < -_SLACK) | (most > _SLACK)):
            raise self._outside(f"Point {i + 1} {_numbers(points[i])}", crs, asked)
        return pixels.clip(0, self._limits)

    def boxes_to_pixels(self, boxes: NDArray[np.float64], crs: str) -> NDArray[np.float64]:
        """Convert a client's boxes to the pixel boxes that enclose them, clipped to the image.

        Args:
            boxes: `float64[N, 4]`, (xmin, ymin, xmax, ymax) in `crs`, or any two opposite corners.
            crs: name of the boxes' CRS, see `parse_crs`.

        Returns:
            `float64[N, 4]`, (left, top, right, bottom), not rounded, within [0, width] and
            [0, height].

        Raises:
            RequestError: `crs` is unknown, the image has no CRS, or a box cannot be transformed or
                lies completely outside the image.
        """
        asked = parse_crs(crs)
        steps = np.linspace(0, 1, _EDGE_STEPS + 1)
        zeros, ones = np.zeros_like(steps), np.ones_like(steps)
        x = np.concatenate([steps, ones, steps, zeros])
        y = np.concatenate([zeros, steps, ones, steps])
        outline = np.stack(
            [
                boxes[:, :1] * (1 - x) + boxes[:, 2:3] * x,
                boxes[:, 1:2] * (1 - y) + boxes[:, 3:] * y,
            ],
            axis=-1,
        )  # [N, points, 2]
        pixels = self._from_crs(outline.reshape(-1, 2), asked).reshape(outline.shape)
        for i in np.flatnonzero(np.isnan(pixels).any(axis=(1, 2))):
            raise self._failed(f"Box {i + 1} {_numbers(boxes[i])}", crs)
        first, last = pixels.min(axis=1), pixels.max(axis=1)
        outside = ((last < -_SLACK) | (first > self._limits + _SLACK)).any(axis=1)
        for i in np.flatnonzero(outside):
            raise self._outside(f"Box {i + 1} {_numbers(boxes[i])}", crs, asked)
        return np.concatenate([first.clip(0, self._limits), last.clip(0, self._limits)], axis=1)

    @cached_property
    def _affine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The transform as a matrix `[2, 2]` and an offset `[2]`."""
        a, b, c, d, e, f = self.transform[:6]
        return np.array([[a, b], [d, e]], np.float64), np.array([c, f], np.float64)

    @property
    def _limits(self) -> NDArray[np.float64]:
        """(width, height)."""
        return np.array(self.size[::-1], np.float64)

    def _from_crs(self, points: NDArray[np.float64], crs: CRS) -> NDArray[np.float64]:
        """Convert points in a CRS to pixel coordinates, both `float64[N, 2]`; NaN on failure."""
        if self.crs is None:
            raise RequestError(
                "point_crs requires an image with a coordinate reference system; this image has "
                "none. Omit point_crs and send pixel coordinates."
            )
        linear, origin = self._affine
        # Subtract the origin first: it is far larger than the image, and would cost precision.
        return (transform_points(crs, self.crs, points) - origin) @ np.linalg.inv(linear).T

    def _failed(self, what: str, crs: str) -> RequestError:
        return RequestError(
            f"{what} cannot be transformed from {crs.strip()} to the image's {self._shown}. Check "
            "that the order is x, y (longitude, latitude)."
        )

    def _outside(self, what: str, crs: str, asked: CRS) -> RequestError:
        height, width = self.size
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
        span, name = self.to_map(corners), self._shown
        if self.crs is not None:
            moved = transform_points(self.crs, asked, span)
            if not np.isnan(moved).any():
                span, name = moved, crs.strip()
        (x0, y0), (x1, y1) = span.min(axis=0), span.max(axis=0)
        return RequestError(
            f"{what} lies outside the image, which spans x {x0:.10g} to {x1:.10g} and y {y0:.10g} "
            f"to {y1:.10g} in {name}. Check that the order is x, y (longitude, latitude)."
        )

    @property
    def _shown(self) -> str:
        """Name of the CRS in error messages, where WKT would be too long."""
        return f"EPSG:{self.epsg}" if self.epsg is not None else "coordinate reference system"


def _numbers(values: NDArray[np.float64]) -> str:
    return f"({', '.join(f'{value:.10g}' for value in values)})"


class GeoRaster(RasterFile):
    """A `RasterFile` that reads its georeference once."""

    @cached_property
    def reference(self) -> GeoReference | None:
        """The georeference; None if the file has none."""
        return GeoReference.of(self)
