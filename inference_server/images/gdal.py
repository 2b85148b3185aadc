"""GDAL, by rasterio: the only way to open untrusted files with it.

GDAL gets one driver, an open file or one in memory, and options that keep it from other files and
the network. `RasterFile` surveys the file's structure first. rasterio is imported on first use: it
takes 0.3 s, which only requests with rasters should wait for.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from inference_server.images.file_bytes import Bytes, FileBytes

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

# rasterio warns of images without a georeference. The filter is for the whole process, because
# `catch_warnings` is not thread-safe.
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
_CACHE_BYTES = 128 * 2**20  # shared by all files of the process


@contextmanager
def gdal() -> Iterator[None]:
    """Call rasterio inside this context: no other files, no network, no output to stderr.

    GDAL's errors become exceptions.
    """
    _prepare()
    from rasterio import Env
    from rasterio.session import DummySession

    with Env(session=DummySession(), **_OPTIONS):
        yield


@contextmanager
def open_surveyed_tiff(data: Bytes, overview: int | None = None) -> Iterator[DatasetReader]:
    """Open a TIFF file that `tiff.survey_tiff` and `tiff.survey_pages` accepted.

    Only `RasterFile` and `WindowReader` call this, because they survey. Every call of the dataset's
    methods must be inside `gdal`, which need not be entered for opening it.

    Args:
        data: the file.
        overview: index of the overview to open in place of the image. Default: the image.

    Raises:
        Exception: the file is damaged; GDAL fails in many ways.
    """
    options: dict[str, Any] = {"driver": "GTiff"}
    if overview is not None:
        options["overview_level"] = overview
    with ExitStack() as stack:
        with gdal():
            import rasterio
            from rasterio.io import MemoryFile

            if isinstance(data, FileBytes):
                dataset = rasterio.open(data.path, **options)
            else:
                dataset = stack.enter_context(MemoryFile(data)).open(**options)
        stack.callback(dataset.close)
        yield dataset


@functools.cache
def _prepare() -> None:
    """Configure the process, before the first file is opened."""
    from rasterio.env import set_gdal_config  # type: ignore[attr-defined]

    # Damaged files are the client's error, which the response reports.
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    # Not an option of `gdal`, which would reset it while other threads are reading.
    set_gdal_config("GDAL_CACHEMAX", _CACHE_BYTES)
