"""Encode masks as the run lengths of Label Studio's brush regions.

The format is that of `label_studio_sdk.converter.brush.encode_rle`: a stream of bits, most
significant first, of the RGBA pixels in row-major order. A header of 53 bits (number of values,
word size, four sizes of lengths) precedes the records. A record of equal values is a set bit, the
index of the length's size (2 bits), the length minus 1, and the value (8 bits).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference_server.executor import stop_if_cancelled
from inference_server.masks.mask import Mask

_CHANNELS = 4
_WORD = 8
_SIZES = (3, 4, 8, 16)
"""Bits of a length, of which a record uses the first that suffices."""

_MOST = 1 << _SIZES[-1]
_RECORD = 1 + 2 + _SIZES[-1] + _WORD
"""Bits of the longest record."""

_CHUNK = 1 << 16
"""Records that are packed at a time; each takes a byte per bit."""


def encode_brush(mask: Mask) -> NDArray[np.uint8]:
    """Encode a mask as Label Studio's brush run lengths.

    The cost follows the mask's rows and its outline, not the image's area.

    Args:
        mask: The mask; it may be empty. The image has fewer than 2 ** 30 pixels, which the format
            cannot exceed.

    Returns:
        `uint8[n]`: the bytes that the result's `rle` lists. Pixels of the mask are 255 in all four
        channels, the others 0.
    """
    height, width = mask.size
    lengths, values = _split(_row_runs(mask) * _CHANNELS)
    header = f"{height * width * _CHANNELS:032b}{_WORD - 1:05b}" + "".join(
        f"{size - 1:04b}" for size in _SIZES
    )
    left = np.array([digit == "1" for digit in header], np.uint8)
    packed = []
    for start in range(0, len(lengths), _CHUNK):
        stop_if_cancelled()
        bits = _record_bits(lengths[start : start + _CHUNK], values[start : start + _CHUNK])
        left = np.concatenate([left, bits])
        whole = len(left) - len(left) % 8
        packed.append(np.packbits(left[:whole]))
        left = left[whole:]
    packed.append(np.packbits(left))
    return np.concatenate(packed)


def _row_runs(mask: Mask) -> NDArray[np.int64]:
    """Lengths of the runs in row-major order, in pixels; background and mask take turns."""
    height, width = mask.size
    if mask.is_empty:
        return np.array([height * width], np.int64)
    x0, y0, x1, y1 = mask.box
    columns = x1 - x0
    rows = np.zeros((y1 - y0, columns + 2), np.bool_)  # background on both sides
    rows[:, 1:-1] = mask.crop
    y, x = np.nonzero(rows[:, 1:] != rows[:, :-1])
    flips = (y + y0) * width + x + x0
    # A run that ends at the image's right side and continues in the next row is one run.
    again = np.flatnonzero(flips[1:] == flips[:-1])
    keep = np.ones(len(flips), np.bool_)
    keep[again] = keep[again + 1] = False
    return np.diff(flips[keep], prepend=0, append=height * width)


def _split(runs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide runs that exceed the longest record; return the records' lengths and values."""
    some = runs > 0
    values = (np.arange(len(runs)) % 2 * 255)[some]
    runs = runs[some]
    count = -(-runs // _MOST)
    lengths = np.full(int(count.sum()), _MOST, np.int64)
    last = count.cumsum() - 1
    lengths[last] = runs - (count - 1) * _MOST
    return lengths, np.repeat(values, count)


def _record_bits(lengths: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The bits of records, one per byte."""
    index = np.searchsorted(np.array([1 << size for size in _SIZES]), lengths)
    size = np.array(_SIZES)[index]
    code = (4 | index) << (size + _WORD) | (lengths - 1) << _WORD | values
    total = 3 + size + _WORD
    places = np.arange(_RECORD)
    shift = total[:, None] - 1 - places
    bits = (code[:, None] >> shift.clip(0)) & 1
    return np.asarray(bits[places < total[:, None]], np.uint8)
