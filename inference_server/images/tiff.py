"""The structure of TIFF files, and of EXIF blocks, which are made the same way.

Pillow copies whatever a directory points to, once an entry, so that a thousand entries pointing to
the same megabyte cost a gigabyte before any pixel is decoded. Every directory that it will read is
measured here first.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from inference_server.images.failures import DamagedError

# Bytes a value by type: BYTE, ASCII, SHORT, LONG, RATIONAL, SBYTE, UNDEFINED, SSHORT, SLONG,
# SRATIONAL, FLOAT, DOUBLE, IFD, and LONG8, SLONG8, IFD8 of BigTIFF.
_TYPES = (*range(1, 14), 16, 17, 18)
_SIZES = dict(zip(_TYPES, (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 8, 8, 8), strict=True))
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}

_WIDTH, _HEIGHT, _COMPRESSION, _ORIENTATION = 256, 257, 259, 274
_ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT = 278, 322, 323
_SUBDIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS, interoperability

# None, CCITT, LZW, JPEG, deflate, PackBits, Zstandard and WebP.
_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32946, 32773, 50000, 50001)

_MAX_ENTRIES = 4096  # real files have dozens
_MAX_VALUES = 2**17  # in one entry; the longest are offsets of strips, at most one a row


class Tiff(NamedTuple):
    """What the first directory says.

    Attributes:
        width: columns, as stored.
        height: rows, as stored.
        orientation: EXIF's number, 1 to 8.
        tile_pixels: pixels that one tile or strip unpacks to; may be far more than the image.
    """

    width: int
    height: int
    orientation: int
    tile_pixels: int


class _Layout(NamedTuple):
    """How numbers and directories are written: classic or BigTIFF, in either byte order."""

    order: str
    big: bool

    def read(self, code: str, data: bytes, position: int) -> int:
        """Reads one integer. Raises `struct.error` beyond the data's end."""
        value: int = struct.unpack_from(self.order + code, data, position)[0]
        return value


class _Entry(NamedTuple):
    """A directory entry: what its values are, how many, and where the first of them is."""

    type: int
    values: int
    position: int


def survey_tiff(data: bytes) -> Tiff:
    """Reads the first directory, and measures all that Pillow is going to read.

    Raises:
        DamagedError: a directory is beyond bounds, or lacks the size of the image.
        struct.error: the file ends early.
    """
    layout, start = _layout(data)
    entries = _directory(data, start, layout)
    for tag in _SUBDIRECTORIES:
        if tag in entries:
            nested = _directory(data, _required(data, entries, tag, layout), layout)
            if _SUBDIRECTORIES[2] in nested:
                _directory(data, _required(data, nested, _SUBDIRECTORIES[2], layout), layout)
    width = _required(data, entries, _WIDTH, layout)
    height = _required(data, entries, _HEIGHT, layout)
    compression = _integer(data, entries, _COMPRESSION, layout) or 1
    if compression not in _COMPRESSIONS:
        raise DamagedError(f"uses compression {compression}, which is not supported")
    tile_width = _integer(data, entries, _TILE_WIDTH, layout) or width
    tile_height = _integer(data, entries, _TILE_HEIGHT, layout) or min(
        height, _integer(data, entries, _ROWS_PER_STRIP, layout) or height
    )
    orientation = _integer(data, entries, _ORIENTATION, layout) or 1
    return Tiff(width, height, orientation if orientation <= 8 else 1, tile_width * tile_height)


def exif_orientation(exif: bytes) -> int:
    """Reads the orientation from an EXIF block.

    Args:
        exif: the block, with or without its `Exif` signature.

    Returns:
        EXIF's number, 1 to 8; 1, which is upright, where the block has none or is damaged.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        layout, start = _layout(exif)
        orientation = _integer(exif, _directory(exif, start, layout), _ORIENTATION, layout)
    except (DamagedError, struct.error):
        return 1
    return orientation if orientation is not None and 1 <= orientation <= 8 else 1


def _layout(data: bytes) -> tuple[_Layout, int]:
    """Reads the signature. Returns the layout and where the first directory begins."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise DamagedError("has no byte order mark")
    big = data[2:4] in (b"+\0", b"\0+")
    layout = _Layout(order, big)
    return layout, layout.read("Q", data, 8) if big else layout.read("I", data, 4)


def _directory(data: bytes, start: int, layout: _Layout) -> dict[int, _Entry]:
    """Reads the entries of a directory by tag, and refuses what no real file contains."""
    number = layout.read("Q" if layout.big else "H", data, start)
    if number > _MAX_ENTRIES:
        raise DamagedError(f"has a directory of more than {_MAX_ENTRIES} entries")
    entries: dict[int, _Entry] = {}
    outside = 0
    inline = 8 if layout.big else 4
    first = start + (8 if layout.big else 2)
    for position in range(first, first + number * (4 + 2 * inline), 4 + 2 * inline):
        tag, kind, count = struct.unpack_from(
            layout.order + ("HHQ" if layout.big else "HHI"), data, position
        )
        position += 4 + inline
        size = count * _SIZES.get(kind, 0)
        if size > inline:
            outside += size
            position = layout.read("Q" if layout.big else "I", data, position)
        if _SIZES.get(kind, 0) > 1 and count > _MAX_VALUES:
            raise DamagedError(f"has a directory entry of more than {_MAX_VALUES} values")
        entries[tag] = _Entry(kind, count, position)
    if outside > len(data):
        raise DamagedError("has directory entries that overlap")
    return entries


def _integer(data: bytes, entries: dict[int, _Entry], tag: int, layout: _Layout) -> int | None:
    """The one whole number of an entry; `None` where the entry is missing."""
    entry = entries.get(tag)
    if entry is None:
        return None
    if entry.values != 1 or entry.type not in _INTEGERS:
        raise DamagedError(f"has a directory entry {tag} that is not one whole number")
    return layout.read(_INTEGERS[entry.type], data, entry.position)


def _required(data: bytes, entries: dict[int, _Entry], tag: int, layout: _Layout) -> int:
    value = _integer(data, entries, tag, layout)
    if value is None:
        raise DamagedError(f"has no directory entry {tag}")
    return value
