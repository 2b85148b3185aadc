"""Rasters: TIFF files of numbers that are no plain colours, read by GDAL.

These are what satellites, aeroplanes and instruments deliver: more than eight bits or fractions,
any number of bands, and pixels without data. Their colours are made so:

* The first three bands are red, green and blue. Of one or two bands the first is shown as grey. A
  band that the file calls alpha is no colour. A palette is looked up.
* Values of eight bits or fewer, unsigned, are taken as they are: the largest is 255.
* All others are scaled to 0 to 255 by one linear scale for all three bands, so that hues stay: from
  the lowest of the bands' 0.1st percentiles to the highest of their 99.9th. Nobody says in the file
  what is black and what is white, and sensors use a small part of their range. The percentiles are
  wide, because small bright objects must not be lost, and yet a hot pixel must not darken all else.
  They are taken over valid pixels, on at most a million of them, evenly strided. Where they
  coincide, the extremes take their place; in an image of one value everything is black.
* Pixels without data are black: all their colours have the file's nodata value, or are NaN or
  infinite. Transparent ones have no part in the scale, and then show what lies below, as everywhere
  in this package.

Pixels are read in windows, see `gdal` for the rest of what protects from strangers' files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import ImageError
from inference_server.images.failures import DamagedError, could_not_load, damaged
from inference_server.images.gdal import opened_tiff
from inference_server.images.headers import Header, read_header
from inference_server.images.orientation import upright
from inference_server.images.tiff import SIGNATURES, survey_tiff

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

_WINDOW_PIXELS = 2**21
_SAMPLE_PIXELS = 1_000_000

_Array = NDArray[Any]
_Mask = NDArray[np.bool_]


class _Part(NamedTuple):
    """A window's content.

    Attributes:
        values: of the file's type [bands, h, w].
        known: which of them are data, `bool[bands, h, w]`; None if all are.
        shown: pixels that are not transparent, `bool[h, w]`; None if all are.
    """

    values: _Array
    known: _Mask | None
    shown: _Mask | None


def decode_raster(data: bytes, header: Header) -> NDArray[np.uint8]:
    """Decodes a TIFF file with GDAL, its colours made as this module says.

    Takes the memory of the result, of a few windows of two megapixels, and of one of the file's
    tiles or strips where that is larger.

    Args:
        data: the file.
        header: what `read_header` says of it, held against the limit on pixels.

    Returns:
        Pixels in RGB, as stored: uint8[H, W, 3].

    Raises:
        ImageError: the values are complex numbers, or the file is damaged.
    """
    with _opened(data, (header.height, header.width)) as raster:
        colours = raster.colours()
        pixels = np.zeros((header.height, header.width, 3), np.uint8)
        for window in raster.windows():
            part = raster.read(window)
            place = pixels[window.toslices()]
            for band, values in enumerate(part.values):
                converted = colours(values)
                if len(part.values) == 3:
                    place[:, :, band] = converted
                else:  # grey for all three, or what a palette has in three already
                    place[:] = converted if converted.ndim == 3 else converted[:, :, None]
            if part.known is not None:
                place[~part.known.any(axis=0)] = 0
        return pixels


def valid_pixels(data: bytes) -> NDArray[np.bool_] | None:
    """Tells where an image has data.

    Made for an image that `decode_picture` has accepted: limits on its size are not checked again.

    Args:
        data: the encoded image, of any format.

    Returns:
        False where the raster says there is nothing: its nodata value, its mask, full transparency,
        NaN or infinity. `bool[H, W]`, upright, as `decode_image` returns the pixels. None if all is
        valid, or the data is not TIFF, or plain and of a kind that GDAL does not read. Where
        nothing in the file can be invalid, no pixels are read.

    Raises:
        ImageError: the data is TIFF, and damaged.
    """
    if not data.startswith(SIGNATURES):
        return None
    header = read_header(data)
    if header.decoder == "rasterio":
        return _valid(data, (header.height, header.width), header.orientation)
    found = survey_tiff(data)
    try:
        return _valid(data, (found.height, found.width), found.orientation)
    except ImageError:  # GDAL is not what the image depends on
        return None


def _valid(data: bytes, shape: tuple[int, int], orientation: int) -> _Mask | None:
    """As `valid_pixels`, of a file whose header names this height and width, as stored."""
    with _opened(data, shape) as raster:
        if not raster.may_be_invalid:
            return None
        valid = np.ones(shape, np.bool_)
        for window in raster.windows():
            part = raster.read(window, with_values=raster.fractions)
            place = valid[window.toslices()]
            if part.known is not None:
                place &= part.known.any(axis=0)
            if part.shown is not None:
                place &= part.shown
    if valid.all():
        return None
    return upright(valid.view(np.uint8), orientation).view(np.bool_)


class _Raster:
    """An open file, and how its colours are to be read."""

    def __init__(self, dataset: DatasetReader) -> None:
        from rasterio.enums import ColorInterp, MaskFlags

        kinds = dataset.colorinterp
        bands = [band for band, kind in enumerate(kinds, 1) if kind != ColorInterp.alpha] or [1]
        self._dataset = dataset
        self._bands = bands[: 3 if len(bands) >= 3 else 1]
        flags = dataset.mask_flag_enums[self._bands[0] - 1]
        self._blank = MaskFlags.nodata in flags
        self._covered = not self._blank and MaskFlags.all_valid not in flags
        self._type = np.dtype(dataset.dtypes[self._bands[0] - 1])
        # A palette is a table, and not one of four billion entries.
        small = self._type in (np.uint8, np.uint16)
        self._palette = small and kinds[self._bands[0] - 1] == ColorInterp.palette
        self.fractions = self._type.kind == "f"
        self.may_be_invalid = self._blank or self._covered or self.fractions

    def windows(self, step: int = 1) -> Iterator[Window]:
        """Windows that cover the image, of whole tiles or strips, so that each is unpacked once.

        Args:
            step: only every `step`th row is needed, and strips between them are left out.
        """
        from rasterio.windows import Window

        height, width = self._dataset.shape
        rows, columns = self._dataset.block_shapes[self._bands[0] - 1]
        if rows < step and columns >= width:
            rows, columns, skip = 1, width, step
        elif rows * width <= _WINDOW_PIXELS:
            rows *= max(1, _WINDOW_PIXELS // (rows * width))
            columns, skip = width, rows
        else:
            columns *= max(1, _WINDOW_PIXELS // (rows * columns))
            skip = rows
        for y in range(0, height, skip):
            for x in range(0, width, columns):
                yield Window(x, y, min(columns, width - x), min(rows, height - y))

    def read(self, window: Window, *, with_values: bool = True) -> _Part:
        """Reads the colours' bands of a window; `with_values` may be spared for whole numbers."""
        values = (
            self._dataset.read(self._bands, window=window)
            if with_values
            else np.empty((0, 0, 0), self._type)
        )
        known = np.isfinite(values) if self.fractions else None
        if self._blank:
            given = self._dataset.read_masks(self._bands, window=window).astype(np.bool_)
            known = given if known is None else known & given
        shown = None
        if self._covered:
            shown = self._dataset.read_masks(self._bands[0], window=window).astype(np.bool_)
        return _Part(values, known, shown)

    def colours(self) -> Callable[[_Array], NDArray[np.uint8]]:
        """How a band's values [h, w] become colours: uint8[h, w], of a palette uint8[h, w, 3]."""
        size = 256**self._type.itemsize
        if self._palette:
            table = np.zeros((size, 3), np.uint8)
            for index, colour in self._dataset.colormap(self._bands[0]).items():
                table[index] = colour[:3]
            return partial(np.take, table, axis=0)
        whole = self._type.kind in "iu" and self._type.itemsize <= 2
        if self._type == np.uint8:
            bits = int(self._dataset.tags(self._bands[0], ns="IMAGE_STRUCTURE").get("NBITS", 8))
            low, high = 0.0, float(2 ** min(max(bits, 1), 8) - 1)  # whatever the metadata say
        else:
            low, high = self._range()
        negative = self._dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
        convert = partial(_to_bytes, low=low, high=high, negative=negative)
        if not whole:
            return convert
        unsigned = np.dtype(f"u{self._type.itemsize}")
        table = convert(np.arange(size, dtype=unsigned).view(self._type))
        return lambda values: np.take(table, values.view(unsigned))

    def _range(self) -> tuple[float, float]:
        """The values that become 0 and 255."""
        height, width = self._dataset.shape
        step = math.ceil(math.sqrt(height * width / _SAMPLE_PIXELS))
        samples: list[list[_Array]] = [[] for _ in self._bands]
        for window in self.windows(step):
            part = self.read(window)
            strided = np.s_[-window.row_off % step :: step, -window.col_off % step :: step]
            for band, values in enumerate(part.values):
                valid = np.ones(values[strided].shape, np.bool_)
                if part.known is not None:
                    valid &= part.known[band][strided]
                if part.shown is not None:
                    valid &= part.shown[strided]
                samples[band].append(values[strided][valid])
        bands = [band for band in map(np.concatenate, samples) if band.size]
        if not bands:
            return 0.0, 0.0
        lows, highs = zip(*(_spread(band) for band in bands), strict=True)
        if min(lows) == max(highs):
            return float(min(map(np.min, bands))), float(max(map(np.max, bands)))
        return min(lows), max(highs)


def _spread(values: _Array) -> tuple[float, float]:
    """The 0.1st and the 99.9th percentile, both values that occur: of 1000 or fewer the extremes.

    Args:
        values: of any real type [n], n at least 1.
    """
    beyond = (values.size - 1) // 1000
    ordered = np.partition(values, (beyond, values.size - 1 - beyond))
    return float(ordered[beyond]), float(ordered[values.size - 1 - beyond])


def _to_bytes(
    values: _Array, *, low: float, high: float, negative: bool = False
) -> NDArray[np.uint8]:
    """Scales values of any real type and shape to 0 to 255; NaN becomes 0."""
    with np.errstate(all="ignore"):  # values may be as large as their type allows
        if low < high:
            scaled: NDArray[np.floating[Any]] = values.astype(
                np.float32 if values.dtype == np.float32 else np.float64
            )
            scaled -= low
            scaled *= 255 / (high - low)
        else:
            scaled = np.where(values > high, np.float32(255), np.float32(0))
        np.nan_to_num(scaled, copy=False, posinf=255, neginf=0)
        np.rint(scaled.clip(0, 255, out=scaled), out=scaled)
        whole = scaled.astype(np.uint8)
    return np.subtract(255, whole) if negative else whole


@contextmanager
def _opened(data: bytes, shape: tuple[int, int]) -> Iterator[_Raster]:
    """Opens a TIFF file with GDAL; whatever fails until it is closed is the file's damage.

    Args:
        data: the file.
        shape: height and width that its header names.
    """
    try:
        with opened_tiff(data) as dataset:
            if dataset.shape != shape:
                raise DamagedError("contradicts itself about its size")
            if any(kind.startswith("complex") for kind in dataset.dtypes):
                raise could_not_load(
                    "The TIFF file has complex numbers, whose brightness is not defined.",
                    "Send their magnitude, or another real quantity.",
                )
            yield _Raster(dataset)
    except ImageError:
        raise
    except Exception as error:  # GDAL fed with garbage fails in many ways
        raise damaged("TIFF", error) from error
