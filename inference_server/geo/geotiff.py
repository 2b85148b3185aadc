"""Label planes as GeoTIFF files."""

from __future__ import annotations

from inference_server.geo.georeference import GeoReference
from inference_server.images.gdal import gdal
from inference_server.masks import LabelPlane


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
