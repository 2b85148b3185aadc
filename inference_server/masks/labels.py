"""Label planes: combine masks into one plane of ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.executor import stop_if_cancelled
from inference_server.masks.mask import Mask, rows_of

Rank = tuple[float, float, tuple[int, int, int, int]]
"""Order of masks from bottom to top."""

LabelPlane = NDArray[np.uint8 | np.uint16 | np.uint32]
"""[H, W] of ids; 0 is background."""

INSIDE = 255
"""Value of mask pixels if ids are not unique."""

STRIP_ROWS = 256
"""Rows of a block of `label_strips`: as many as a tile of a GeoTIFF has."""


class Layer(NamedTuple):
    """A mask that is drawn into a plane of ids.

    Attributes:
        id: Its id, from 1.
        mask: The mask, at the image's size.
        rank: Where masks overlap, the one of the highest rank is on top.
    """

    id: int
    mask: Mask
    rank: Rank


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
    plane = np.zeros(size, id_type(len(masks)))
    for i in range(len(masks)) if order is None else order:
        _paint(plane, masks[i].box, masks[i].crop, i + 1)
    return plane


def label_strips(
    touching: Callable[[range], Iterable[Layer]],
    size: tuple[int, int],
    dtype: type[np.uint8] | type[np.uint16] | type[np.uint32],
    *,
    rows: int = STRIP_ROWS,
    unique: bool = True,
    foreground: bool = True,
) -> Iterator[LabelPlane]:
    """Combine masks into one plane that is made row block by row block, from top to bottom.

    The blocks are those of the plane that `label_plane` makes, but at no time is there more than
    one of them, nor more of a mask than its part in the block.

    Args:
        touching: Returns the masks that have pixels in some rows, in any order; it may return
            others as well.
        size: (height, width) of the image, in pixels.
        dtype: Type of the ids, see `id_type`; not used if `unique` is false.
        rows: Rows of each block but the last. Default 256.
        unique: See `label_plane`. Default true.
        foreground: See `label_plane`. Default true.

    Yields:
        [rows, W] each; uint8 if `unique` is false.
    """
    height, width = size
    for top in range(0, height, rows):
        stop_if_cancelled()
        bottom = min(top + rows, height)
        # Outlines depend on one more row on either side.
        margin = 0 if unique or foreground else 1
        seen = range(max(top - margin, 0), min(bottom + margin, height))
        layers = [
            each._replace(mask=part)
            for each in touching(seen)
            if not (part := rows_of(each.mask, seen)).is_empty
        ]
        layers.sort(key=lambda layer: layer.rank)
        shape = len(seen), width
        if unique:
            plane: LabelPlane = np.zeros(shape, dtype)
            for each in layers:
                _paint(plane, each.mask.box, each.mask.crop, each.id)
        else:
            masks = [each.mask for each in layers]
            plane = label_plane(masks, shape, unique=False, foreground=foreground)
        yield plane[top - seen.start : bottom - seen.start]


def id_type(masks: int) -> type[np.uint8] | type[np.uint16] | type[np.uint32]:
    """The narrowest dtype that can number some masks from 1.

    Args:
        masks: Number of masks.
    """
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
