"""Read rasters of any size by windows, in bounded memory.

The colours are those of `raster`, and the same in all windows: values are scaled by a sample of the
whole file, which comes from an overview if the file has one of a fitting size.

Memory does not depend on the raster's size: GDAL's cache of unpacked blocks (128 MiB for the whole
process), one block or two (`max_block_bytes`), and for a raster in strips, of which every window
would unpack whole rows again, up to 128 MiB of the rows that the last window is in.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inference_server.executor import stop_if_cancelled
from inference_server.images.failures import could_not_load, too_large
from inference_server.images.gdal import gdal, open_surveyed_tiff
from inference_server.images.orientation import upright
from inference_server.images.raster import OpenRaster
from inference_server.images.raster_file import RasterFile, blaming
from inference_server.images.tiff import MAX_METADATA_ITEMS, Tiff
from inference_server.images.window import Window, WindowPixels

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

    from inference_server.settings import Settings

_PIECE_PIXELS = 2**21
"""Pixels that are read at once."""

_STRIP_BYTES = 2**27
"""Bytes of the rows that are kept of a raster in strips, with four bytes per pixel."""

_OVERVIEW_PIXELS = 2**18, 2**26
"""Least and most pixels of an overview that the scale of values is taken from."""

CONVERT = "gdal_translate -co TILED=YES -co COMPRESS=DEFLATE -co BIGTIFF=IF_SAFER"
"""The command that makes any raster readable by windows."""

_Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class RasterLimits:
    """Limits of rasters that are read by windows.

    Attributes:
        max_pixels: maximum number of pixels; default 4 gigapixels.
        max_side: maximum width and height in pixels; default a million.
        max_block_bytes: maximum size of an unpacked tile or strip; default 64 MiB.
        max_metadata_items: maximum number of metadata items; default 8192.
        max_content_bytes: maximum size of a file that is read into memory as a whole; default 128
            MiB.
    """

    max_pixels: int = 4_000_000_000
    max_side: int = 1_000_000
    max_block_bytes: int = 2**26
    max_metadata_items: int = MAX_METADATA_ITEMS
    max_content_bytes: int = 2**27

    @classmethod
    def of(cls, settings: Settings) -> RasterLimits:
        """Return the limits that the settings ask for."""
        return cls(
            settings.max_raster_pixels,
            settings.max_raster_side,
            settings.max_raster_block_mb * 2**20,
            settings.max_tiff_metadata_items,
            settings.max_upload_mb * 2**20,
        )


def check_survey(found: Tiff, limits: RasterLimits) -> None:
    """Refuse a file that cannot be read by windows within the limits.

    Args:
        found: structure of the file.
        limits: the limits.

    Raises:
        ImageTooLargeError: it exceeds a limit.
        ImageError: its pixels are CMYK.
    """
    size = f"The raster has {found.width:,} x {found.height:,} pixels; the limit is"
    if found.width * found.height > limits.max_pixels:
        raise too_large(
            f"{size} {limits.max_pixels:,} in total.",
            "Cut the raster up; the limit is the server's setting INFERENCE_MAX_RASTER_PIXELS.",
        )
    if max(found.width, found.height) > limits.max_side:
        raise too_large(
            f"{size} {limits.max_side:,} per side.",
            "Cut the raster up; the limit is the server's setting INFERENCE_MAX_RASTER_SIDE.",
        )
    if found.inks:
        raise could_not_load(
            "The TIFF file has CMYK colours, which are not read by windows.",
            "Convert it to RGB, or send an image that is small enough to be read as a whole.",
        )
    _check_block(found.tile_bytes, limits)


def _check_block(size: int, limits: RasterLimits) -> None:
    """Refuse tiles or strips of `size` bytes."""
    if size > limits.max_block_bytes:
        raise too_large(
            f"Each tile or strip of the TIFF file takes {size / 2**20:,.0f} MiB unpacked; the "
            f"limit is {limits.max_block_bytes / 2**20:,.0f} MiB.",
            f"Write it in tiles, such as with `{CONVERT} old.tif new.tif`; the limit is the "
            "server's setting INFERENCE_MAX_RASTER_BLOCK_MB.",
        )


class WindowReader:
    """A TIFF file that is read by windows; a `WindowSource`. Call it in worker threads.

    Calls of several threads wait for each other. Close it when you no longer need it.

    Args:
        file: the file.
        limits: limits that it must keep. Default: those of the settings.

    Raises:
        ImageTooLargeError: it exceeds a limit.
        ImageError: it is damaged, is no TIFF file, or has CMYK colours or complex numbers.
        RequestError: it lacks one of the bands.
    """

    def __init__(self, file: RasterFile, limits: RasterLimits | None = None) -> None:
        limits = limits or RasterLimits()
        file.survey_all()
        found = file.survey
        assert found is not None  # noqa: S101 - `survey_all` raises for other formats
        check_survey(found, limits)
        self._file = file
        self._found = found
        self._lock = threading.Lock()
        self._strip: tuple[Window, WindowPixels] | None = None
        self._last: tuple[tuple[Window, int | None], WindowPixels] | None = None
        with ExitStack() as stack, blaming("TIFF"), gdal():
            self._dataset = stack.enter_context(open_surveyed_tiff(file.data))
            self._raster = file.checked(self._dataset, (found.height, found.width))
            _check_block(self._block_bytes(self._dataset), limits)
            self._open = stack.pop_all()

    def __enter__(self) -> WindowReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; repeatedly if you like."""
        with self._lock:
            self._strip = self._last = None
            self._open.close()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright raster in pixels."""
        height, width = self._found.height, self._found.width
        return (width, height) if self._found.orientation >= 5 else (height, width)

    def has_data(self, window: Window) -> bool:
        """Whether a window has any pixel with data; the window is read and kept for `read`.

        It is not read if it lies in blocks that the file leaves out (`SPARSE_OK` of GDAL).

        Args:
            window: a window inside the raster.

        Raises:
            ImageError: the file is damaged.
        """
        if not self._raster.may_be_invalid:
            return True
        if self._is_absent(window):
            return False
        valid = self.read(window).valid
        return valid is None or bool(valid.any())

    def read(self, window: Window, max_side: int | None = None) -> WindowPixels:
        """Read a window.

        Args:
            window: a window inside the raster.
            max_side: the longer side of the result in pixels; a larger window is reduced to it.
                Default: full resolution.

        Returns:
            The pixels, upright. Pixels without data are black.

        Raises:
            ImageError: the file is damaged.
        """
        asked = window, max_side
        with self._lock:
            stop_if_cancelled()
            if self._last is not None and self._last[0] == asked:
                return self._last[1]
            self._last = None
            orientation = self._found.orientation
            stored = self._as_stored(window)
            with blaming("TIFF"), gdal():
                if max_side is not None and max(window.size) > max_side:
                    share = max_side / max(window.size)
                    height, width = (max(1, round(side * share)) for side in stored.size)
                    found = self._draw(stored, height, width)
                else:
                    found = self._full(stored)
            if orientation > 1:
                valid = found.valid
                if valid is not None:
                    valid = upright(valid.view(np.uint8), orientation).view(np.bool_)
                found = WindowPixels(upright(found.pixels, orientation), valid)
            if self._raster.may_be_invalid:
                self._last = asked, found
            return found

    def _is_absent(self, window: Window) -> bool:
        """Whether the file has none of a window's blocks, which then have the nodata value."""
        if not self._raster.blank:
            return False
        stored = self._as_stored(window)
        rows, columns = self._raster.block
        across = range(stored.x // columns, (stored.right - 1) // columns + 1)
        down = range(stored.y // rows, (stored.bottom - 1) // rows + 1)
        with self._lock, blaming("TIFF"), gdal():
            return all(
                self._dataset.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=band) is None
                for y, x, band in product(down, across, set(self._raster.bands))
            )

    def _as_stored(self, window: Window) -> Window:
        """The window that holds an upright window's pixels in the file."""
        orientation = self._found.orientation
        x, y, width, height = window.x, window.y, window.width, window.height
        if orientation >= 5:
            x, y, width, height = y, x, height, width
        if orientation in (2, 3, 7, 8):
            x = self._found.width - x - width
        if orientation in (3, 4, 6, 7):
            y = self._found.height - y - height
        return Window(x, y, width, height)

    def _full(self, window: Window) -> WindowPixels:
        """Read a window of the file at full resolution, and keep its rows if they are strips."""
        if self._strip is not None:
            rows, found = self._strip
            if rows.overlap(window) == window:
                return _part(found, window, rows)
        self._strip = None
        _, columns = self._raster.block
        if columns < 2 * window.width or self._found.orientation >= 5:
            return self._draw(window, *window.size)
        room = max(window.width, _STRIP_BYTES // (4 * window.height))
        width = min(self._found.width - window.x, room)
        rows = Window(window.x, window.y, width, window.height)
        found = self._draw(rows, *rows.size)
        self._strip = rows, found
        return _part(found, window, rows)

    def _draw(self, window: Window, height: int, width: int) -> WindowPixels:
        """Read a window of the file, reduced to a height and width."""
        from rasterio.windows import Window as Rectangle

        pixels = np.empty((height, width, 3), np.uint8)
        if (height, width) != window.size:
            whole = Rectangle(window.x, window.y, window.width, window.height)
            return WindowPixels(pixels, self._raster.draw(whole, self._colours, pixels))
        valid = np.empty((height, width), np.bool_) if self._raster.may_be_invalid else None
        for y, rows in self._pieces(window):
            stop_if_cancelled()
            inside = slice(y - window.y, y - window.y + rows)
            piece = Rectangle(window.x, y, window.width, rows)
            known = self._raster.draw(piece, self._colours, pixels[inside])
            if valid is not None:
                valid[inside] = True if known is None else known
        return WindowPixels(pixels, None if valid is None or valid.all() else valid)

    def _pieces(self, window: Window) -> Iterator[tuple[int, int]]:
        """Yield first row and number of rows of the pieces of a window, between whole blocks."""
        step = max(1, _PIECE_PIXELS // window.width)
        block, _ = self._raster.block
        step = max(1, step // block) * block if block <= step else step
        y = window.y
        while y < window.bottom:
            end = min(window.bottom, (y // step + 1) * step)
            yield y, end - y
            y = end

    @cached_property
    def _colours(self) -> Any:
        """The conversion of values to colours, the same for all windows."""
        if not self._raster.is_stretched:
            return self._raster.colours()
        return self._raster.colours(self._overview_span() or self._raster.span())

    def _overview_span(self) -> tuple[float, float] | None:
        """The values that become 0 and 255, from an overview; None if none has a fitting size."""
        pixels = self._found.width * self._found.height
        least, most = _OVERVIEW_PIXELS
        if pixels <= most:
            return None  # the whole file is sampled, as for one image
        sizes = [pixels // factor**2 for factor in self._dataset.overviews(1)]
        fitting = [level for level, size in enumerate(sizes) if least <= size <= most]
        if not fitting:
            return None
        level = min(fitting, key=partial(_distance, sizes))
        with open_surveyed_tiff(self._file.data, level) as overview:
            return OpenRaster(overview, self._raster.bands).span()

    @staticmethod
    def _block_bytes(dataset: DatasetReader) -> int:
        """Bytes of one block of pixels as GDAL reads them."""
        rows, columns = dataset.block_shapes[0]
        together = dataset.count if dataset.interleaving.name == "pixel" else 1
        return int(rows * columns * np.dtype(dataset.dtypes[0]).itemsize * together)


def _distance(sizes: list[int], level: int) -> int:
    """How far an overview's pixels are from two million, enough for the percentiles."""
    return abs(sizes[level] - 2**21)


def _part(found: WindowPixels, window: Window, within: Window) -> WindowPixels:
    """Copy a window out of the pixels of a larger one."""
    y, x = window.y - within.y, window.x - within.x
    place = slice(y, y + window.height), slice(x, x + window.width)
    valid = None if found.valid is None else found.valid[place].copy()
    return WindowPixels(found.pixels[place].copy(), valid)
