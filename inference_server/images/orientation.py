"""Apply EXIF orientation."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

_Pixels = NDArray[np.uint8]

_TURNS: dict[int, Callable[[_Pixels], cv2.typing.MatLike]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: lambda pixels: cv2.transpose(pixels),
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.flip(cv2.transpose(pixels), -1),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation to an image.

    Args:
        pixels: `uint8[H, W, 3]` or `uint8[H, W]`, as stored.
        orientation: EXIF orientation; values other than 2 to 8 change nothing.

    Returns:
        The upright image, in the same type; 5 to 8 swap height and width.
    """
    turn = _TURNS.get(orientation)
    return pixels if turn is None else turn(pixels).astype(np.uint8, copy=False)
