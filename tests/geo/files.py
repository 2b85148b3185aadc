"""GeoTIFFs of 8 rows and 10 columns in several coordinate reference systems."""

from __future__ import annotations

from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from inference_server.geo import GeoReference
from inference_server.images.gdal import gdal

SIZE = (8, 10)
UTM = CRS.from_epsg(32633)

PLACES: dict[str, tuple[CRS, Affine]] = {
    "mercator": (CRS.from_epsg(3857), Affine(0.6, 0, -13609328.39, 0, -0.6, 4561446.23)),
    "degrees": (CRS.from_epsg(4326), Affine(1e-5, 0, 14.97, 0, -1e-5, 50.02)),
    "utm": (UTM, Affine(10, 0, 499000, 0, -10, 5539000)),
    "turned": (UTM, Affine(0.08, 0.06, 499000, 0.06, -0.08, 5539000)),  # rotated by 37 degrees
    "sheared": (UTM, Affine(2, 0.7, 499000, -0.4, -3, 5539000)),
}


def on_map(transform: Affine, column: float, row: float) -> list[float]:
    """Return (x, y) of a pixel coordinate, by the definition of the transform."""
    a, b, c, d, e, f = transform[:6]
    return [a * column + b * row + c, d * column + e * row + f]


def reference(place: str, size: tuple[int, int] = SIZE) -> GeoReference:
    crs, transform = PLACES[place]
    return GeoReference(crs, transform, size)


def tiff(crs: CRS | None, transform: Affine | None, **options: Any) -> bytes:
    """Write a file with rasterio."""
    height, width = SIZE
    with gdal(), MemoryFile() as file:
        with file.open(
            driver="GTiff",
            width=width,
            height=height,
            count=1,
            dtype="uint8",
            crs=crs,
            transform=transform,
            **options,
        ) as image:
            image.write(np.arange(height * width, dtype=np.uint8).reshape(1, height, width))
        return bytes(file.getbuffer())
