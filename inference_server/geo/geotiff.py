"""Label planes as GeoTIFF files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from inference_server.geo.georeference import GeoReference
from inference_server.images.file_bytes import write_whole
from inference_server.images.gdal import gdal
from inference_server.masks import STRIP_ROWS, LabelPlane

_TILE_BYTES = STRIP_ROWS * STRIP_ROWS * 4
"""Bytes of the largest tile, before compression."""


def write_labels(plane: LabelPlane, reference: GeoReference | None) -> bytes:
    """Write a label plane as a TIFF with one deflate-compressed band and no nodata value.

    Args:
        plane: `[H, W]` of unsigned integers, whose dtype the file keeps.
        reference: the image's georeference; None writes a TIFF without one.

    Returns:
        The file.

    Raises:
        ValueError: the georeference belongs to an image of another size.
    """
    if reference is not None and reference.size != plane.shape:
        raise ValueError(f"plane of size {plane.shape} for an image of size {reference.size}")
    from rasterio.io import MemoryFile

    height, width = plane.shape
    with gdal(), MemoryFile() as file:
        with file.open(
            driver="GTiff",
            width=width,
            height=height,
            count=1,
            dtype=plane.dtype.name,
            compress="deflate",
            crs=None if reference is None else reference.crs,
            transform=None if reference is None else reference.transform,
        ) as image:
            image.write(plane, 1)
        return bytes(file.getbuffer())


def write_label_strips(
    path: Path,
    strips: Iterable[LabelPlane],
    size: tuple[int, int],
    dtype: type[np.uint8] | type[np.uint16] | type[np.uint32],
    reference: GeoReference | None,
) -> None:
    """Write a label plane as a TIFF file, row block by row block.

    The file has one deflate-compressed band in tiles of 256 x 256 pixels and no nodata value. It is
    a BigTIFF if its tiles together could exceed 2 GB.

    Args:
        path: the file, which is created or replaced.
        strips: the plane's rows from top to bottom, as `label_strips` makes them.
        size: (height, width) of the image in pixels.
        dtype: type of the ids.
        reference: the image's georeference; None writes a TIFF without one.

    Raises:
        ValueError: the georeference belongs to an image of another size.
        OSError: the file cannot be written.
    """
    if reference is not None and reference.size != size:
        raise ValueError(f"plane of size {size} for an image of size {reference.size}")
    height, width = size
    with gdal():
        import rasterio
        from rasterio.errors import RasterioIOError
        from rasterio.windows import Window

        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=width,
            height=height,
            count=1,
            dtype=np.dtype(dtype).name,
            compress="deflate",
            tiled=True,
            blockxsize=STRIP_ROWS,
            blockysize=STRIP_ROWS,
            bigtiff="IF_SAFER",
            crs=None if reference is None else reference.crs,
            transform=None if reference is None else reference.transform,
        ) as image:
            top = 0
            for strip in strips:
                try:
                    image.write(strip, 1, window=Window(0, top, width, len(strip)))
                except RasterioIOError:
                    _fail(path)
                    raise
                top += len(strip)


def _fail(path: Path) -> None:
    """Raise the error of the system if a file cannot grow: GDAL's has no `errno`.

    Args:
        path: the file, which is useless and becomes longer.
    """
    with path.open("ab", buffering=0) as file:
        write_whole(file, bytes(_TILE_BYTES))
