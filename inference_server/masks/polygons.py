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


def simplify(polygon: NDArray[np.int32], epsilon: float) -> NDArray[np.int32]:
    """Simplify a closed polygon (Douglas and Peucker's algorithm, `cv2.approxPolyDP`).

    A polygon that has an area keeps at least three vertices: for one thinner than `epsilon`, the
    distance is halved until it does. So a mask keeps its parts.

    Args:
        polygon: Integers [n, 2] of (x, y) in pixels, n >= 1.
        epsilon: Maximum distance between the polygon and its simplification in pixels; 0 removes
            only vertices on straight lines.

    Returns:
        int32 [m, 2] of (x, y), a subset of the vertices.
    """
    while True:
        found = np.asarray(cv2.approxPolyDP(polygon, epsilon, True), np.int32).reshape(-1, 2)
        if len(found) >= 3 or len(polygon) < 3 or cv2.contourArea(polygon) == 0:
            return found
        epsilon = epsilon / 2 if epsilon > 2**-8 else 0.0


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
