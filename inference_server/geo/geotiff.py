"""Label planes to GeoTIFF."""

from __future__ import annotations

from inference_server.geo.georeference import GeoReference
from inference_server.images.gdal import gdal
from inference_server.masks import LabelPlane


def write_labels(plane: LabelPlane, reference: GeoReference | None) -> bytes:
    """A TIFF of one deflated band, where the image's file lies.

    Args:
        plane: [H, W] of unsigned integers; they keep their type, and none stands for "no data".
        reference: of the image; None for a TIFF without a place.

    Returns:
        The file.

    Raises:
        ValueError: if the reference is of an image of another size.
    """
    if reference is not None and reference.size != plane.shape:
        raise ValueError(f"a plane {plane.shape} of an image of {reference.size}")
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
