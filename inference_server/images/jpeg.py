"""Parse the structure of JPEG files without decoding them."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from inference_server.images.failures import DamagedError
from inference_server.images.tiff import exif_orientation

# A marker is 0xFF and a code. Within pixel data 0xFF is followed by 0 (it stands for itself) or by
# a restart code (D0 to D7), neither of which matters here; repeated 0xFF is padding.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, 0xD8})  # markers without content
_END, _SCAN, _EXIF = 0xD9, 0xDA, 0xE1

_MAX_SEGMENTS = 65_536  # the largest file allowed, in segments of half a kilobyte
_MAX_SCANS = 64  # encoders write about ten; the decoder visits all pixels for each


class Jpeg(NamedTuple):
    """Size and orientation of a JPEG image.

    Attributes:
        width: Number of stored columns.
        height: Number of stored rows.
        orientation: EXIF orientation, 1 to 8.
    """

    width: int
    height: int
    orientation: int


def survey_jpeg(data: bytes) -> Jpeg:
    """Parse the markers up to the end of the image, as a decoder does.

    Args:
        data: The JPEG file; bytes after the image are ignored.

    Raises:
        DamagedError: The file is truncated, or crafted to keep a decoder busy.
        struct.error: The file ends within a marker.
    """
    frame: tuple[int, int] | None = None
    orientation: int | None = None
    segments = scans = 0
    position = 2
    while found := _MARKER.search(data, position):
        code, position = found.group(1)[0], found.end()
        if code == _END:
            break
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise DamagedError(f"has more than {_MAX_SEGMENTS} segments")
        if code in _BARE:
            continue
        scans += code == _SCAN
        if scans > _MAX_SCANS:
            raise DamagedError(f"has more than {_MAX_SCANS} scans")
        (length,) = struct.unpack_from(">H", data, position)
        if code in _FRAMES and frame is None:
            frame = struct.unpack_from(">HH", data, position + 3)
        elif code == _EXIF and orientation is None and data.startswith(b"Exif\0\0", position + 2):
            orientation = exif_orientation(data[position + 2 : position + length])
        position += length
    else:
        raise DamagedError("is truncated")
    if frame is None or not scans:
        raise DamagedError("contains no image")
    height, width = frame
    return Jpeg(width, height, orientation or 1)
