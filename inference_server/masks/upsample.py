"""Upsample low-resolution logits to masks of the image's size.

The masks are those of `interpolate(logits, size, mode="bilinear", align_corners=False) > threshold`
in PyTorch, but no interpolated plane is created. Along a column of output pixels, the bilinear
surface is piecewise linear between knots, the rows of the logits. The ends of the mask's runs are
the rows where a column crosses the threshold. Only the knots' rows are interpolated: one value per
image column and logit row, whatever the image's height. No library offers this.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.executor import stop_if_cancelled
from inference_server.masks.mask import Mask

# Measured alternately on a busy machine, one thread of a Xeon at 2.5 GHz, best of 7, in ms. The
# alternative, "cells", computes crossings only in cells with knots on both sides of the threshold,
# which needs an index per cell, and fills the pixels between them.
#   200 masks of 6 % boxes, 1080p      cells 224, all columns of the box, as below, 192
#   100 such masks, 4032 x 4032        cells 531, below 205
#   one plane of white noise, 1080p    cells 71, below 24, torch 11
#   the same, 4032 x 4032              cells 264, below 72, torch 220
# Later, on an idle machine: float32 throughout 62, float64 78 (first row); 85 and 119 (second row).
# For images hardly larger than the logits, interpolating the plane is cheaper: 0.5 ms instead of
# 3.6 for white noise at 480 x 270.

CHUNK_BYTES = 1 << 18
"""Maximum size of a temporary array in bytes, of which a handful exist at a time.

Of 32 kB to 1 MB, 128 and 256 kB were the fastest on a busy machine.
"""

_LARGEST = float(np.finfo(np.float32).max) / 8
"""Logits are clamped to this, so that differences of differences stay within float32."""


def upsample_masks(
    logits: NDArray[np.float32], size: tuple[int, int], threshold: float = 0.0
) -> list[Mask]:
    """Upsample several planes, see `upsample_mask`.

    Args:
        logits: Low-resolution planes that each cover the whole image, float32 [N, h, w].
        size: (height, width) of the image, in pixels.
        threshold: A pixel belongs to the mask if its logit exceeds this; default 0.

    Returns:
        N masks, in the order of the logits.

    Raises:
        ValueError: The logits are not [N, h, w], or a side of `size` is less than 1.
    """
    if logits.ndim != 3:
        raise ValueError(f"logits are [N, h, w], not {logits.shape}")
    return [upsample_mask(plane, size, threshold) for plane in logits]


def upsample_mask(
    logits: NDArray[np.float32], size: tuple[int, int], threshold: float = 0.0
) -> Mask:
    """Upsample a plane of low-resolution logits to a mask of the image's size.

    Equal to PyTorch's bilinear interpolation (`align_corners=False`, no antialiasing) followed by
    `> threshold`, in either direction of scaling. Pixels may differ only where the interpolated
    logit is within 1e-4 times the largest logit's magnitude of the threshold: both round to
    float32, but not the same sums. A NaN counts as outside.

    Args:
        logits: Low-resolution plane that covers the whole image, float32 [h, w].
        size: (height, width) of the image, in pixels.
        threshold: A pixel belongs to the mask if its logit exceeds this; default 0.

    Raises:
        ValueError: The logits are not [h, w], or a side of `size` is less than 1.
    """
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(f"logits are [h, w], not {logits.shape}")
    if min(size) < 1:
        raise ValueError(f"an image has at least one pixel, not {size}")
    stop_if_cancelled()
    level = float(np.float32(threshold))  # PyTorch compares in float32
    x, y, w, h = cv2.boundingRect((logits > level).view(np.uint8))
    if w == 0:
        return Mask.empty(size)
    knots = _knots(logits, (x, y, w, h), level)
    slopes = knots[1:] - knots[:-1]

    # The columns between the knots, and the position of each: cell [0, w], weight [0, 1].
    h_in, w_in = logits.shape
    height, width = size
    scale = w_in / width
    x_start, x_stop = _reach(x, w, scale, width)
    source = np.arange(x_start, x_stop) * scale + (0.5 * scale + 0.5 - x)
    cell = np.minimum(source.astype(np.intp), w)
    weight = (source - cell).astype(np.float32)[:, None]

    scale = h_in / height
    y_start, y_stop = _reach(y, h, scale, height)
    flips = []
    step = max(1, CHUNK_BYTES // knots[0].nbytes)
    for start in range(0, cell.size, step):
        chunk = slice(start, start + step)
        column, row, rising = _crossings(knots, slopes, cell[chunk], weight[chunk])
        # From knot rows to the first pixel row past the crossing. A pixel on the crossing is
        # outside.
        row += y - 1.5
        row /= scale
        row -= 0.5
        past = np.ceil(row)
        past += rising & (past == row)
        np.maximum(past, y_start, out=past)
        np.minimum(past, y_stop, out=past)
        column += x_start + start
        column *= height
        column += past.astype(np.intp)
        flips.append(column)
    if not flips:  # the knots lie between two columns of a smaller image
        return Mask.empty(size)
    return Mask.from_flips(np.concatenate(flips) if len(flips) > 1 else flips[0], size)


def _knots(
    logits: NDArray[np.float32], box: tuple[int, int, int, int], level: float
) -> NDArray[np.float32]:
    """The logits in and around a box, float32 [w + 2, h + 4], transposed: columns are contiguous.

    One knot is added on each side. The box contains all knots that exceed the threshold, so nothing
    beyond does. At the image's border the last knot is repeated, as `align_corners=False` does.
    Above and below, one more knot is far below the threshold, so that each column begins and ends
    outside the mask.

    Args:
        logits: Low-resolution plane, [h, w].
        box: Box (x, y, w, h) of the knots that exceed the threshold.
        level: Threshold to subtract.
    """
    x, y, w, h = box
    h_in, w_in = logits.shape
    about = cv2.copyMakeBorder(
        logits[max(y - 1, 0) : y + h + 1, max(x - 1, 0) : x + w + 1],
        int(y == 0),
        int(y + h == h_in),
        int(x == 0),
        int(x + w == w_in),
        cv2.BORDER_REPLICATE | cv2.BORDER_ISOLATED,
    )
    knots = np.full((w + 2, h + 4), -_LARGEST, np.float32)
    knots[:, 1:-1] = np.fmin(np.fmax(about - np.float32(level), -_LARGEST), _LARGEST).T
    return knots


def _reach(start: int, length: int, scale: float, n_out: int) -> tuple[int, int]:
    """Output pixels [first, stop) of an axis that lie between the knots start - 1, start + length.

    `scale` is in knots per pixel: pixel i samples the knots at (i + 0.5) * scale - 0.5.
    """
    first = math.ceil((start - 0.5) / scale - 0.5)
    last = math.floor((start + length + 0.5) / scale - 0.5)
    return max(first, 0), min(last + 1, n_out)


def _crossings(
    knots: NDArray[np.float32],
    slopes: NDArray[np.float32],
    cell: NDArray[np.intp],
    weight: NDArray[np.float32],
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.bool_]]:
    """Find where columns of pixels cross zero.

    Args:
        knots: float32 [w, h], logits minus the threshold, transposed.
        slopes: float32 [w - 1, h], differences between consecutive columns of knots.
        cell: [n], ascending; pixel column i lies between the knot columns cell[i] and cell[i] + 1.
        weight: float32 [n, 1], position between these two columns, 0 to 1.

    Returns:
        For each crossing, by column and then downwards: its column in [0, n), its position in knot
        rows, and whether the logit rises above zero there.
    """
    # Crossings are found in the rounded interpolated values themselves. Columns begin and end
    # outside, so each has an even number of crossings, whatever the rounding.
    line = slopes.take(cell, axis=0)
    line *= weight
    line += knots.take(cell, axis=0)
    values = line.reshape(-1)
    inside = values > 0
    found = np.flatnonzero(inside[1:] != inside[:-1])  # none between columns
    column = found // line.shape[1]  # not divmod: it takes 35 ns an element, where // takes 1
    above, below = values.take(found).astype(np.float64), values.take(found + 1)
    position = above / (above - below)
    found -= column * line.shape[1]
    position += found
    return column, position, below > 0
