"""Label planes: combine masks into one plane of ids."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.masks.mask import Mask

LabelPlane = NDArray[np.uint8 | np.uint16 | np.uint32]
"""[H, W] of ids; 0 is background."""

INSIDE = 255
"""Value of mask pixels if ids are not unique."""


def label_plane(
    masks: Sequence[Mask],
    size: tuple[int, int],
    *,
    order: Sequence[int] | None = None,
    unique: bool = True,
    foreground: bool = True,
) -> LabelPlane:
    """Combine masks into one plane. The cost follows the masks' boxes.

    Args:
        masks: Masks of one image.
        size: (height, width) of the image, in pixels.
        order: Indices of all masks, from bottom to top: where masks overlap, the upper one wins.
            Default: the later mask wins.
        unique: Give mask i the id i + 1. If false, the plane is 255 inside any mask and 0
            elsewhere. Default true.
        foreground: Only used if `unique` is false. If false, the plane is 255 except for the
            masks' outlines: a pixel is 0 if it belongs to a mask and one of its eight neighbours in
            the image does not. Default true.

    Returns:
        [H, W]: uint8 for up to 255 masks and if `unique` is false, uint16 for up to 65,535, else
        uint32.

    Raises:
        ValueError: A mask belongs to an image of another size.
    """
    for mask in masks:
        if mask.size != size:
            raise ValueError(f"a mask of an image of {mask.size} does not fit an image of {size}")
    if not unique:
        plane: LabelPlane = np.full(size, 0 if foreground else INSIDE, np.uint8)
        for mask in masks:
            if foreground:
                _paint(plane, mask.box, mask.crop, INSIDE)
            else:
                _paint(plane, *_outline(mask), 0)
        return plane
    plane = np.zeros(size, _id_type(len(masks)))
    for i in range(len(masks)) if order is None else order:
        _paint(plane, masks[i].box, masks[i].crop, i + 1)
    return plane


def _id_type(masks: int) -> type[np.uint8] | type[np.uint16] | type[np.uint32]:
    """The narrowest dtype that can number this many masks from 1."""
    if masks <= np.iinfo(np.uint8).max:
        return np.uint8
    return np.uint16 if masks <= np.iinfo(np.uint16).max else np.uint32


def _paint(
    plane: LabelPlane, box: tuple[int, int, int, int], inside: NDArray[np.bool_], value: int
) -> None:
    """Set the pixels of a box (x0, y0, x1, y1), ends exclusive, where `inside` is true."""
    x0, y0, x1, y1 = box
    np.copyto(plane[y0:y1, x0:x1], plane.dtype.type(value), where=inside)


def _outline(mask: Mask) -> tuple[tuple[int, int, int, int], NDArray[np.bool_]]:
    """A box, and the mask's pixels in it that have a neighbour outside the mask."""
    if mask.is_empty:
        return mask.box, mask.crop
    height, width = mask.size
    x0, y0, x1, y1 = mask.box
    # One pixel larger where the image allows it: OpenCV treats pixels outside the array as inside.
    box = max(x0 - 1, 0), max(y0 - 1, 0), min(x1 + 1, width), min(y1 + 1, height)
    pixels = mask.pixels(box).view(np.uint8)
    inner = cv2.erode(pixels, np.ones((3, 3), np.uint8))
    return box, pixels != inner
