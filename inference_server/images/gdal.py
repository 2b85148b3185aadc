"""GDAL, by rasterio: the one way in for files that come from strangers.

It is given one driver, a file in memory, and options that forbid looking anywhere else; `tiff` has
measured the file's structure before. rasterio takes 0.3 s to import, which only requests about
rasters should wait for.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from inference_server.images.tiff import survey_pages, survey_tiff

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

# An image without a place on Earth is nothing to be warned of. For the whole process: a filter for
# one call (`catch_warnings`) must not be used in threads.
warnings.filterwarnings("ignore", module=r"rasterio($|\.)")

_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "GDAL_NUM_THREADS": "1",
    "GTIFF_IGNORE_READ_ERRORS": "NO",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none",
    "CPL_DEBUG": "OFF",
}
_CACHE_BYTES = 128 * 2**20  # of the process, for all files at once


@contextmanager
def gdal() -> Iterator[None]:
    """Where rasterio is to be called: without other files, without the network, without noise.

    Errors become exceptions; elsewhere GDAL writes to stderr.
    """
    _prepare()
    from rasterio import Env
    from rasterio.session import DummySession

    with Env(session=DummySession(), **_OPTIONS):
        yield


@contextmanager
def opened_tiff(data: bytes) -> Iterator[DatasetReader]:
    """Opens a TIFF file.

    Args:
        data: the file.

    Raises:
        Exception: of any kind, for a damaged file; GDAL fed with garbage fails in many ways.
    """
    survey_tiff(data)
    survey_pages(data)
    with gdal():
        from rasterio.io import MemoryFile

        with MemoryFile(data) as file, file.open(driver="GTiff") as dataset:
            yield dataset


@functools.cache
def _prepare() -> None:
    """Settings of the process, made before the first file is opened."""
    from rasterio.env import set_gdal_config  # type: ignore[attr-defined]

    # What GDAL says of damaged files is no line in the log: see `decode`.
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    # Not among the options: when one thread's are taken back, others are still at work.
    set_gdal_config("GDAL_CACHEMAX", _CACHE_BYTES)
