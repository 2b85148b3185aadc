"""Decode images to arrays.

All functions are synchronous; call them from worker threads. Their long parts release the
interpreter lock.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.errors import ImageError
from inference_server.images.deep_png import decode_deep_png
from inference_server.images.failures import (
    DamagedError,
    could_not_load,
    damaged,
    too_large,
)
from inference_server.images.headers import Header, open_with_pillow, read_header
from inference_server.images.orientation import upright
from inference_server.images.raster_file import decode_raster
from inference_server.images.tiff import MAX_METADATA_ITEMS

# A damaged image is the client's error, reported in the response and not in the log.
cv2.setLogLevel(0)

_OPENCV_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

# Pillow modes whose values have a known range. `I` and `F` (32-bit integers and floats) are
# excluded: only the sender knows which values are black and white.
_PLAIN_MODES = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr"}
)

_Pixels = NDArray[np.uint8]

MAX_SIDE = 65_536
"""Default limit on width and height in pixels. The largest JPEG has 65,535 per side."""

# A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, in 60, 50 and 40 % of the time; entropy
# decoding remains. The flags are those of `IMREAD_REDUCED_COLOR_*` without BGR.
_REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    1: 0,
}

# Minimum ratio of a reduced image's shorter side to the model's input. Measured at a slightly
# larger ratio (`python -m benchmarks images`): the input changes by 0.5 of 255 on average; the demo
# models' masks have a mean IoU of 0.998 (SAM 2, at least 0.990) and 0.997 (SAM 3) with those of the
# full image. For comparison, JPEG compression at quality 90 alone gives 0.999 and 0.998. SAM 2's
# IoU with the ground truth changes by less than 0.0002. At a ratio of 1.15 SAM 3 has 0.994; at 1.0
# SAM 3 has 0.993 and SAM 2 0.995. A 12 MP image at half size has a ratio of 1.46 to 1024 pixels.
_ENOUGH = 1.4


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image, possibly at a reduced size.

    Attributes:
        pixels: `uint8[h, w, 3]`, RGB, upright, contiguous.
        size: (height, width) of the full image in pixels; clients' coordinates refer to it.
        scale: Reduction per side: 1, 2, 4 or 8.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    scale: int = 1

    @property
    def extent(self) -> tuple[float, float]:
        """Rows and columns of `pixels` that the image covers.

        Fractional if `scale` does not divide a side: the image covers part of the last row or
        column.
        """
        return self.size[0] / self.scale, self.size[1] / self.scale


def decode_image(
    data: bytes,
    *,
    max_pixels: int,
    max_side: int = MAX_SIDE,
    max_metadata_items: int = MAX_METADATA_ITEMS,
) -> NDArray[np.uint8]:
    """Decode an image at full size; the format is detected from the content.

    Of an animation, the first frame is decoded. EXIF orientation is applied. `deep_png` and
    `raster` describe how values of 16-bit PNG and of TIFF are converted. Colour profiles are not
    applied. The alpha channel is dropped, as by `cv2.imread` and Pillow's `convert("RGB")`.

    Args:
        data: The encoded image: JPEG, PNG, WebP, TIFF, BMP, GIF or AVIF.
        max_pixels: Maximum number of pixels, checked against the header before decoding.
        max_side: Maximum width and height in pixels, checked likewise.
        max_metadata_items: Maximum number of metadata items of a TIFF file; default 8192.

    Returns:
        `uint8[H, W, 3]`, RGB, contiguous.

    Raises:
        ImageTooLargeError: The image has more than `max_pixels` pixels, or a longer side than
            `max_side`.
        ImageError: The format is not supported, or the file is truncated or damaged.
    """
    return decode_picture(
        data, max_pixels=max_pixels, max_side=max_side, max_metadata_items=max_metadata_items
    ).pixels


def is_slow(header: Header, *, max_pixels: int, side: int | None = None) -> bool:
    """Whether an image takes long to decode: a raster, or one of many pixels.

    Args:
        header: The image's header.
        max_pixels: Number of pixels to decode above which an image is slow.
        side: As of `decode_picture`.
    """
    pixels = header.pixels // _scale_for(header, side) ** 2
    return header.decoder == "rasterio" or pixels > max_pixels


def decode_picture(
    data: bytes,
    *,
    max_pixels: int,
    max_side: int = MAX_SIDE,
    max_metadata_items: int = MAX_METADATA_ITEMS,
    side: int | None = None,
    header: Header | None = None,
) -> Picture:
    """Decode an image like `decode_image`, at a reduced size if that is enough.

    Only JPEG can be decoded at a reduced size.

    Args:
        data: The encoded image.
        max_pixels: Maximum number of pixels of the full image.
        max_side: Maximum width and height in pixels. Some decoders, resizing and masks need memory
            for each row or column, however few pixels it has.
        max_metadata_items: Maximum number of metadata items of a TIFF file; default 8192.
        side: Side in pixels of the square that the caller will resize the image to. The image may
            be reduced if that makes no visible difference. None (the default) for full size.
        header: The header of `data`, if it has been read already.

    Returns:
        The decoded image and its full size.

    Raises:
        ImageTooLargeError: The image has more than `max_pixels` pixels, or a longer side than
            `max_side`.
        ImageError: The format is not supported, or the file is truncated or damaged.
    """
    header = header or read_header(data)
    if header.pixels > max_pixels:
        raise too_large(
            f"The image has {header.width} x {header.height} pixels"
            + (f" {header.burden}" if header.unit_pixels > header.width * header.height else "")
            + f"; the limit is {max_pixels:,} in total.",
            "Send a smaller image; the limit is the server's setting INFERENCE_MAX_IMAGE_PIXELS.",
        )
    if max(header.width, header.height) > max_side:
        raise too_large(
            f"The image has {header.width:,} x {header.height:,} pixels; the limit is "
            f"{max_side:,} per side.",
            "Crop the image, or send it in parts; the limit is the server's setting "
            "INFERENCE_MAX_IMAGE_SIDE.",
        )
    scale = _scale_for(header, side)
    try:
        if header.decoder == "opencv":
            pixels = _decode_opencv(data, scale)
        elif header.decoder == "rasterio":
            pixels = decode_raster(data, header, max_metadata_items=max_metadata_items)
        elif header.decoder == "deep_png":
            pixels = decode_deep_png(data)
        else:
            pixels = _decode_pillow(data, header)
    except ImageError:
        raise
    except Exception as error:  # decoders may raise anything on invalid data
        raise damaged(header.format, error) from error
    if pixels.shape == (header.height, header.width, 3):
        scale = 1  # lossless JPEG ignores the requested reduction
    elif pixels.shape != (-(-header.height // scale), -(-header.width // scale), 3):
        raise damaged(header.format)
    return Picture(upright(pixels, header.orientation), header.upright_size, scale)


def _scale_for(header: Header, side: int | None) -> int:
    """The largest reduction per side that is enough for a model's input: 1, 2, 4 or 8."""
    if side is None or header.format != "JPEG":
        return 1
    least = min(header.width, header.height) / (side * _ENOUGH)
    # Rotation may move a partly covered last row or column to the front, which `extent` cannot
    # express.
    turned = header.orientation not in (1, 5)
    return next(
        scale
        for scale in _REDUCED
        if scale == 1
        or (scale <= least and not (turned and (header.width % scale or header.height % scale)))
    )


def _decode_opencv(data: bytes, scale: int) -> _Pixels:
    """Decode with OpenCV: `uint8[ceil(H / scale), ceil(W / scale), 3]`, orientation not applied."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _OPENCV_FLAGS | _REDUCED[scale])
    if pixels is None:
        raise DamagedError("is truncated or damaged")
    return pixels.astype(np.uint8, copy=False)


def _decode_pillow(data: bytes, header: Header) -> _Pixels:
    """Decode with Pillow: `uint8[H, W, 3]`; orientation is applied to TIFF only."""
    with open_with_pillow(data, header.format) as image:
        # Pillow allocates by its own reading of the size, which must be the one that was checked.
        if image.size != (header.width, header.height):
            raise DamagedError("contains contradictory sizes")
        if image.mode not in _PLAIN_MODES:
            raise could_not_load(
                f"The {header.format} file has pixels of type {image.mode}, whose value range is "
                "undefined.",
                "Convert it to 8 or 16 bits per channel.",
            )
        image.load()
        if image.mode == "L":
            grey = cv2.cvtColor(np.asarray(image), cv2.COLOR_GRAY2RGB)
            return grey.astype(np.uint8, copy=False)
        # Otherwise Pillow warns about a palette's transparent entries.
        image.info.pop("transparency", None)
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
