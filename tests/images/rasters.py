"""TIFF files for tests, written by GDAL."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile


def write(
    bands: NDArray[Any],
    *,
    mask: NDArray[np.bool_] | None = None,
    overviews: tuple[int, ...] = (),
    colormap: dict[int, tuple[int, int, int, int]] | None = None,
    tags: dict[str, str] | None = None,
    tags_in: str | None = None,
    driver: str = "GTiff",
    **options: Any,
) -> bytes:
    """Encode bands as a TIFF file.

    Args:
        bands: values, `[bands, H, W]`.
        mask: validity of each pixel, `[H, W]`. Default: no mask.
        overviews: factors of overviews. Default: none.
        colormap: palette by value. Default: none.
        tags: metadata tags. Default: none.
        tags_in: namespace of the tags. Default: GDAL's.
        driver: GDAL's driver. Default: GTiff.
        options: creation options of GDAL.
    """
    count, height, width = bands.shape
    with (
        warnings.catch_warnings(),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"),
        MemoryFile() as file,
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with file.open(
            driver=driver, count=count, height=height, width=width, dtype=bands.dtype, **options
        ) as dataset:
            if colormap is not None:  # must be written before the pixels to make a palette file
                dataset.write_colormap(1, colormap)
            dataset.write(bands)
            if tags is not None:
                dataset.update_tags(ns=tags_in, **tags)
            if mask is not None:
                dataset.write_mask(mask)
            if overviews:
                dataset.build_overviews(overviews)
        data: bytes = file.read()
    return data
