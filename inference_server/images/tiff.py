"""The structure of TIFF files and of EXIF blocks, which have the same format.

Pillow copies the data of every directory entry: a thousand entries that point to the same megabyte
take a gigabyte before any pixel is decoded. So the directories that Pillow reads are checked first
(`survey_tiff`), and for GDAL all others too (`survey_pages`).

Both read files on disk (`FileBytes`) as well as bytes in memory, in small pieces.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from inference_server.images.failures import DamagedError
from inference_server.images.file_bytes import Bytes

# Bytes per value by type: BYTE, ASCII, SHORT, LONG, RATIONAL, SBYTE, UNDEFINED, SSHORT, SLONG,
# SRATIONAL, FLOAT, DOUBLE, IFD, and LONG8, SLONG8, IFD8 of BigTIFF.
_TYPES = (*range(1, 14), 16, 17, 18)
_SIZES = dict(zip(_TYPES, (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 8, 8, 8), strict=True))
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_WIDTH, _HEIGHT, _COMPRESSION, _ORIENTATION = 256, 257, 259, 274
_BITS, _SAMPLES, _SAMPLE_FORMAT, _METADATA, _NODATA = 258, 277, 339, 42112, 42113
_PAGE_KIND, _PHOTOMETRIC, _PLANAR, _PAGES = 254, 262, 284, 330
_ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT = 278, 322, 323
_SUBDIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS, interoperability

# None, CCITT, LZW, JPEG, deflate, PackBits, Zstandard, WebP and LERC.
_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32946, 32773, 50000, 50001, 34887)
_GDAL_ONLY = (34887, 50001)  # LERC and WebP, which Pillow's copy of libtiff lacks

_COLOURS = (b"Red", b"Green", b"Blue")
_TAGGED = re.compile(rb'sample="(\d{1,4})" role="colorinterp">(Red|Green|Blue)<')

_GREYS = (0, 1)  # values of `_PHOTOMETRIC`: zero is white, or zero is black
_INKS = 5  # CMYK, which Pillow converts to RGB and GDAL does not
_UNSIGNED = frozenset({1, 4})  # values of `_SAMPLE_FORMAT`: unsigned, and unspecified

# Bytes per pixel above which a pixel counts as more than one against the limit on pixels: in a
# tile, of which GDAL holds one or two copies, and in the file, which is unpacked completely if
# bands are interleaved. Four bands of 16 bits and sixteen of 32 bits are just within these limits.
_TILE_BYTES, _FILE_BYTES = 8, 64

_MAX_ENTRIES = 4096  # real files have dozens
# Per entry; the longest are offsets of strips, at most one per row, and of tiles: ten gigapixels
# have 153,000 of 256 x 256 pixels.
_MAX_VALUES = 2**18
_MAX_BANDS = 1024  # the richest spectrometers have some 500
_MAX_PAGES = 4096
_MAX_OVERVIEWS = 64  # and masks; GDAL takes 8 seconds for 4000
_MAX_ALL_ENTRIES = 2**17
_MAX_METADATA = 2**22  # bytes
# Bytes of all entries together, which GDAL keeps in memory. The tables of four gigapixels, in tiles
# of 256 x 256 pixels and three planes, with overviews, take 4 MiB.
_MAX_TABLES = 2**26


MAX_METADATA_ITEMS = 8192
"""Default limit on metadata items. GDAL compares each with all others: 100,000 take it a minute.
1024 bands with five statistics each have 5120."""


class Tiff(NamedTuple):
    """The content of the first directory.

    Attributes:
        width: columns, as stored.
        height: rows, as stored.
        orientation: EXIF orientation, 1 to 8.
        tile_pixels: pixels of one unpacked tile or strip; may be far more than the image has.
        plain: whether the pixels are colours of at most eight bits, which Pillow reads correctly.
        raster_pixels: cost of reading the file with GDAL, in pixels of eight bytes: one unpacked
            tile or strip, or a share of the whole file if that is more.
        tile_bytes: bytes of one unpacked tile or strip, as GDAL reads it; 0 if pixels are not
            compressed, and can be read in any pieces.
        inks: whether the pixels are CMYK.
    """

    width: int
    height: int
    orientation: int
    tile_pixels: int
    plain: bool
    raster_pixels: int
    tile_bytes: int
    inks: bool


class _Layout(NamedTuple):
    """Encoding of numbers and directories: byte order, and classic TIFF or BigTIFF."""

    order: str
    big: bool

    def read(self, code: str, data: Bytes, position: int) -> int:
        """Read one integer; raises `struct.error` beyond the end of the data."""
        value: int = _unpack(self.order + code, data, position)[0]
        return value


class _Entry(NamedTuple):
    """A directory entry: type of the values, their number, and the position of the first."""

    type: int
    values: int
    position: int


def survey_tiff(data: Bytes) -> Tiff:
    """Read the first directory, and check every directory that Pillow reads.

    Raises:
        DamagedError: a directory exceeds a limit, or the image's size is missing.
        struct.error: the file is truncated.
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
    tile_pixels = tile_width * tile_height
    samples = _integer(data, entries, _SAMPLES, layout) or 1
    if samples > _MAX_BANDS:
        raise DamagedError(f"has more than {_MAX_BANDS} bands")
    bits = max(_integers(data, entries, _BITS, layout), default=1)
    pixel_bytes = -(-bits // 8)
    if _integer(data, entries, _PLANAR, layout) != 2:
        pixel_bytes *= samples
    orientation = _integer(data, entries, _ORIENTATION, layout) or 1
    return Tiff(
        width,
        height,
        orientation if orientation <= 8 else 1,
        tile_pixels,
        compression not in _GDAL_ONLY and _is_plain(data, entries, layout, samples, bits),
        max(
            -(-tile_pixels * pixel_bytes // _TILE_BYTES),
            -(-width * height * pixel_bytes // _FILE_BYTES),
        ),
        0 if compression == 1 else tile_pixels * pixel_bytes,
        _integer(data, entries, _PHOTOMETRIC, layout) == _INKS,
    )


def _is_plain(
    data: Bytes, entries: dict[int, _Entry], layout: _Layout, samples: int, bits: int
) -> bool:
    """Tell whether Pillow reads the samples with their meaning."""
    photometric = _integer(data, entries, _PHOTOMETRIC, layout) or 0
    if not _UNSIGNED.issuperset(_integers(data, entries, _SAMPLE_FORMAT, layout)):
        return False
    if photometric == _INKS:
        return True
    # GDAL stores the colours of bands in its metadata; Pillow takes them in the order RGB.
    metadata = entries.get(_METADATA)
    if metadata is not None:
        # Longer metadata are refused before GDAL reads them.
        length = min(metadata.values, _MAX_METADATA)
        text = data[metadata.position : metadata.position + length]
        if any(int(band) != _COLOURS.index(colour) for band, colour in _TAGGED.findall(text)):
            return False
    grey = photometric in _GREYS
    return bits <= 8 and _NODATA not in entries and samples in ((1,) if grey else (1, 3, 4))


def survey_pages(data: Bytes, *, max_metadata_items: int = MAX_METADATA_ITEMS) -> None:
    """Check all directories of a file, among which GDAL searches for masks and overviews.

    Args:
        data: the file.
        max_metadata_items: maximum number of metadata items; default 8192.

    Raises:
        DamagedError: there are too many, they overlap, or one exceeds a limit.
    """
    layout, start = _layout(data)
    values = min(2 * len(data), _MAX_TABLES)
    entries_left, overviews_left = _MAX_ALL_ENTRIES, _MAX_OVERVIEWS
    items_left, metadata_left = 2 * max_metadata_items, _MAX_METADATA
    waiting = [start]
    seen = {0}
    while waiting:
        start = waiting.pop()
        if start in seen:
            continue
        seen.add(start)
        try:
            entries = _directory(data, start, layout)
            waiting.extend(_integers(data, entries, _PAGES, layout)[:_MAX_PAGES])
            waiting.append(_next_directory(data, start, layout))
            # Bit 0: reduced size; bit 2: mask.
            overviews_left -= any(kind & 5 for kind in _integers(data, entries, _PAGE_KIND, layout))
            if _METADATA in entries:
                # GDAL quotes the metadata in errors, which rasterio decodes as UTF-8 in a callback
                # that can only print a failure.
                entry = entries[_METADATA]
                metadata_left -= entry.values
                length = min(entry.values, _MAX_METADATA)
                metadata = data[entry.position : entry.position + length]
                if metadata_left >= 0:
                    metadata.decode()
                # An item has two tags, and so has the element around them.
                items_left -= max(0, metadata.count(b"<") - 2)
        except UnicodeDecodeError as error:
            raise DamagedError("has metadata that is not UTF-8") from error
        except struct.error:
            continue  # beyond the end of the data, where GDAL stops as well
        entries_left -= len(entries)
        values -= sum(entry.values * _SIZES.get(entry.type, 0) for entry in entries.values())
        if min(items_left, metadata_left) < 0:
            raise DamagedError(
                f"has more than {max_metadata_items:,} metadata items, or "
                f"{_MAX_METADATA // 2**20} MiB of them; remove the tag GDAL_METADATA, or raise the "
                "server's setting INFERENCE_MAX_TIFF_METADATA_ITEMS"
            )
        if len(seen) > _MAX_PAGES or min(entries_left, overviews_left, values) < 0:
            raise DamagedError("has too many directories, or some that overlap")


def _unpack(code: str, data: Bytes, position: int) -> tuple[int, ...]:
    """Read integers; raises `struct.error` beyond the end of the data."""
    return struct.unpack(code, data[position : position + struct.calcsize(code)])


def exif_orientation(exif: bytes) -> int:
    """Read the orientation from an EXIF block.

    Args:
        exif: the block, with or without its `Exif` signature.

    Returns:
        The EXIF orientation, 1 to 8; 1 (upright) if the block has none or is damaged.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        layout, start = _layout(exif)
        orientation = _integer(exif, _directory(exif, start, layout), _ORIENTATION, layout)
    except (DamagedError, struct.error):
        return 1
    return orientation if orientation is not None and 1 <= orientation <= 8 else 1


def _layout(data: Bytes) -> tuple[_Layout, int]:
    """Read the signature; returns the layout and the position of the first directory."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise DamagedError("has no byte order mark")
    big = data[2:4] in (b"+\0", b"\0+")
    layout = _Layout(order, big)
    return layout, layout.read("Q", data, 8) if big else layout.read("I", data, 4)


def _directory(data: Bytes, start: int, layout: _Layout) -> dict[int, _Entry]:
    """Read the entries of a directory by tag; raises `DamagedError` beyond a limit."""
    number = layout.read("Q" if layout.big else "H", data, start)
    if number > _MAX_ENTRIES:
        raise DamagedError(f"has a directory of more than {_MAX_ENTRIES} entries")
    entries: dict[int, _Entry] = {}
    outside = 0
    inline = 8 if layout.big else 4
    first = start + (8 if layout.big else 2)
    for position in range(first, first + number * (4 + 2 * inline), 4 + 2 * inline):
        tag, kind, count = _unpack(layout.order + ("HHQ" if layout.big else "HHI"), data, position)
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


def _next_directory(data: Bytes, start: int, layout: _Layout) -> int:
    """Read the position of the directory after the one at `start`; 0 after the last."""
    if layout.big:
        return layout.read("Q", data, start + 8 + 20 * layout.read("Q", data, start))
    return layout.read("I", data, start + 2 + 12 * layout.read("H", data, start))


def _integers(
    data: Bytes, entries: dict[int, _Entry], tag: int, layout: _Layout
) -> tuple[int, ...]:
    """Read the integers of an entry; none if the entry is missing."""
    entry = entries.get(tag)
    if entry is None:
        return ()
    if entry.type not in _INTEGERS:
        raise DamagedError(f"has a directory entry {tag} that does not hold integers")
    if entry.values > _MAX_VALUES:
        raise DamagedError(f"has a directory entry of more than {_MAX_VALUES} values")
    return _unpack(f"{layout.order}{entry.values}{_INTEGERS[entry.type]}", data, entry.position)


def _integer(data: Bytes, entries: dict[int, _Entry], tag: int, layout: _Layout) -> int | None:
    """Read the single integer of an entry; None if the entry is missing."""
    entry = entries.get(tag)
    if entry is None:
        return None
    if entry.values != 1 or entry.type not in _INTEGERS:
        raise DamagedError(f"has a directory entry {tag} that is not a single integer")
    return layout.read(_INTEGERS[entry.type], data, entry.position)


def _required(data: Bytes, entries: dict[int, _Entry], tag: int, layout: _Layout) -> int:
    value = _integer(data, entries, tag, layout)
    if value is None:
        raise DamagedError(f"has no directory entry {tag}")
    return value
