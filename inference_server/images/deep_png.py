"""PNG files of 16 bits per channel.

The values are stretched like those of a raster if they use less than a quarter of their range, as
those of cameras with 10, 12 or 14 bits and of instruments do. Otherwise their upper byte is kept,
which is how PNG defines 16 bits.
"""

from __future__ import annotations

import math
import struct

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.images.failures import DamagedError
from inference_server.images.stretch import SAMPLE_PIXELS, to_bytes, value_range

_NARROW = 2**14
_BLOCK_PIXELS = 2**21
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NEEDED = (b"IHDR", b"IDAT", b"IEND")


def decode_deep_png(data: bytes) -> NDArray[np.uint8]:
    """Decode a PNG file of 16 bits per channel.

    Args:
        data: the file, of which `headers.read_header` has checked the structure and size.

    Returns:
        `uint8[H, W, 3]`, RGB, as stored; transparency is dropped, and transparent pixels do not
        affect the range.

    Raises:
        DamagedError: the file is truncated or damaged.
    """
    values = cv2.imdecode(np.frombuffer(_without_extras(data), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise DamagedError("is truncated or damaged")
    deep = np.atleast_3d(values)
    table = _table(deep)
    height, width = deep.shape[:2]
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BLOCK_PIXELS // width)
    for y in range(0, height, rows):
        block = deep[y : y + rows]
        pixels[y : y + rows] = table[block[..., 2::-1] if block.shape[2] > 2 else block[..., :1]]
    return pixels


def _table(deep: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The byte that each value becomes, `uint8[65536]`.

    Args:
        deep: `uint16[H, W, channels]`: grey, or blue, green, red, each perhaps with alpha.
    """
    every = np.arange(2**16, dtype=np.uint16)
    step = math.ceil(math.sqrt(deep.shape[0] * deep.shape[1] / SAMPLE_PIXELS))
    sample = deep[::step, ::step]
    channels = sample.shape[2]
    shown = sample[sample[..., -1] != 0] if channels in (2, 4) else sample.reshape(-1, channels)
    if len(shown):
        colours = shown[:, : 3 if channels > 2 else 1]
        low, high = value_range(list(colours.T))
        if 0 < high - low < _NARROW:
            return to_bytes(every, low=low, high=high)
    return (every >> 8).astype(np.uint8)


def _without_extras(data: bytes) -> bytes:
    """Keep the chunks of the pixels: libpng prints warnings about many others."""
    pieces, position = [_SIGNATURE], len(_SIGNATURE)
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind in _NEEDED:
            pieces.append(data[position:end])
        if kind == b"IEND":
            break
        position = end
    return b"".join(pieces)
