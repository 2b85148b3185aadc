"""GDAL, by rasterio: how it is entered.

rasterio takes 0.3 s to import, which only requests about georeferenced images should wait for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gdal() -> Iterator[None]:
    """Where rasterio is to be called: without files beside the given one, and without noise.

    Errors become exceptions and lines of the `rasterio` logger; elsewhere GDAL writes to stderr.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    # For the whole process, since `warnings.catch_warnings` is not for threads. An image without a
    # place on Earth is nothing to be warned of here.
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    with rasterio.Env(
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
        GDAL_PAM_ENABLED="NO",
        GDAL_GEOREF_SOURCES="INTERNAL",
    ):
        yield
