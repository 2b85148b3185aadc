"""Coordinate reference systems that clients and files name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import RequestError
from inference_server.images.gdal import gdal

if TYPE_CHECKING:
    from rasterio.crs import CRS

# An authority's code and nothing else: PROJ strings and WKT can name files, which PROJ then opens,
# and GDAL takes paths and URLs for CRS.
_NAME = re.compile(
    r"(?:urn:ogc:def:crs:)?(EPSG|ESRI|OGC):(?:[\d.]{0,16}:)?(\d{1,6}|CRS84)", re.ASCII | re.I
)


def parse_crs(name: str) -> CRS:
    """The CRS that a client names.

    Args:
        name: an authority's code, such as `EPSG:4326` or `ESRI:54009`, or `OGC:CRS84`, or either as
            a URN (`urn:ogc:def:crs:EPSG::4326`), in upper or lower case.

    Raises:
        RequestError: it is none of these, or the authority has no such code, or this is no CRS of
            two horizontal axes.
    """
    from rasterio.crs import CRS

    match = _NAME.fullmatch(name.strip())
    if match is not None:
        with gdal():
            try:
                crs = CRS.from_authority(match[1].upper(), match[2].upper())
            except ValueError:  # CRSError is one, and so is what CRS84 of EPSG raises
                crs = None
            if crs is not None and (crs.is_geographic or crs.is_projected):
                return crs
    shown = name if len(name) <= 60 else name[:60] + "…"
    raise RequestError(
        f"point_crs {shown!r} is not a known coordinate reference system. Give an authority's "
        "code, such as 'EPSG:4326' for longitude and latitude, or leave point_crs out for pixel "
        "coordinates."
    )


def harmless(crs: CRS | None) -> CRS | None:
    """The CRS of a stranger's file, such that no transformation with it opens other files.

    A GeoTIFF may hold WKT, and WKT the parameters of PROJ (`nadgrids=`), or a grid's file by name.
    In its place comes the definition of the same EPSG code, or none where there is no such code.
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    if crs is None:
        return None
    try:
        wkt = crs.to_wkt() + crs.to_wkt(version="WKT2_2019")
        # Shifts by numbers are named after their parameter.
        if not re.search("(?<!towgs84)=|PARAMETERFILE", wkt, re.I):
            return crs
        code = crs.to_epsg()
        return None if code is None else CRS.from_epsg(code)
    except CRSError:
        return None


def transform_points(source: CRS, target: CRS, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points from one CRS to another; the one that cannot be transformed becomes NaN.

    Args:
        source: of `points`.
        target: of the result.
        points: float64 [N, 2] of (x, y), which is (longitude, latitude) where a CRS is geographic,
            whatever order its authority has.

    Returns:
        float64 [N, 2] of (x, y).
    """
    with gdal():
        if source == target:
            return points.copy()
        moved = _transform(source, target, points)
        if moved is None:  # GDAL fails for all if it does for one
            moved = np.full(points.shape, np.nan)
            for i in range(len(points)):
                one = _transform(source, target, points[i : i + 1])
                if one is not None:
                    moved[i] = one[0]
    moved[~np.isfinite(moved).all(axis=1)] = np.nan
    return moved


def _transform(source: CRS, target: CRS, points: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """As `transform_points`; None if GDAL refuses."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    try:
        return np.array(transform(source, target, points[:, 0], points[:, 1]), np.float64).T
    except (CPLE_BaseError, RasterioError, ValueError):
        return None
