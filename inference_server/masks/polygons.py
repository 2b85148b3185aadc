"""Convert masks to polygons."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.executor import stop_if_cancelled
from inference_server.masks.mask import Mask


def mask_polygons(mask: Mask) -> list[NDArray[np.int32]]:
    """Outer contours of a mask; holes are not traced.

    The contours and their order are those of `cv2.findContours(plane, RETR_EXTERNAL,
    CHAIN_APPROX_SIMPLE)` on the whole plane (border following: Suzuki and Abe, "Topological
    structural analysis of digitized binary images by border following", CVGIP 30, 1985), but only
    the mask's box is traced.

    Args:
        mask: The mask; it may be empty.

    Returns:
        For each part of the mask, int32 [n, 2] of (x, y) in image pixels, n >= 1: one vertex for a
        single pixel, two for a straight line. Empty for an empty mask.
    """
    stop_if_cancelled()
    if mask.is_empty:  # OpenCV refuses empty arrays
        return []
    box = mask.box
    contours, _ = cv2.findContours(
        mask.pixels(box).view(np.uint8),
        cv2.RETR_EXTERNAL,
        cv2.CHAIN_APPROX_SIMPLE,
        offset=box[:2],
    )
    return [np.asarray(contour, np.int32).reshape(-1, 2) for contour in contours]


def outline(mask: Mask, epsilon: float) -> NDArray[np.int32]:
    """The outer contour of a mask's largest part, simplified (`cv2.approxPolyDP`).

    Args:
        mask: A mask with at least one pixel.
        epsilon: Maximum distance between the contour and its simplification in pixels.

    Returns:
        int32 [n, 2] of (x, y) in image pixels, n >= 1.

    Raises:
        ValueError: The mask is empty.
    """
    largest = max(mask_polygons(mask), key=lambda part: (cv2.contourArea(part), len(part)))
    return np.asarray(cv2.approxPolyDP(largest, epsilon, True), np.int32).reshape(-1, 2)
