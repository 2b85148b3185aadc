"""Read image headers, before any pixel is decoded.

The format is detected from the content only. The structure is parsed here, in bounded time and
memory, because Pillow's header parsers trust the file: a file of a few megabytes with a tiny image
can keep them busy for minutes or make them allocate gigabytes.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from PIL import ExifTags, Image

from inference_server.errors import ImageError
from inference_server.images.failures import DamagedError, could_not_load, damaged
from inference_server.images.jpeg import survey_jpeg
from inference_server.images.tiff import SIGNATURES as TIFF_SIGNATURES
from inference_server.images.tiff import Tiff, exif_orientation, survey_tiff

# The server checks its own limit on pixels. Pillow's would prevent operators from raising it.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns about oddities in files that it can read. `catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")

_SIGNATURES: dict[str, bytes | tuple[bytes, ...]] = {
    "JPEG": b"\xff\xd8\xff",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": b"BM",
    "TIFF": TIFF_SIGNATURES,
}

_MAX_CHUNKS = 32_768  # of PNG and WebP; the usual PNG chunk has 8 KiB
_MAX_GIF_BLOCKS = 4096  # before the first image


@dataclass(frozen=True, slots=True)
class Header:
    """An image's header.

    Attributes:
        format: Pillow's name of the format.
        width: Number of columns that the decoder returns.
        height: Number of rows that the decoder returns.
        orientation: EXIF orientation to apply to the decoder's result, 1 to 8.
        decoder: The fastest decoder that decodes the file correctly.
        unit_pixels: Pixels that the decoder unpacks at once. More than the image has only for a
            TIFF with tiles larger than the image, or with many bytes per pixel.
    """

    format: str
    width: int
    height: int
    orientation: int = 1
    decoder: Literal["opencv", "pillow", "rasterio", "deep_png"] = "pillow"
    unit_pixels: int = 0

    @property
    def pixels(self) -> int:
        """Pixels that decoding allocates memory for."""
        return max(self.width * self.height, self.unit_pixels)

    @property
    def burden(self) -> str:
        """Why `unit_pixels` exceeds the image's pixels, for error messages."""
        return "of many bytes each" if self.decoder == "rasterio" else "in larger tiles"

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) in pixels after the orientation is applied."""
        if self.orientation >= 5:
            return self.width, self.height
        return self.height, self.width


def read_header(data: bytes) -> Header:
    """Detect the format and read the header.

    Args:
        data: The encoded image.

    Raises:
        ImageError: The format is not supported, or the file violates it.
    """
    name = _format(data)
    if name is None:
        raise _unsupported(data)
    try:
        header = _READERS[name](data)
    except Exception as error:  # parsers may raise anything on invalid data
        raise damaged(name, error) from error
    if not header.width or not header.height:
        raise damaged(name, DamagedError("has no pixels"))
    return header


def open_with_pillow(data: bytes, name: str) -> Image.Image:
    """Open an image with Pillow, which reads its header. May raise any exception."""
    if name == "AVIF":
        data = _without_exif(data)
    return Image.open(io.BytesIO(data), formats=(name,))


def _read_jpeg(data: bytes) -> Header:
    found = survey_jpeg(data)
    return Header("JPEG", found.width, found.height, found.orientation, "opencv")


def _read_png(data: bytes) -> Header:
    kind, width, height, bits = struct.unpack_from(">4sIIB", data, 12)
    if kind != b"IHDR":
        raise DamagedError("does not begin with its header")
    orientation = 1
    position = 8
    for _ in range(_MAX_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            # Pillow, although OpenCV is a quarter faster: OpenCV prints a warning for many valid
            # files because of their colour profiles.
            return Header("PNG", width, height, orientation, "deep_png" if bits == 16 else "pillow")
        if kind == b"eXIf":
            orientation = exif_orientation(data[position + 8 : position + 8 + length])
        position += 12 + length
    raise DamagedError(f"has more than {_MAX_CHUNKS} chunks")


def _read_webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        return Header("WEBP", width, height, 1, "opencv")
    if kind == b"VP8L":
        (sides,) = struct.unpack_from("<I", data, 21)
        return Header("WEBP", (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1, 1, "opencv")
    if kind != b"VP8X" or len(data) < 30:
        raise DamagedError("does not begin with its header")
    width = int.from_bytes(data[24:27], "little") + 1
    height = int.from_bytes(data[27:30], "little") + 1
    orientation = 1
    position = 12
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            return Header("WEBP", width, height, orientation, "opencv")
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            orientation = exif_orientation(data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    raise DamagedError(f"has more than {_MAX_CHUNKS} chunks")


def _read_gif(data: bytes) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (6 << (flags & 7) if flags & 0x80 else 0)
    for _ in range(_MAX_GIF_BLOCKS):
        if data[position] == 0x2C:  # the first image, which may be larger than the screen
            left, top, columns, rows = struct.unpack_from("<4H", data, position + 1)
            return Header("GIF", max(width, left + columns), max(height, top + rows))
        if data[position] == 0x21:  # an extension: its label, then its first block
            position += 2
        elif data[position] == 0:  # the end of an extension
            position += 1
            continue
        position += 1 + data[position]
    raise DamagedError(f"has more than {_MAX_GIF_BLOCKS} blocks before its first image")


def _read_bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return Header("BMP", width, height)
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    # Pillow's run-length decoder is in Python, and one code can make it skip gigabytes. OpenCV's
    # has neither problem, but decodes 5-bit colours too dark.
    decoder: Literal["opencv", "pillow"] = "opencv" if compression in (1, 2) else "pillow"
    return Header("BMP", abs(width), abs(height), 1, decoder)


def _read_tiff(data: bytes) -> Header:
    return tiff_header(survey_tiff(data))


def tiff_header(found: Tiff) -> Header:
    """Return the header of a TIFF file.

    Args:
        found: the file's structure.
    """
    width, height = found.width, found.height
    if not found.plain:
        return Header(
            "TIFF", width, height, found.orientation, "rasterio", unit_pixels=found.raster_pixels
        )
    # Pillow applies the orientation of TIFF, and of no other format.
    if found.orientation >= 5:
        width, height = height, width
    return Header("TIFF", width, height, unit_pixels=found.tile_pixels)


def _read_avif(data: bytes) -> Header:
    with open_with_pillow(data, "AVIF") as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return Header("AVIF", image.width, image.height, orientation)


def _without_exif(data: bytes) -> bytes:
    """Rename the EXIF item of an AVIF file, so that Pillow does not read it.

    Pillow would allocate as much memory as the block asks for (see `tiff`). The orientation is not
    lost: in AVIF it is an image property, and EXIF is ignored.
    """
    pieces: list[bytes] = []
    position = 0
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, position + 8)
        if size == 0:  # up to the end
            size = len(data) - position
        if size < 8 or len(pieces) >= _MAX_CHUNKS:
            raise DamagedError("has a broken structure")
        box = data[position : position + size]
        pieces.append(box if kind == b"mdat" else box.replace(b"Exif", b"\0\0\0\0"))
        position += size
    return b"".join(pieces)


_READERS: dict[str, Callable[[bytes], Header]] = {
    "JPEG": _read_jpeg,
    "PNG": _read_png,
    "WEBP": _read_webp,
    "GIF": _read_gif,
    "BMP": _read_bmp,
    "TIFF": _read_tiff,
    "AVIF": _read_avif,
}


def _format(data: bytes) -> str | None:
    """The format by its first bytes; None if it is not supported."""
    for name, signatures in _SIGNATURES.items():
        if data.startswith(signatures):
            return name
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"mif1", b"msf1"):
        return "AVIF"
    return None


def _unsupported(data: bytes) -> ImageError:
    """Create the error for an unsupported format, with a guess at what it is."""
    text = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
    guess = "no image, or of a format that is not supported"
    if not data:
        guess = "empty"
    elif text.startswith(b"<"):
        guess = "a web page or another text in mark-up, such as SVG"
    elif data.startswith(b"%PDF"):
        guess = "a PDF document"
    elif data[4:8] == b"ftyp":
        guess = "HEIC, or a video"
    return could_not_load(
        f"The data is {guess}.",
        "Send a JPEG, PNG, WebP, TIFF, BMP, GIF or AVIF file.",
    )
