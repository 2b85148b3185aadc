"""Rasters: TIFF files of values that are not plain colours, read with GDAL.

Satellites, aircraft and instruments produce them: more than eight bits or floating point, any
number of bands, pixels without data. They are converted to RGB as follows:

* The bands that the file tags as red, green and blue have these colours, in any order. Without all
  three tags, the first three bands are red, green and blue; of one or two bands, the first is shown
  as grey. Alpha bands are skipped. A palette is applied.
* Unsigned values of up to eight bits keep their values; the largest becomes 255.
* All other values are scaled linearly to 0 to 255, with one scale for all three bands, which keeps
  the hues: from the lowest of the bands' 0.1st percentiles to the highest of their 99.9th. The file
  does not say which values are black and white, and sensors use a small part of their range. These
  percentiles keep small bright objects and ignore hot pixels. They are taken over valid pixels, on
  an evenly strided sample of about a million. If they are equal, the minimum and maximum replace
  them; an image of one value is black.
* Pixels without data are black: all their bands equal the file's nodata value, or are NaN or
  infinite. Transparent pixels do not affect the scale, but keep their colours, as in every other
  format of this package.

Pixels are read in windows. `gdal` describes the other protections against untrusted files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference_server.executor import stop_if_cancelled
from inference_server.images.stretch import SAMPLE_PIXELS, to_bytes, value_range

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

_WINDOW_PIXELS = 2**21

_Array = NDArray[Any]
_Mask = NDArray[np.bool_]


class _Part(NamedTuple):
    """The content of a window.

    Attributes:
        values: `[bands, h, w]` in the file's dtype.
        known: which values are data, `bool[bands, h, w]`; None if all are.
        shown: which pixels are not transparent, `bool[h, w]`; None if all are.
    """

    values: _Array
    known: _Mask | None
    shown: _Mask | None


class OpenRaster:
    """An open file, and how to read its colours."""

    def __init__(self, dataset: DatasetReader) -> None:
        from rasterio.enums import ColorInterp, MaskFlags

        kinds = dataset.colorinterp
        bands = [band for band, kind in enumerate(kinds, 1) if kind != ColorInterp.alpha] or [1]
        self._dataset = dataset
        colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        tagged = [kinds.index(colour) + 1 for colour in colours if colour in kinds]
        self._bands = tagged if len(tagged) == 3 else bands[: 3 if len(bands) >= 3 else 1]
        flags = dataset.mask_flag_enums[self._bands[0] - 1]
        self._blank = MaskFlags.nodata in flags
        self._covered = not self._blank and MaskFlags.all_valid not in flags
        self._type = np.dtype(dataset.dtypes[self._bands[0] - 1])
        # A palette becomes a table by value; with 32-bit values it would have four billion rows.
        small = self._type in (np.uint8, np.uint16)
        self._palette = small and kinds[self._bands[0] - 1] == ColorInterp.palette
        self.fractions = self._type.kind == "f"
        self.may_be_invalid = self._blank or self._covered or self.fractions

    def windows(self, step: int = 1) -> Iterator[Window]:
        """Yield windows that cover the image, of whole tiles or strips: each is unpacked once.

        Args:
            step: only every `step`th row is needed; strips between them are skipped. Default 1.
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
        """Read the colour bands of a window.

        Args:
            window: the window.
            with_values: whether to read the values; integer types do not need them for the masks.
                Default True.
        """
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
        """Return the conversion of a band's values `[h, w]` to `uint8[h, w]`.

        With a palette it returns `uint8[h, w, 3]`.
        """
        size = 256**self._type.itemsize
        if self._palette:
            table = np.zeros((size, 3), np.uint8)
            for index, colour in self._dataset.colormap(self._bands[0]).items():
                table[index] = colour[:3]
            return partial(np.take, table, axis=0)
        whole = self._type.kind in "iu" and self._type.itemsize <= 2
        if self._type == np.uint8:
            bits = int(self._dataset.tags(self._bands[0], ns="IMAGE_STRUCTURE").get("NBITS", 8))
            low, high = (
                0.0,
                float(2 ** min(max(bits, 1), 8) - 1),
            )  # the metadata may hold any number
        else:
            low, high = self._range()
        negative = self._dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
        convert = partial(to_bytes, low=low, high=high, negative=negative)
        if not whole:
            return convert
        unsigned = np.dtype(f"u{self._type.itemsize}")
        table = convert(np.arange(size, dtype=unsigned).view(self._type))
        return lambda values: np.take(table, values.view(unsigned))

    def _range(self) -> tuple[float, float]:
        """Return the values that become 0 and 255."""
        height, width = self._dataset.shape
        step = math.ceil(math.sqrt(height * width / SAMPLE_PIXELS))
        samples: list[list[_Array]] = [[] for _ in self._bands]
        for window in self.windows(step):
            stop_if_cancelled()
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
        return value_range(bands)
