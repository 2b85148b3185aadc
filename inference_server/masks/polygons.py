"""Convert masks to polygons."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.executor import stop_if_cancelled
from inference_server.masks.mask import Mask
from inference_server.masks.rings import mask_rings
from inference_server.masks.simplify import simplify_rings


def mask_polygons(mask: Mask, epsilon: float = 0.0) -> list[NDArray[np.int32]]:
    """Outer contours of a mask; holes are not traced.

    The contours and their order are those of `cv2.findContours(plane, RETR_EXTERNAL,
    CHAIN_APPROX_SIMPLE)` on the whole plane (border following: Suzuki and Abe, "Topological
    structural analysis of digitized binary images by border following", CVGIP 30, 1985), but only
    the mask's box is traced.

    Args:
        mask: The mask; it may be empty.
        epsilon: Maximum distance in pixels between a contour and its simplification, which keeps
            all parts, does not cross itself or others, and touches itself only where the contour
            does. Default: 0, not simplified.

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
        # With all pixels, contours that touch share a vertex.
        cv2.CHAIN_APPROX_NONE if epsilon > 0 else cv2.CHAIN_APPROX_SIMPLE,
        offset=box[:2],
    )
    polygons: list[NDArray[np.int32]] = [
        np.asarray(contour, np.int32).reshape(-1, 2) for contour in contours
    ]
    if epsilon > 0:
        polygons = [_turns(ring) for ring in simplify_rings(polygons, epsilon)]
    return polygons


def _turns(ring: NDArray[np.int64]) -> NDArray[np.int32]:
    """The vertices of a ring at which it changes its direction, each once in a row.

    A contour goes along a line of single pixels and back; without its end it would stand still.
    """
    moves = (ring != np.roll(ring, 1, axis=0)).any(1)
    ring = ring[moves] if moves.any() else ring[:1]
    into = ring - np.roll(ring, 1, axis=0)
    out = np.roll(ring, -1, axis=0) - ring
    straight = into[:, 0] * out[:, 1] == into[:, 1] * out[:, 0]
    return np.asarray(ring[~straight | ((into * out).sum(1) <= 0)], np.int32)


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


def simplified_parts(mask: Mask, epsilon: float) -> list[NDArray[np.int64]]:
    """The outline of each part along the edges of its pixels, simplified. Holes are left out.

    Args:
        mask: The mask; it may be empty.
        epsilon: Maximum distance between an outline and its simplification in pixels; see
            `simplify_rings`.

    Returns:
        For each part, the largest first, int64 [n, 2] of (x, y), n >= 3, where (0, 0) is the
        image's top left corner.
    """
    stop_if_cancelled()
    parts = simplify_rings([outer[:-1] for outer, *_ in mask_rings(mask)], epsilon)
    return sorted(parts, key=lambda part: -cv2.contourArea(part.astype(np.float32)))
