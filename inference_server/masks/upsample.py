"""Low-resolution logits to masks of the image's size, at the cost of the masks' outlines.

The masks are those of `interpolate(logits, size, mode="bilinear", align_corners=False) > threshold`
of PyTorch, but no interpolated plane is ever made. Down a column of output pixels, the bilinear
surface is piecewise linear between the knots, that is, the rows of the logits. So a column is known
by the rows where it crosses the threshold, and these exist only in *mixed* cells: the ones whose
four knots are not all on the same side, since a bilinear surface stays within the range of its
knots. The crossings are found in the mixed cells alone, and the mask is filled between them by the
edge flag algorithm (Ackland and Weste, "The edge flag algorithm: a fill method for raster scan
displays", IEEE Transactions on Computers C-30, 1981).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.masks.mask import Mask

CHUNK_BYTES = 1 << 18
"""Bytes of one temporary array, of which a handful live at a time, whatever the mask's area."""

_LARGEST = float(np.finfo(np.float32).max)


def upsample_masks(
    logits: NDArray[np.float32], size: tuple[int, int], threshold: float = 0.0
) -> list[Mask]:
    """Masks of the image's size from low-resolution logits.

    See `upsample_mask`, which serves callers that want to let go of each mask before the next.

    Args:
        logits: float32 [N, h, w].
        size: (height, width) of the image, in pixels.
        threshold: a pixel belongs to the mask where its logit is greater.

    Returns:
        N masks, in the order of the logits.

    Raises:
        ValueError: if the logits are not [N, h, w], or a side of `size` is under 1.
    """
    if logits.ndim != 3:
        raise ValueError(f"logits are [N, h, w], not {logits.shape}")
    return [upsample_mask(plane, size, threshold) for plane in logits]


def upsample_mask(
    logits: NDArray[np.float32], size: tuple[int, int], threshold: float = 0.0
) -> Mask:
    """One mask of the image's size from its low-resolution logits.

    Equal to PyTorch's bilinear interpolation (`align_corners=False`, no antialiasing) followed by
    `> threshold`, in either direction of scaling. Pixels may differ only where the interpolated
    logit is within 1e-4 times the largest logit's magnitude of the threshold: PyTorch works in
    float32, this in float64. A NaN counts as outside.

    Args:
        logits: float32 [h, w].
        size: (height, width) of the image, in pixels.
        threshold: a pixel belongs to the mask where its logit is greater.

    Raises:
        ValueError: if the logits are not [h, w], or a side of `size` is under 1.
    """
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(f"logits are [h, w], not {logits.shape}")
    if min(size) < 1:
        raise ValueError(f"an image has at least one pixel, not {size}")
    level = float(np.float32(threshold))  # PyTorch compares in float32
    x, y, w, h = cv2.boundingRect((logits > level).view(np.uint8))
    if w == 0:
        return Mask.empty(size)

    # One knot more on each side than the box: outside of that, nothing exceeds the threshold. At
    # the image's border the last knot is repeated, which is what align_corners=False asks for.
    knot_rows = np.arange(y - 1, y + h + 1).clip(0, logits.shape[0] - 1)
    knot_columns = np.arange(x - 1, x + w + 1).clip(0, logits.shape[1] - 1)
    knots = logits[knot_rows[:, None], knot_columns].astype(np.float64)
    knots = np.fmin(np.fmax(knots, -_LARGEST), _LARGEST) - level

    # Which columns the knots reach, and where each falls among them: cell [0, w], weight [0, 1].
    x_scale = logits.shape[1] / size[1]
    x_start, x_stop = _reach(x, w, x_scale, size[1])
    source = (np.arange(x_start, x_stop) + 0.5) * x_scale - 0.5 - (x - 1)
    cell = np.minimum(source.astype(np.intp), w)
    weight = source - cell

    columns, positions, rising = _crossings(knots, cell, weight)
    y_scale = logits.shape[0] / size[0]
    y_start, y_stop = _reach(y, h, y_scale, size[0])
    positions = (positions + (y - 1) + 0.5) / y_scale - 0.5
    # The first row after the crossing; a pixel exactly on it is outside.
    rows = np.where(rising, np.floor(positions) + 1, np.ceil(positions))
    rows = rows.astype(np.intp).clip(y_start, y_stop)

    # Columns that are inside where the knots begin or end (at the image's border) flip there too.
    top, bottom = (
        np.flatnonzero(_interpolate(knots[k, cell], knots[k, cell + 1], weight) > 0)
        for k in (0, h + 1)
    )
    rows = np.concatenate([np.full(top.size, y_start), rows, np.full(bottom.size, y_stop)])
    columns = np.concatenate([top, columns, bottom])
    return _fill(columns + x_start, rows, size)


def _reach(start: int, length: int, scale: float, n_out: int) -> tuple[int, int]:
    """Output pixels [first, stop) of an axis that lie between the knots start - 1, start + length.

    `scale` is in knots a pixel: pixel i samples the knots at (i + 0.5) * scale - 0.5.
    """
    first = math.ceil((start - 0.5) / scale - 0.5)
    last = math.floor((start + length + 0.5) / scale - 0.5)
    return max(first, 0), min(last + 1, n_out)


def _interpolate(
    a: NDArray[np.float64], b: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Linear interpolation from a to b.

    In this form, and in float64, what lies between two knots on one side of zero is on that side
    despite rounding, even for the smallest float32. If it were not, a column could miss one of its
    crossings, and `_fill` would draw a streak to its end.
    """
    return a * (1 - weight) + b * weight


def _crossings(
    knots: NDArray[np.float64], cell: NDArray[np.intp], weight: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.bool_]]:
    """Where the columns of pixels cross zero.

    Args:
        knots: [h, w] logits, less the threshold.
        cell: [n] ascending; column i of the pixels lies between the knots' columns cell[i] and
            cell[i] + 1.
        weight: [n] in [0, 1], how far from the one to the other.

    Returns:
        For each crossing: its column in [0, n), its position in rows of knots, and whether the
        logit rises above zero there.
    """
    inside = knots > 0
    # If three of a cell's edges join knots of one side, so does the fourth.
    vertical = inside[1:] != inside[:-1]
    horizontal = inside[:, 1:] != inside[:, :-1]
    i, j = np.nonzero(vertical[:, 1:] | vertical[:, :-1] | horizontal[1:])

    first = np.searchsorted(cell, np.arange(knots.shape[1]))
    count = np.diff(first)
    widest = int(count[j].max(initial=0))
    offset = np.arange(widest)
    weight = np.concatenate([weight, np.zeros(widest)])  # so that first + offset stays in bounds

    columns, positions, rising = [], [], []
    step = max(1, CHUNK_BYTES // (8 * max(1, widest)))
    for start in range(0, i.size, step):
        ci, cj = i[start : start + step, None], j[start : start + step, None]
        column = first[cj] + offset
        t = weight[column]
        above = _interpolate(knots[ci, cj], knots[ci, cj + 1], t)
        below = _interpolate(knots[ci + 1, cj], knots[ci + 1, cj + 1], t)
        crosses = np.nonzero(((above > 0) != (below > 0)) & (offset < count[cj]))
        a, b = above[crosses], below[crosses]
        columns.append(column[crosses])
        positions.append(ci[crosses[0], 0] + a / (a - b))
        rising.append(b > 0)
    if not columns:
        return np.zeros(0, np.intp), np.zeros(0), np.zeros(0, np.bool_)
    return np.concatenate(columns), np.concatenate(positions), np.concatenate(rising)


def _fill(columns: NDArray[np.intp], rows: NDArray[np.intp], size: tuple[int, int]) -> Mask:
    """The mask whose pixel is inside if its column has an odd number of flips at or above its row.

    Args:
        columns: [n] column of each flip, in image pixels.
        rows: [n] row of each flip; the number of flips in a column is even.
        size: (height, width) of the image.
    """
    if columns.size == 0:
        return Mask.empty(size)
    x0, x1 = int(columns.min()), int(columns.max()) + 1
    y0, y1 = int(rows.min()), int(rows.max())
    stride = -(-(x1 - x0) // 8) * 8  # whole words of eight pixels, xored at once
    flips = np.zeros((y1 - y0 + 1, stride), np.uint8)
    np.bitwise_xor.at(flips.reshape(-1), (rows - y0) * stride + (columns - x0), np.uint8(1))
    words = flips.view(np.uint64)
    # numpy accumulates column by column: in blocks of rows that stay in the processor's cache.
    step = max(1, CHUNK_BYTES // stride)
    for start in range(0, len(words), step):
        block = words[max(start - 1, 0) : start + step]
        np.bitwise_xor.accumulate(block, axis=0, out=block)
    return Mask(x0, y0, flips[:-1, : x1 - x0].view(np.bool_), size)
