"""Output coordinates in another coordinate reference system (CRS) than the image's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import RequestError
from inference_server.geo.antimeridian import cut
from inference_server.geo.crs import label_of, parse_crs, transform_points, turn_of, urn_of
from inference_server.geo.georeference import GeoReference

if TYPE_CHECKING:
    from rasterio.crs import CRS

_LONGEST = 64.0
"""Longest edge in pixels of a reprojected polygon.

A straight edge is curved in another CRS. Of 64 pixels, it is off by about a tenth of a pixel
where a pixel is a kilometre wide, and by less where it is smaller.
"""

_AS_IT_IS = "omit geojson_crs for the coordinates of the image"


class MapCoordinates(Protocol):
    """Converts pixel coordinates to those of an output, in a CRS that it names."""

    @property
    def label(self) -> str | None:
        """Name of the CRS, such as `EPSG:3857`; None without a CRS."""
        ...

    @property
    def urn(self) -> str | None:
        """Name of the CRS in GeoJSON, such as `urn:ogc:def:crs:EPSG::3857`; None without one."""
        ...

    def map_parts(
        self, parts: Sequence[Sequence[NDArray[np.float64]]], *, exact: bool = True
    ) -> list[list[list[list[float]]]]:
        """Convert polygons from pixel to map coordinates.

        Args:
            parts: closed rings of each polygon, `float64[n, 2]`, (x, y); the outer ring is first.
            exact: whether to add vertices where a straight edge is curved in the CRS. Default:
                true.

        Returns:
            The rings of each polygon as lists of [x, y].
        """
        ...

    def cut(self, rings: list[list[list[float]]]) -> list[list[list[list[float]]]]:
        """Cut a polygon of `map_parts` where the CRS asks for it.

        Args:
            rings: its rings.

        Returns:
            The rings of each part; of one part if it is not cut.
        """
        ...


@dataclass(frozen=True)
class Reprojection:
    """Coordinates of an image's georeference, in another CRS.

    Where x repeats once around the Earth, a polygon is not torn apart: its outer ring begins within
    the CRS's own turn, for instance from longitude -180 to 180, and a polygon that crosses the
    antimeridian continues beyond it, unless it is cut there.

    Attributes:
        reference: the image's georeference.
        crs: CRS of the coordinates.
    """

    reference: GeoReference
    crs: CRS

    @classmethod
    def of(cls, reference: GeoReference | None, name: str) -> Reprojection:
        """Parse the CRS that a client names.

        Args:
            reference: the image's georeference; None if it has none.
            name: an EPSG code, or a name as `parse_crs` accepts it.

        Raises:
            RequestError: the name is unknown, or the image has no CRS.
        """
        name = name.strip()
        code = f"EPSG:{name}" if name.isascii() and name.isdigit() else name
        crs = parse_crs(code, "geojson_crs", _AS_IT_IS)
        if reference is None or reference.crs is None:
            raise RequestError(
                "geojson_crs requires an image with a coordinate reference system; this image has "
                "none. Omit geojson_crs for pixel coordinates."
            )
        return cls(reference, crs)

    @cached_property
    def label(self) -> str:
        """Name of the CRS, such as `EPSG:4326`; WKT if no code defines it."""
        return label_of(self.crs)

    @cached_property
    def urn(self) -> str:
        """Name of the CRS in GeoJSON, such as `urn:ogc:def:crs:OGC:1.3:CRS84`."""
        return urn_of(self.crs)

    @cached_property
    def _turn(self) -> float | None:
        return turn_of(self.crs)

    def map_parts(
        self, parts: Sequence[Sequence[NDArray[np.float64]]], *, exact: bool = True
    ) -> list[list[list[list[float]]]]:
        """Convert polygons from pixel to map coordinates; see `MapCoordinates`.

        Raises:
            RequestError: a point cannot be transformed.
        """
        if not parts:
            return []
        if exact and self.crs != self.reference.crs:
            parts = [[_divided(ring) for ring in part] for part in parts]
        rings = [ring for part in parts for ring in part]
        assert self.reference.crs is not None  # noqa: S101 - checked by `of`
        moved = transform_points(
            self.reference.crs,
            self.crs,
            self.reference.to_map(np.concatenate(rings)),
            max_calls=self.reference.max_calls,
        )
        if np.isnan(moved).any():
            raise RequestError(
                f"An object cannot be transformed to {self.label}. Choose another geojson_crs, or "
                f"{_AS_IT_IS}."
            )
        pieces = iter(np.split(moved, np.cumsum([len(ring) for ring in rings])[:-1]))
        return [self._whole([next(pieces) for _ in part]) for part in parts]

    def cut(self, rings: list[list[list[float]]]) -> list[list[list[list[float]]]]:
        """Cut a polygon at the antimeridian if coordinates are longitudes and latitudes."""
        turn = self._turn
        return cut(rings, turn / 2) if turn is not None and self.crs.is_geographic else [rings]

    def _whole(self, rings: list[NDArray[np.float64]]) -> list[list[list[float]]]:
        """Move the rings of a polygon by whole turns so that they are not torn apart."""
        turn = self._turn
        if turn is None:
            return [ring.tolist() for ring in rings]
        outer = 0.0
        for number, ring in enumerate(rings):
            x = np.unwrap(ring[:, 0], period=turn)
            middle = float(x.min() + x.max()) / 2
            turns = 0.0
            if number:  # a hole, which is within the outer ring
                turns = round((outer - middle) / turn)
            elif self.crs.is_geographic:
                turns = -math.floor(float(x.min()) / turn + 0.5)
            if not number:
                outer = middle + turns * turn
            ring[:, 0] = x + turns * turn
        return [ring.tolist() for ring in rings]


def _divided(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add points to a closed ring so that no edge is longer than `_LONGEST`."""
    edges = np.diff(ring, axis=0)
    pieces = np.ceil(np.abs(edges).max(axis=1) / _LONGEST).clip(1).astype(np.int64)
    if pieces.max(initial=1) == 1:
        return ring
    own = np.repeat(np.arange(len(edges)), pieces)
    step = np.arange(len(own)) - (pieces.cumsum() - pieces)[own]
    points = ring[own] + edges[own] * (step / pieces[own])[:, None]
    return np.concatenate([points, ring[-1:]])
