"""Masks of a window in the plane of a larger image: moved, enlarged, measured and joined.

All of it works on runs, without a plane and without a loop over runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference_server.masks.mask import Mask, column_runs

_Indices = NDArray[np.int64]


def moved(mask: Mask, corner: tuple[int, int], size: tuple[int, int]) -> Mask:
    """The mask of a window, as a mask of the image that the window belongs to.

    Args:
        mask: a mask of the window.
        corner: (x, y) of the window's first pixel in the image.
        size: (height, width) of the image in pixels.

    Raises:
        ValueError: the window exceeds the image.
    """
    x, y = corner
    if x < 0 or y < 0 or y + mask.size[0] > size[0] or x + mask.size[1] > size[1]:
        raise ValueError(f"a window of {mask.size} at {corner} exceeds an image of {size}")
    columns, first, stop = column_runs(mask)
    return _of_columns(columns + x, first + y, stop + y, size)


def enlarged(mask: Mask, size: tuple[int, int]) -> Mask:
    """The mask at another resolution: each new pixel is that of the nearest old one.

    Args:
        mask: the mask.
        size: (height, width) of the result in pixels.
    """
    if size == mask.size or mask.is_empty:
        return Mask(mask.runs, size)
    (old_height, old_width), (height, width) = mask.size, size
    columns, first, stop = column_runs(mask)
    # The first new row whose centre lies in or below an old row.
    first, stop = (
        -((old_height - 2 * edges * height) // (2 * old_height)) for edges in (first, stop)
    )
    source = (2 * np.arange(width) + 1) * old_width // (2 * width)
    count = np.bincount(columns, minlength=old_width)
    begin = count.cumsum() - count
    repeated = count[source]
    own = np.repeat(begin[source] - (repeated.cumsum() - repeated), repeated)
    own += np.arange(own.size)
    kept = first[own] < stop[own]  # none if the mask shrinks
    own = own[kept]
    return _of_columns(np.repeat(np.arange(width), repeated)[kept], first[own], stop[own], size)


def within(mask: Mask, box: tuple[int, int, int, int]) -> Mask:
    """The part of a mask in a box, as a mask of the box.

    Args:
        mask: the mask.
        box: (x0, y0, x1, y1) in pixels of the image, (x1, y1) exclusive; inside the image.
    """
    x0, y0, x1, y1 = box
    height = mask.size[0]
    low = mask.runs[:, 1].searchsorted(x0 * height, side="right")
    high = mask.runs[:, 0].searchsorted(x1 * height, side="left")
    columns, first, stop = column_runs(Mask(mask.runs[low:high], mask.size))
    first, stop = np.maximum(first, y0) - y0, np.minimum(stop, y1) - y0
    inside = (columns >= x0) & (columns < x1) & (first < stop)
    return _of_columns(
        columns[inside] - x0, first[inside], stop[inside], (y1 - y0, max(0, x1 - x0))
    )


def union(masks: Sequence[Mask]) -> Mask:
    """The pixels that are in any of the masks.

    Args:
        masks: at least one mask, all of one image.

    Raises:
        ValueError: the masks belong to images of different sizes.
    """
    size = masks[0].size
    if any(mask.size != size for mask in masks):
        raise ValueError("the masks belong to images of different sizes")
    runs = np.concatenate([mask.runs for mask in masks])
    if len(masks) == 1 or not len(runs):
        return masks[0]
    runs = runs[runs[:, 0].argsort(kind="stable")]
    stop = np.maximum.accumulate(runs[:, 1])
    begins = np.ones(len(runs), np.bool_)
    begins[1:] = runs[1:, 0] > stop[:-1]
    ends = np.append(begins[1:], True)
    return Mask(np.stack([runs[begins, 0], stop[ends]], axis=1), size)


def _of_columns(columns: _Indices, first: _Indices, stop: _Indices, size: tuple[int, int]) -> Mask:
    """The mask of runs within columns, in ascending order."""
    base = columns * size[0]
    # Runs that meet at the end of a column become one: equal flips cancel.
    return Mask.from_flips(np.stack([base + first, base + stop], axis=1).reshape(-1), size)


def meet(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Whether two boxes share pixels.

    Args:
        a: (x0, y0, x1, y1), (x1, y1) exclusive.
        b: another box.
    """
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
