"""Coordinate reference systems (CRS) named by clients and files."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import RequestError
from inference_server.executor import stop_if_cancelled
from inference_server.images.gdal import gdal

if TYPE_CHECKING:
    from rasterio.crs import CRS

# Only codes of authorities: PROJ strings and WKT can name files that PROJ opens, and GDAL reads a
# CRS from paths and URLs.
_NAME = re.compile(
    r"(?:urn:ogc:def:crs:)?(EPSG|ESRI|OGC):(?:[\d.]{0,16}:)?(\d{1,6}|CRS84)", re.ASCII | re.I
)

_CYLINDRICAL = frozenset({"merc", "webmerc", "eqc", "mill", "cea", "gall"})
"""PROJ's projections in which meridians are parallel lines of equal distance."""

IN_PIXELS = "omit point_crs and send pixel coordinates"
"""What a request without `point_crs` sends, for error messages."""

MAX_CALLS = 64
"""Default maximum calls of GDAL per transformation of points.

A call takes milliseconds; finding the failing one of 10,000 points takes 28.
"""


def parse_crs(name: str, field: str = "point_crs", otherwise: str = IN_PIXELS) -> CRS:
    """Return the CRS that a client names.

    Args:
        name: an authority's code such as `EPSG:4326`, `ESRI:54009` or `OGC:CRS84`, or the same as a
            URN (`urn:ogc:def:crs:EPSG::4326`); case-insensitive.
        field: field that names it, for the error message. Default: `point_crs`.
        otherwise: what to do without a CRS, for the error message. Default: that of `point_crs`.

    Raises:
        RequestError: the name has another form, the code is unknown, or the CRS is neither
            geographic nor projected.
    """
    from rasterio.crs import CRS

    match = _NAME.fullmatch(name.strip())
    if match is not None:
        with gdal():
            try:
                crs = CRS.from_authority(match[1].upper(), match[2].upper())
            except ValueError:  # `CRSError` is one; `EPSG:CRS84` raises another
                crs = None
            if crs is not None and (crs.is_geographic or crs.is_projected):
                return crs
    shown = name if len(name) <= 60 else name[:60] + "…"
    raise RequestError(
        f"{field} {shown!r} is not a known coordinate reference system. Send an authority's code "
        f"such as 'EPSG:4326' (longitude, latitude), or {otherwise}."
    )


def harmless(crs: CRS | None) -> CRS | None:
    """Return the CRS of an untrusted file, without definitions that make PROJ open other files.

    The WKT in a GeoTIFF may contain PROJ parameters (`nadgrids=`) or the name of a grid file. Such
    a CRS is replaced by the definition of its EPSG code.

    Args:
        crs: the file's CRS; None if it has none.

    Returns:
        A safe CRS; None if there is none, or if an unsafe one has no EPSG code.
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    if crs is None:
        return None
    try:
        wkt = crs.to_wkt() + crs.to_wkt(version="WKT2_2019")
        # `towgs84=` is followed by numbers, not by a file name.
        if not re.search("(?<!towgs84)=|PARAMETERFILE", wkt, re.I):
            return crs
        code = crs.to_epsg()
        return None if code is None else CRS.from_epsg(code)
    except CRSError:
        return None


def authority_of(crs: CRS) -> tuple[str, str] | None:
    """Return the authority and the code that define a CRS, such as `("ESRI", "102003")`.

    Returns:
        None if no code defines exactly this CRS. EPSG codes take precedence.
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    with gdal():
        try:
            code = crs.to_epsg()
            if code is not None:
                return "EPSG", str(code)
            found = crs.to_authority()
            # GDAL also proposes codes of similar systems.
            if found is not None and CRS.from_authority(*found) == crs:
                return str(found[0]), str(found[1])
        except (CRSError, ValueError):
            pass
    return None


def label_of(crs: CRS) -> str:
    """Return the name of a CRS, such as `EPSG:3857`; WKT if no code defines it."""
    authority = authority_of(crs)
    return wkt_of(crs) if authority is None else ":".join(authority)


def urn_of(crs: CRS) -> str:
    """Return the name of a CRS in GeoJSON, such as `urn:ogc:def:crs:EPSG::3857`.

    EPSG:4326 becomes `urn:ogc:def:crs:OGC:1.3:CRS84`, which has longitude before latitude. A CRS
    that no code defines is named by its WKT, which readers based on GDAL accept.
    """
    authority = authority_of(crs)
    if authority is None:
        return wkt_of(crs)
    if authority in (("EPSG", "4326"), ("OGC", "CRS84")):
        return "urn:ogc:def:crs:OGC:1.3:CRS84"
    return "urn:ogc:def:crs:{}::{}".format(*authority)


def wkt_of(crs: CRS) -> str:
    """Return a CRS as WKT: version 1, which more readers know, or 2 if that cannot express it."""
    from rasterio.errors import CRSError

    with gdal():
        try:
            return str(crs.to_wkt())
        except CRSError:
            return str(crs.to_wkt(version="WKT2_2019"))


def turn_of(crs: CRS) -> float | None:
    """Return the distance in x after which the same places follow again, once around the Earth.

    Args:
        crs: a geographic or projected CRS.

    Returns:
        360 for degrees, and the width of the world in cylindrical projections such as Mercator;
        None if coordinates do not repeat.
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    with gdal():
        try:
            if crs.is_geographic:
                return 2 * math.pi / float(crs.units_factor[1])
            definition = crs.to_dict()
        except CRSError:
            return None
        if definition.get("proj") not in _CYLINDRICAL:
            return None
        centre = float(definition.get("lon_0", 0))
        degree = transform_points(
            CRS.from_epsg(4326), crs, np.array([[centre - 0.5, 0], [centre + 0.5, 0]])
        )
    turn = abs(float(degree[1, 0] - degree[0, 0])) * 360
    return turn if math.isfinite(turn) and turn > 0 else None


def transform_points(
    source: CRS, target: CRS, points: NDArray[np.float64], *, max_calls: int = MAX_CALLS
) -> NDArray[np.float64]:
    """Transform points from one CRS to another.

    Args:
        source: CRS of `points`.
        target: CRS of the result.
        points: `float64[N, 2]`, (x, y); (longitude, latitude) in a geographic CRS, whatever axis
            order its authority defines.
        max_calls: maximum calls of GDAL; default 64.

    Returns:
        `float64[N, 2]`, (x, y); NaN for points that cannot be transformed. If many cannot, the
        first is found and those after it may all be NaN.
    """
    with gdal():
        if source == target:
            return points.copy()
        moved = np.full(points.shape, np.nan)
        # GDAL fails for all points if it fails for one. Halves are tried, the first ones first, so
        # that the first failing point is found however many fail.
        parts, calls = [(0, len(points))], 0
        while parts and calls < max_calls:
            stop_if_cancelled()
            start, stop = parts.pop()
            found = _transform(source, target, points[start:stop])
            calls += 1
            if found is not None:
                moved[start:stop] = found
            elif stop - start > 1:
                middle = (start + stop) // 2
                parts += [(middle, stop), (start, middle)]
    moved[~np.isfinite(moved).all(axis=1)] = np.nan
    return moved


def _transform(source: CRS, target: CRS, points: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Transform points as `transform_points` does; None if GDAL fails."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    try:
        return np.array(transform(source, target, points[:, 0], points[:, 1]), np.float64).T
    except (CPLE_BaseError, RasterioError, ValueError):
        return None
