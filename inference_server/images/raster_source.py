"""Image files of any size that stay where they are: in memory, or on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import IO

from inference_server.images.failures import could_not_load, too_large
from inference_server.images.file_bytes import Bytes, FileBytes, sha256
from inference_server.images.headers import Header, read_header, tiff_header
from inference_server.images.raster_file import RasterFile
from inference_server.images.window_reader import CONVERT, RasterLimits, WindowReader, check_survey

_SMALL = 2**20
"""Files up to this many bytes are kept in memory."""


class RasterSource:
    """An image file, its structure and its digest, each read once. Call it in worker threads.

    It need not be a raster: files of other formats are read as a whole. Close it when you no longer
    need it.

    Args:
        data: the file.
        limits: limits of reading it.

    Attributes:
        data: the file, for `GeoRaster` and others that read its structure.
    """

    def __init__(self, data: Bytes, limits: RasterLimits) -> None:
        self.data = data
        self._limits = limits
        self._file = RasterFile(data, max_metadata_items=limits.max_metadata_items)

    @classmethod
    def of(cls, file: IO[bytes], limits: RasterLimits) -> RasterSource:
        """Open a file that is open already; it may be closed or deleted afterwards.

        Args:
            file: the file, complete. One in memory needs no descriptor.
            limits: limits of reading it.
        """
        size = file.seek(0, os.SEEK_END)
        if size > _SMALL:
            return cls(FileBytes(file), limits)
        file.seek(0)
        return cls(file.read(), limits)

    @classmethod
    def at(cls, path: Path, limits: RasterLimits) -> RasterSource:
        """Open a file by its path.

        Args:
            path: the path.
            limits: limits of reading it.

        Raises:
            OSError: the file cannot be opened.
        """
        with path.open("rb") as file:
            return cls.of(file, limits)

    def __enter__(self) -> RasterSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; repeatedly if you like."""
        if isinstance(self.data, FileBytes):
            self.data.close()

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return len(self.data)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file in hexadecimal."""
        return sha256(self.data)

    @property
    def is_tiff(self) -> bool:
        """Whether the file says that it is a TIFF file."""
        return self._file.is_tiff

    @cached_property
    def header(self) -> Header:
        """Format and size.

        Raises:
            ImageError: the format is not supported, or the file violates it.
            ImageTooLargeError: it is no TIFF file, and too large to be read as a whole.
        """
        if self._file.survey is not None:
            return tiff_header(self._file.survey)
        return read_header(self.content())

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright image in pixels; raises what `header` does."""
        return self.header.upright_size

    def fits(self, max_pixels: int, max_side: int) -> bool:
        """Whether the image may be read and encoded as a whole.

        Args:
            max_pixels: maximum number of pixels of one image.
            max_side: maximum width and height of one image in pixels.

        Raises:
            ImageError: see `header`.
            ImageTooLargeError: see `header`.
        """
        header = self.header
        return (
            self.nbytes <= self._limits.max_content_bytes
            and header.pixels <= max_pixels
            and max(header.width, header.height) <= max_side
        )

    def needs_windows(self, max_pixels: int, max_side: int) -> bool:
        """Whether the image is too large to be read as a whole, so that only windows are left.

        Args:
            max_pixels: see `fits`.
            max_side: see `fits`.

        Raises:
            ImageTooLargeError: it is, and is no TIFF file; or see `header`.
            ImageError: see `header`.
        """
        if self.fits(max_pixels, max_side):
            return False
        if not self.is_tiff:
            header = self.header
            raise too_large(
                f"The image has {header.width} x {header.height} pixels, and of larger images than "
                f"{max_pixels:,} pixels or {max_side:,} per side only TIFF files are read, by "
                "windows.",
                f"Convert it, such as with `{CONVERT}`, or send a smaller image; the limits are "
                "the server's settings INFERENCE_MAX_IMAGE_PIXELS and INFERENCE_MAX_IMAGE_SIDE.",
            )
        return True

    def check(self) -> None:
        """Check that the image can be read by windows.

        Raises:
            ImageTooLargeError: it exceeds a limit.
            ImageError: it is damaged, no TIFF file, or has CMYK colours.
        """
        if self._file.survey is None:
            raise could_not_load(
                f"Only TIFF files are read by windows, and this is a {self.header.format} file.",
                f"Convert it, such as with `{CONVERT}`, or send a smaller image without "
                "`tile_size` and `tiles`.",
            )
        check_survey(self._file.survey, self._limits)

    def content(self) -> bytes:
        """Read the whole file.

        Raises:
            ImageTooLargeError: the file is too large for that.
        """
        if self.nbytes > self._limits.max_content_bytes:
            limit = f"{self._limits.max_content_bytes / 2**20:,.0f} MiB"
            if self.is_tiff:
                raise too_large(
                    f"The image file is larger than {limit}.",
                    "Have it read by windows, send a smaller image, or raise the server's setting "
                    "INFERENCE_MAX_UPLOAD_MB.",
                )
            raise too_large(
                f"The image file is larger than {limit}, and only TIFF files may be.",
                f"Convert it, such as with `{CONVERT}`; the limit is the server's setting "
                "INFERENCE_MAX_UPLOAD_MB.",
            )
        return self.data[0 : self.nbytes]

    def reader(self, bands: Sequence[int] | None = None) -> WindowReader:
        """Open the image to read it by windows.

        Args:
            bands: numbers of the bands to show, one or three, the first band being 1. Default:
                those that the file says, see `raster`.

        Raises:
            ImageTooLargeError: it exceeds a limit.
            ImageError: it is damaged, no TIFF file, or its colours cannot be read.
            RequestError: it lacks one of the bands.
        """
        self.check()
        items = self._limits.max_metadata_items
        file = RasterFile(self.data, max_metadata_items=items, bands=bands)
        return WindowReader(file, self._limits)
