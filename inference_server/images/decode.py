"""Encoded images to arrays, and base64 text to encoded images.

All functions are synchronous and made for worker threads: the long parts of them leave the
interpreter's lock to others.
"""

from __future__ import annotations

import binascii
import re
import string
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference_server.errors import ImageError
from inference_server.images.failures import (
    DamagedError,
    could_not_load,
    damaged,
    over_byte_limit,
    too_large,
)
from inference_server.images.headers import Header, open_with_pillow, read_header

# A damaged image is the client's error and is answered as such: it is no line in the log.
cv2.setLogLevel(0)

_OPENCV_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

# Modes of Pillow whose values are colours of a known range. Missing are whole numbers and fractions
# of 32 bits (`I` and `F`), where nobody but the sender knows what is black and what is white.
_PLAIN_MODES = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr"}
)
_DEEP_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_TIFF_BITS = 258

_Pixels = NDArray[np.uint8]

# By EXIF's orientation: how to turn the stored image upright.
_TURNS: dict[int, Callable[[_Pixels], cv2.typing.MatLike]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: lambda pixels: cv2.transpose(pixels),
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.flip(cv2.transpose(pixels), -1),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}

_DATA_URL = re.compile(r"\s*data:([^,]{0,255}),", re.IGNORECASE)
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_PIECE = 4 * 2**20  # characters; a multiple of four
_BASE64_REMEDY = "Send the image file in base64, with or without a `data:…;base64,` prefix."


def decode_image(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decodes an image of any supported format, told from its content.

    Of an animation the first frame is taken. EXIF orientation is honoured. 16-bit values keep their
    upper half; colour profiles are not applied; transparency is dropped, which shows the colours
    that lie underneath, as `cv2.imread` and Pillow's `convert("RGB")` do.

    Args:
        data: the encoded image: JPEG, PNG, WebP, TIFF, BMP, GIF or AVIF.
        max_pixels: most pixels it may have, by its header, before any of them is decoded.

    Returns:
        Pixels in RGB, contiguous: uint8[H, W, 3].

    Raises:
        ImageTooLargeError: the image has more than `max_pixels` pixels.
        ImageError: the data is no supported image, or truncated, or damaged.
    """
    header = read_header(data)
    if header.pixels > max_pixels:
        raise too_large(
            f"The image has {header.width} x {header.height} pixels"
            + (" in larger tiles" if header.unit_pixels > header.width * header.height else "")
            + f", and {max_pixels:,} in all are allowed.",
            "Send a smaller image; the limit is the server's setting INFERENCE_MAX_IMAGE_PIXELS.",
        )
    try:
        pixels = (
            _decode_opencv(data) if header.decoder == "opencv" else _decode_pillow(data, header)
        )
    except ImageError:
        raise
    except Exception as error:  # decoders fed with garbage fail in any way at all
        raise damaged(header.format, error) from error
    if pixels.shape != (header.height, header.width, 3):
        raise damaged(header.format)
    return _upright(pixels, header.orientation)


def image_size(data: bytes) -> tuple[int, int]:
    """Reads the height and width that `decode_image` would return, from the header alone.

    Raises:
        ImageError: the data is no supported image, or its structure is damaged.
    """
    return read_header(data).upright_size


def decode_base64(value: str, *, max_bytes: int) -> bytes:
    """Decodes base64 text; white space, missing padding and the URL-safe alphabet are accepted.

    Args:
        value: the text, with or without a `data:<type>;base64,` prefix.
        max_bytes: most bytes the result may have; judged by the text's length before decoding.

    Raises:
        ImageTooLargeError: the result would be over `max_bytes`.
        ImageError: the text is empty or no base64.
    """
    if prefix := _DATA_URL.match(value):
        if not prefix.group(1).lower().endswith(";base64"):
            raise could_not_load("The data URL is not in base64.", _BASE64_REMEDY)
        value = value[prefix.end() :]
    if len(value) * 3 // 4 > max_bytes:  # then it is worth counting exactly
        ignored = sum(map(value.count, string.whitespace + "="))
        if (len(value) - ignored) * 3 // 4 > max_bytes:
            raise over_byte_limit(max_bytes)
    data = _decode_text(value)
    if not data:
        raise could_not_load("The base64 text is empty.", _BASE64_REMEDY)
    return data


def _decode_text(value: str) -> bytes:
    """Decodes base64 in its plain form, or else in any that is accepted, which takes longer."""
    try:
        return _decode_pieces(value)
    except ValueError:  # of which `binascii.Error` is one
        pass
    try:
        plain = value.encode("ascii").translate(_FROM_URL_SAFE, string.whitespace.encode())
        plain = plain.rstrip(b"=")
        return _decode_pieces(plain + b"=" * (-len(plain) % 4))
    except ValueError:
        raise could_not_load("The text is not valid base64.", _BASE64_REMEDY) from None


def _decode_pieces(text: str | bytes) -> bytes:
    """Decodes plain base64, piece by piece, as other threads have to wait during each piece.

    Raises:
        ValueError: a character is not base64. By default Python would skip it and return garbage.
    """
    return b"".join(
        binascii.a2b_base64(text[start : start + _PIECE], strict_mode=True)
        for start in range(0, len(text), _PIECE)
    )


def _decode_opencv(data: bytes) -> _Pixels:
    """Decodes with OpenCV: uint8[H, W, 3], as stored."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _OPENCV_FLAGS)
    if pixels is None:
        raise DamagedError("is truncated or damaged")
    return pixels.astype(np.uint8, copy=False)


def _decode_pillow(data: bytes, header: Header) -> _Pixels:
    """Decodes with Pillow: uint8[H, W, 3], as stored, except that TIFF comes upright."""
    with open_with_pillow(data, header.format) as image:
        # Pillow makes room by its own reading of the size; here it must agree with the one that was
        # held against the limit.
        if image.size != (header.width, header.height):
            raise DamagedError("contradicts itself about its size")
        if image.mode not in _PLAIN_MODES | _DEEP_MODES:
            raise could_not_load(
                f"The {header.format} file has pixels of type {image.mode}, whose brightness is "
                "not defined.",
                "Convert it to 8 or 16 bits a channel.",
            )
        image.load()
        if image.mode in _DEEP_MODES:
            grey = (np.asarray(image) >> (_bits(image) - 8)).astype(np.uint8)
            return _from_grey(grey)
        if image.mode == "L":
            return _from_grey(np.asarray(image))
        # Else a palette's transparent entries would become a warning.
        image.info.pop("transparency", None)
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _bits(image: Image.Image) -> int:
    """Bits that are used in a grey image of more than eight: 12 in some TIFF files, else 16."""
    bits: tuple[int, ...] = getattr(image, "tag_v2", {}).get(_TIFF_BITS, (16,))
    return bits[0]


def _from_grey(grey: _Pixels) -> _Pixels:
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB).astype(np.uint8, copy=False)


def _upright(pixels: _Pixels, orientation: int) -> _Pixels:
    """Turns an image as EXIF's `orientation` says: uint8[H, W, 3] to the same, or [W, H, 3]."""
    turn = _TURNS.get(orientation)
    return pixels if turn is None else turn(pixels).astype(np.uint8, copy=False)
