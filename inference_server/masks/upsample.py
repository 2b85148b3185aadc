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

# Measured on one core of a Xeon at 2.5 GHz, numpy 2.2, OpenCV 4.12: one blob of 5 % of the image,
# from 256 x 256, in ms at 1080p and at 4K.
#   whole plane    torch 6.1, 23; cv2.resize 2.4, 10
#   box of mask    gather and lerp in numpy 0.76, 3.1; two dense matrix products 0.57, 1.7;
#                  cv2.warpAffine 1.2, 4.4 and inexact (it rounds positions to 1/32 of a cell);
#                  crossings in all cells 0.44, 0.93; in mixed cells alone, as below, 0.45, 0.73
# and for a blob of 50 %: torch 6.1, 23; gather and lerp 8.6, 29; mixed cells 1.7, 6.4. cv2.resize
# on a crop is exact only where the crop's corner falls on a whole number of pixels. The worst case
# is a plane of white noise, where nearly all cells are mixed: 35 against torch's 6 at 1080p.

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
    h_in, w_in = logits.shape
    top, bottom, left, right = y == 0, y + h == h_in, x == 0, x + w == w_in
    knots = cv2.copyMakeBorder(
        logits[max(y - 1, 0) : y + h + 1, max(x - 1, 0) : x + w + 1],
        int(top),
        int(bottom),
        int(left),
        int(right),
        cv2.BORDER_REPLICATE | cv2.BORDER_ISOLATED,
    )
    knots = np.fmin(np.fmax(knots, -_LARGEST), _LARGEST).astype(np.float64) - level

    # Which columns the knots reach, and where each falls among them: cell [0, w], weight [0, 1].
    scale = w_in / size[1]
    x_start, x_stop = _reach(x, w, scale, size[1])
    source = np.arange(x_start, x_stop) * scale + (0.5 * scale + 0.5 - x)
    cell = np.minimum(source.astype(np.intp), w)
    weight = source - cell
    columns, positions, rising = _crossings(knots, cell, weight)

    # From rows of knots to the first row of pixels past the crossing. A pixel on it is outside.
    scale = h_in / size[0]
    y_start, y_stop = _reach(y, h, scale, size[0])
    positions = (positions + (y - 0.5)) / scale - 0.5
    rows = np.where(rising, np.floor(positions) + 1, np.ceil(positions)).astype(np.intp)
    rows = np.minimum(np.maximum(rows, y_start), y_stop)

    # Columns that are inside at the image's border flip there too.
    for touches, knot_row, row in ((top, 0, y_start), (bottom, h + 1, y_stop)):
        if touches:
            a, b = knots[knot_row, cell], knots[knot_row, cell + 1]
            inside = np.flatnonzero(_interpolate(a, b, weight) > 0)
            columns = np.concatenate([columns, inside])
            rows = np.concatenate([rows, np.full(inside.size, row)])
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
    horizontal = inside[1:, 1:] != inside[1:, :-1]
    mixed = np.flatnonzero(vertical[:, 1:] | vertical[:, :-1] | horizontal)
    i, j = np.divmod(mixed, knots.shape[1] - 1)

    first = np.searchsorted(cell, np.arange(knots.shape[1]))
    count = np.diff(first)[j]
    first = first[j]
    widest = int(count.max(initial=0))
    offset = np.arange(widest)
    weight = np.concatenate([weight, np.zeros(widest)])  # so that first + offset stays in bounds
    corner = i * knots.shape[1] + j
    corners = np.stack([corner, corner + knots.shape[1]])[:, :, None]  # above and below
    flat = knots.ravel()

    columns, positions, rising = [], [], []
    step = max(1, CHUNK_BYTES // (16 * max(1, widest)))
    for chunk in (slice(start, start + step) for start in range(0, i.size, step)):
        column = first[chunk, None] + offset
        left = corners[:, chunk]
        above, below = _interpolate(flat.take(left), flat.take(left + 1), weight.take(column))
        crosses = (above > 0) != (below > 0)
        crosses &= offset < count[chunk, None]
        found = np.flatnonzero(crosses)
        a, b = above.take(found), below.take(found)
        columns.append(column.take(found))
        positions.append(i[chunk].take(found // widest) + a / (a - b))
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
