"""Rasters: TIFF files of values that are not plain colours, read with GDAL.

Satellites, aircraft and instruments produce them: more than eight bits or floating point, any
number of bands, pixels without data. They are converted to RGB as follows:

* The bands that the file tags as red, green and blue have these colours, in any order. Without all
  three tags, the first three bands are red, green and blue; of one or two bands, the first is shown
  as grey. Alpha bands are skipped. A palette is applied. A request may choose other bands.
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
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import RequestError
from inference_server.executor import stop_if_cancelled
from inference_server.images.stretch import SAMPLE_PIXELS, to_bytes, value_range

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

_WINDOW_PIXELS = 2**21

_SAMPLED_PIXELS = 2**26
"""Pixels that may be unpacked to sample a file's values. Of a larger file, some blocks are."""

_LEAST_BLOCKS = 8
"""Rows of blocks to sample of a large file, at least."""

_BANDS = re.compile(r"\s*\d{1,5}\s*(,\s*\d{1,5}\s*){0,9}", re.ASCII)

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


def parse_bands(text: str) -> tuple[int, ...]:
    """Parse a choice of bands, such as `3,2,1`.

    Args:
        text: one or three numbers, the first band being 1; commas between them.

    Raises:
        RequestError: the text is anything else.
    """
    bands = tuple(map(int, text.split(","))) if _BANDS.fullmatch(text) else ()
    if len(bands) not in (1, 3) or 0 in bands:
        raise RequestError(
            f"bands {text[:40]!r} is not valid; send three numbers for red, green and blue, such "
            "as 3,2,1, or one for grey. The first band is 1."
        )
    return bands


class OpenRaster:
    """An open file, and how to read its colours.

    Args:
        dataset: the file. All calls must be inside `gdal`.
        bands: numbers of the bands to show, one or three. Default: those that the file says, see
            above.

    Attributes:
        bands: numbers of the bands to show, one or three.
        fractions: whether values are floating-point numbers.
        blank: whether a nodata value marks pixels without data.
        may_be_invalid: whether some pixels may be without data.
        palette: whether values are indices of colours.

    Raises:
        RequestError: the file lacks a band.
    """

    def __init__(self, dataset: DatasetReader, bands: Sequence[int] | None = None) -> None:
        from rasterio.enums import ColorInterp, MaskFlags

        kinds = dataset.colorinterp
        self._dataset = dataset
        self.bands = _shown_bands(kinds) if bands is None else list(bands)
        if max(self.bands) > len(kinds):
            raise RequestError(
                f"bands names band {max(self.bands)}, but the image has only {len(kinds)}. Send "
                "numbers of bands that it has, or omit bands."
            )
        flags = dataset.mask_flag_enums[self.bands[0] - 1]
        self.blank = MaskFlags.nodata in flags
        self._covered = not self.blank and MaskFlags.all_valid not in flags
        self._type = np.dtype(dataset.dtypes[self.bands[0] - 1])
        # A palette becomes a table by value; with 32-bit values it would have four billion rows.
        small = self._type in (np.uint8, np.uint16) and len(self.bands) == 1
        self.palette = small and kinds[self.bands[0] - 1] == ColorInterp.palette
        self.fractions = self._type.kind == "f"
        self.may_be_invalid = self.blank or self._covered or self.fractions

    @property
    def block(self) -> tuple[int, int]:
        """(height, width) in pixels of what GDAL unpacks at once: a tile, or rows of a strip."""
        rows, columns = self._dataset.block_shapes[self.bands[0] - 1]
        return int(rows), int(columns)

    def windows(self, step: int = 1) -> Iterator[Window]:
        """Yield windows that cover the image, of whole tiles or strips: each is unpacked once.

        Args:
            step: only every `step`th row is needed; strips between them are skipped. Default 1.
        """
        from rasterio.windows import Window

        height, width = self._dataset.shape
        rows, columns = self._dataset.block_shapes[self.bands[0] - 1]
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

    def read(
        self, window: Window, *, with_values: bool = True, size: tuple[int, int] | None = None
    ) -> _Part:
        """Read the colour bands of a window.

        Args:
            window: the window.
            with_values: whether to read the values; integer types do not need them for the masks.
                Default True.
            size: (height, width) of the result, at a lower resolution; overviews are used. Default:
                that of the window.
        """
        from rasterio.enums import Resampling

        size = size or (window.height, window.width)
        method = Resampling.average
        if self.palette or size == (window.height, window.width):
            method = Resampling.nearest
        shape = len(self.bands), *size
        values = (
            self._dataset.read(self.bands, window=window, out_shape=shape, resampling=method)
            if with_values
            else np.empty((0, 0, 0), self._type)
        )
        known = np.isfinite(values) if self.fractions else None
        masks = partial(self._dataset.read_masks, window=window)
        if self.blank:
            given = masks(self.bands, out_shape=shape).astype(np.bool_)
            known = given if known is None else known & given
        shown = None
        if self._covered:
            shown = masks(self.bands[0], out_shape=size).astype(np.bool_)
        return _Part(values, known, shown)

    def draw(
        self,
        window: Window,
        colours: Callable[[_Array], NDArray[np.uint8]],
        target: NDArray[np.uint8],
    ) -> _Mask | None:
        """Read a window as colours.

        Args:
            window: the window.
            colours: the result of `colours`.
            target: the result, `uint8[h, w, 3]`, RGB; if it is smaller than the window, the window
                is reduced.

        Returns:
            Which pixels have data and are not transparent, `bool[h, w]`; None if all.
        """
        height, width = target.shape[:2]
        part = self.read(window, size=(height, width))
        for band, values in enumerate(part.values):
            converted = colours(values)
            if len(part.values) == 3:
                target[:, :, band] = converted
            else:  # grey for all three, or all three from a palette
                target[:] = converted if converted.ndim == 3 else converted[:, :, None]
        if part.known is None:
            return part.shown
        known = np.asarray(part.known.any(axis=0))
        target[~known] = 0
        return known if part.shown is None else known & part.shown

    def colours(
        self, span: tuple[float, float] | None = None
    ) -> Callable[[_Array], NDArray[np.uint8]]:
        """Return the conversion of a band's values `[h, w]` to `uint8[h, w]`.

        With a palette it returns `uint8[h, w, 3]`.

        Args:
            span: the values that become 0 and 255. Default: they are found in a sample of the
                file's values.
        """
        size = 256**self._type.itemsize
        if self.palette:
            table = np.zeros((size, 3), np.uint8)
            for index, colour in self._dataset.colormap(self.bands[0]).items():
                table[index] = colour[:3]
            return partial(np.take, table, axis=0)
        whole = self._type.kind in "iu" and self._type.itemsize <= 2
        if self._type == np.uint8:
            bits = int(self._dataset.tags(self.bands[0], ns="IMAGE_STRUCTURE").get("NBITS", 8))
            low, high = (
                0.0,
                float(2 ** min(max(bits, 1), 8) - 1),
            )  # the metadata may hold any number
        else:
            low, high = span or self.span()
        negative = self._dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
        convert = partial(to_bytes, low=low, high=high, negative=negative)
        if not whole:
            return convert
        unsigned = np.dtype(f"u{self._type.itemsize}")
        table = convert(np.arange(size, dtype=unsigned).view(self._type))
        return lambda values: np.take(table, values.view(unsigned))

    @property
    def is_stretched(self) -> bool:
        """Whether values are scaled by their range in the file, see `span`."""
        return not self.palette and self._type != np.uint8

    def span(self) -> tuple[float, float]:
        """Return the values that become 0 and 255.

        They come from all parts of a file up to 64 million pixels, and from blocks in a regular
        grid of a larger one; from more of them if those have no data.
        """
        height, width = self._dataset.shape
        every = math.ceil(math.sqrt(height * width / _SAMPLED_PIXELS))
        step = math.ceil(math.sqrt(height * width / SAMPLE_PIXELS))
        while True:
            windows = self.windows(step) if every == 1 else self._blocks(every)
            bands = self._sample(windows, step if every == 1 else max(1, step // every))
            if bands:
                return value_range(bands)
            if every == 1:
                return 0.0, 0.0
            every //= 2

    def _blocks(self, every: int) -> Iterator[Window]:
        """Yield every n-th block across and down; of strips, as many in all."""
        from rasterio.windows import Window

        height, width = self._dataset.shape
        rows, columns = self.block
        across, down = (every, every) if columns < width else (1, every * every)
        down = min(down, max(1, -(-height // rows) // _LEAST_BLOCKS))
        for line, y in enumerate(range(down // 2 * rows, height, rows * down)):
            for x in range(line % across * columns, width, columns * across):
                yield Window(x, y, min(columns, width - x), min(rows, height - y))

    def _sample(self, windows: Iterator[Window], step: int) -> list[_Array]:
        """Return the valid values of every `step`th row and column in windows, by band."""
        samples: list[list[_Array]] = [[] for _ in self.bands]
        for window in windows:
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
        return [band for band in map(np.concatenate, samples) if band.size]


def _shown_bands(kinds: Sequence[object]) -> list[int]:
    """Return the bands to show by the colours that the file gives them, see above."""
    from rasterio.enums import ColorInterp

    bands = [band for band, kind in enumerate(kinds, 1) if kind != ColorInterp.alpha] or [1]
    if kinds[bands[0] - 1] == ColorInterp.palette:
        return bands[:1]
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    tagged = [kinds.index(colour) + 1 for colour in colours if colour in kinds]
    return tagged if len(tagged) == 3 else bands[: 3 if len(bands) >= 3 else 1]
