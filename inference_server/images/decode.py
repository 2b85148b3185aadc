"""Encoded images to arrays.

All functions are synchronous and made for worker threads: the long parts of them leave the
interpreter's lock to others.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.errors import ImageError
from inference_server.images.failures import (
    DamagedError,
    could_not_load,
    damaged,
    too_large,
)
from inference_server.images.headers import Header, open_with_pillow, read_header
from inference_server.images.orientation import upright
from inference_server.images.raster_file import decode_raster

# A damaged image is the client's error and is answered as such: it is no line in the log.
cv2.setLogLevel(0)

_OPENCV_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

# Modes of Pillow whose values are colours of a known range. Missing are whole numbers and fractions
# of 32 bits (`I` and `F`), where nobody but the sender knows what is black and what is white.
_PLAIN_MODES = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr"}
)
_DEEP_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})

_Pixels = NDArray[np.uint8]

# A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, in 60, 50 and 40 % of the time: what stays
# is the unpacking of its codes. The flags are those of `IMREAD_REDUCED_COLOR_*` without BGR.
_REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    1: 0,
}

# How much larger than the model's input a reduced image must still be, on either side. Measured at
# slightly more (`python -m benchmarks images`): the input changes by 0.5 of 255 in the mean;
# masks of the demo models keep a mean IoU of 0.998 (SAM 2, 0.990 at least) and 0.997 (SAM 3) with
# those of the whole image, where JPEG's quality 90 had left 0.999 and 0.998 of those of the
# picture; SAM 2's IoU with the truth stays the same within 0.0002. At a ratio of 1.15 SAM 3's masks
# keep 0.994, at 1.0 0.993 and SAM 2's 0.995. 12 MP at a half, for 1024 pixels, have 1.46.
_ENOUGH = 1.4


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image, perhaps at a fraction of its size.

    Attributes:
        pixels: `uint8[h, w, 3]`, RGB, upright, contiguous.
        size: (height, width) in full, which is what clients' coordinates refer to.
        scale: a pixel of `pixels` stands for `scale` x `scale` of the image: 1, 2, 4 or 8.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    scale: int = 1

    @property
    def extent(self) -> tuple[float, float]:
        """Rows and columns of `pixels` that the image covers.

        Where `scale` does not divide a side, the last row or column is only partly image.
        """
        return self.size[0] / self.scale, self.size[1] / self.scale


def decode_image(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decodes an image of any supported format, told from its content, in full.

    Of an animation the first frame is taken. EXIF orientation is honoured. 16-bit values keep their
    upper half, except in TIFF, where `raster` tells what becomes of numbers that are no plain
    colours; colour profiles are not applied; transparency is dropped, which shows the colours that
    lie underneath, as `cv2.imread` and Pillow's `convert("RGB")` do.

    Args:
        data: the encoded image: JPEG, PNG, WebP, TIFF, BMP, GIF or AVIF.
        max_pixels: most pixels it may have, by its header, before any of them is decoded.

    Returns:
        Pixels in RGB, contiguous: uint8[H, W, 3].

    Raises:
        ImageTooLargeError: the image has more than `max_pixels` pixels.
        ImageError: the data is no supported image, or truncated, or damaged.
    """
    return decode_picture(data, max_pixels=max_pixels).pixels


def decode_picture(data: bytes, *, max_pixels: int, side: int | None = None) -> Picture:
    """Decodes an image as `decode_image` does, or less of it where less is enough.

    Only JPEG can be decoded in part; no other format's library here offers it.

    Args:
        data: the encoded image.
        max_pixels: most pixels it may have in full, whatever part of them is decoded.
        side: the picture is going to be resized to a square of this side, and may come at a
            fraction of its size if that makes no visible difference. None for the full size.

    Returns:
        The picture.

    Raises:
        ImageTooLargeError: the image has more than `max_pixels` pixels.
        ImageError: the data is no supported image, or truncated, or damaged.
    """
    header = read_header(data)
    if header.pixels > max_pixels:
        raise too_large(
            f"The image has {header.width} x {header.height} pixels"
            + (f" {header.burden}" if header.unit_pixels > header.width * header.height else "")
            + f", and {max_pixels:,} in all are allowed.",
            "Send a smaller image; the limit is the server's setting INFERENCE_MAX_IMAGE_PIXELS.",
        )
    scale = _scale_for(header, side)
    try:
        if header.decoder == "opencv":
            pixels = _decode_opencv(data, scale)
        elif header.decoder == "rasterio":
            pixels = decode_raster(data, header)
        else:
            pixels = _decode_pillow(data, header)
    except ImageError:
        raise
    except Exception as error:  # decoders fed with garbage fail in any way at all
        raise damaged(header.format, error) from error
    if pixels.shape == (header.height, header.width, 3):
        scale = 1  # also if less was asked for: lossless JPEG exists in full only
    elif pixels.shape != (-(-header.height // scale), -(-header.width // scale), 3):
        raise damaged(header.format)
    return Picture(upright(pixels, header.orientation), header.upright_size, scale)


def _scale_for(header: Header, side: int | None) -> int:
    """By how much an image may be reduced for a model's input: 1, 2, 4 or 8."""
    if side is None or header.format != "JPEG":
        return 1
    least = min(header.width, header.height) / (side * _ENOUGH)
    # Turned, a partly filled last row or column may come first, where `extent` cannot describe it.
    turned = header.orientation not in (1, 5)
    return next(
        scale
        for scale in _REDUCED
        if scale == 1
        or (scale <= least and not (turned and (header.width % scale or header.height % scale)))
    )


def _decode_opencv(data: bytes, scale: int) -> _Pixels:
    """Decodes with OpenCV: uint8[ceil(H / scale), ceil(W / scale), 3], as stored."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _OPENCV_FLAGS | _REDUCED[scale])
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
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return _from_grey(grey)
        if image.mode == "L":
            return _from_grey(np.asarray(image))
        # Else a palette's transparent entries would become a warning.
        image.info.pop("transparency", None)
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _from_grey(grey: _Pixels) -> _Pixels:
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB).astype(np.uint8, copy=False)
