"""Upsample low-resolution logits to masks of the image's size.

The masks are those of `interpolate(logits, size, mode="bilinear", align_corners=False) > threshold`
in PyTorch, but no interpolated plane is created. Along a column of output pixels, the bilinear
surface is piecewise linear between knots, the rows of the logits. The ends of the mask's runs are
the rows where a column crosses the threshold. Only the knots' rows are interpolated: one value per
image column and logit row, whatever the image's height. No library offers this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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

CHUNK_BYTES = 1 << 19
"""Maximum size of a temporary array in bytes, of which a handful exist at a time.

Small masks are computed side by side up to this size: a call costs 0.1 ms. Of 128 kB to 2 MB, 512
kB was the fastest for 200 masks at 1080p: 50 ms one by one, then 49, 45, 39, 48 and 64.
"""

_LARGEST = float(np.finfo(np.float32).max) / 8
"""Logits are clamped to this, so that differences of differences stay within float32."""


def upsample_masks(
    logits: NDArray[np.float32], size: tuple[int, int], threshold: float = 0.0
) -> list[Mask]:
    """Upsample several planes, see `upsample_mask`. Small masks are computed side by side.

    Args:
        logits: Low-resolution planes that each cover the whole image, float32 [N, h, w].
        size: (height, width) of the image, in pixels.
        threshold: A pixel belongs to the mask if its logit exceeds this; default 0.

    Returns:
        N masks, in the order of the logits.

    Raises:
        ValueError: The logits are not [N, h, w], or a side of `size` is less than 1.
    """
    if logits.ndim != 3 or 0 in logits.shape[1:]:
        raise ValueError(f"logits are [N, h, w], not {logits.shape}")
    if min(size) < 1:
        raise ValueError(f"an image has at least one pixel, not {size}")
    level = float(np.float32(threshold))  # PyTorch compares in float32
    masks = [Mask.empty(size)] * len(logits)
    parts: list[_Part] = []
    for number, plane in enumerate(logits):
        box = cv2.boundingRect((plane > level).view(np.uint8))
        if box[2]:
            parts.append(_Part.of(number, box, plane.shape, size))
    # Planes of similar heights waste little when they are computed side by side.
    parts.sort(key=lambda part: part.box[3])
    for group in _groups(parts):
        stop_if_cancelled()
        for part, flips in zip(group, _flips(logits, group, size, level), strict=True):
            masks[part.number] = Mask.from_flips(flips, size)
    return masks


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
    if logits.ndim != 2:
        raise ValueError(f"logits are [h, w], not {logits.shape}")
    return upsample_masks(logits[None], size, threshold)[0]


@dataclass(frozen=True, slots=True)
class _Part:
    """The part of a plane that exceeds the threshold, and the pixels around it.

    Attributes:
        number: Index of the plane.
        box: Box (x, y, w, h) of the knots that exceed the threshold.
        columns: First column of pixels, and the one after the last.
        rows: First row of pixels, and the one after the last.
    """

    number: int
    box: tuple[int, int, int, int]
    columns: tuple[int, int]
    rows: tuple[int, int]

    @classmethod
    def of(
        cls,
        number: int,
        box: Sequence[int],
        shape: tuple[int, ...],
        size: tuple[int, int],
    ) -> _Part:
        """Find the pixels around a box of knots, in a plane of `shape` for an image of `size`."""
        x, y, w, h = box
        columns = _reach(x, w, shape[1] / size[1], size[1])
        rows = _reach(y, h, shape[0] / size[0], size[0])
        return cls(number, (x, y, w, h), columns, rows)

    @property
    def width(self) -> int:
        """Number of columns of pixels; 0 if the knots lie between two of a smaller image."""
        return max(self.columns[1] - self.columns[0], 0)


def _groups(parts: Sequence[_Part]) -> Iterator[list[_Part]]:
    """Divide parts, ascending by height, into groups of `CHUNK_BYTES`, or of one larger part."""
    group: list[_Part] = []
    columns = 0
    for part in parts:
        more = max(part.width, part.box[2] + 2)  # of pixels, or of knots if the image is smaller
        if group and (columns + more) * _nbytes(part.box[3]) > CHUNK_BYTES:
            yield group
            group, columns = [], 0
        group.append(part)
        columns += more
    if group:
        yield group


def _nbytes(h: int) -> int:
    """Bytes of a column of knots around h of them."""
    return 4 * (h + 4)


def _flips(
    logits: NDArray[np.float32], group: Sequence[_Part], size: tuple[int, int], level: float
) -> list[NDArray[np.int64]]:
    """Find the ends of the runs of masks.

    Args:
        logits: Low-resolution planes, [N, h, w].
        group: Parts of planes; the last is the highest.
        size: (height, width) of the image, in pixels.
        level: Threshold.

    Returns:
        The flips of each part; see `Mask.from_flips`.
    """
    knots, begins = _knots(logits, group, level)
    slopes = knots[1:] - knots[:-1]
    height, width = size

    # The columns of pixels of all parts, and the position of each between the knots: cell, weight.
    scale = logits.shape[2] / width
    widths = np.array([part.width for part in group])
    ends = widths.cumsum()
    own = np.repeat(np.arange(len(group)), widths)
    shift = np.array([part.columns[0] for part in group]) - (ends - widths)
    before = np.array([0.5 * scale + 0.5 - part.box[0] for part in group])
    source = (np.arange(own.size) + shift[own]) * scale + before[own]
    cell = np.minimum(source.astype(np.intp), np.array([part.box[2] for part in group])[own])
    weight = (source - cell).astype(np.float32)[:, None]
    cell += begins[own]

    scale = logits.shape[1] / height
    above = np.array([part.box[1] - 1.5 for part in group])
    first = np.array([part.rows[0] for part in group], np.float64)
    last = np.array([part.rows[1] for part in group], np.float64)
    flips = []
    counts = np.zeros(len(group), np.intp)
    part: NDArray[np.intp] | slice
    step = max(1, CHUNK_BYTES // knots[0].nbytes)
    for start in range(0, cell.size, step):
        chunk = slice(start, start + step)
        column, row, rising = _crossings(knots, slopes, cell[chunk], weight[chunk])
        column += start
        if len(group) > 1:
            part = own[column]
            counts += np.bincount(part, minlength=len(group))
        else:  # the same numbers for all crossings
            part = slice(None)
        # From knot rows to the first pixel row past the crossing. A pixel on the crossing is
        # outside.
        row += above[part]
        row /= scale
        row -= 0.5
        past = np.ceil(row)
        past += rising & (past == row)
        np.maximum(past, first[part], out=past)
        np.minimum(past, last[part], out=past)
        column += shift[part]
        column *= height
        column += past.astype(np.intp)
        flips.append(column)
    if not flips:
        return [np.zeros(0, np.int64) for _ in group]
    joined = np.concatenate(flips) if len(flips) > 1 else flips[0]
    if len(group) == 1:
        return [joined]
    # Copies, because a mask may live longer than the others of its group.
    return [each.copy() for each in np.split(joined, counts.cumsum()[:-1])]


def _knots(
    logits: NDArray[np.float32], group: Sequence[_Part], level: float
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """The logits in and around the box of each part, transposed: columns are contiguous.

    One knot is added on each side. The box contains all knots that exceed the threshold, so nothing
    beyond does. At the image's border the last knot is repeated, as `align_corners=False` does.
    Above and below, the knots are far below the threshold, so that each column begins and ends
    outside the mask.

    Args:
        logits: Low-resolution planes, [N, h, w].
        group: Parts of planes; the last is the highest.
        level: Threshold to subtract.

    Returns:
        (float32 [sum of w + 2, highest h + 4], the first column of each part).
    """
    h_in, w_in = logits.shape[1:]
    counts = np.array([part.box[2] + 2 for part in group])
    begins = counts.cumsum() - counts
    knots = np.full((int(counts.sum()), group[-1].box[3] + 4), -_LARGEST, np.float32)
    for part, begin in zip(group, begins.tolist(), strict=True):
        x, y, w, h = part.box
        about = cv2.copyMakeBorder(
            logits[part.number, max(y - 1, 0) : y + h + 1, max(x - 1, 0) : x + w + 1],
            int(y == 0),
            int(y + h == h_in),
            int(x == 0),
            int(x + w == w_in),
            cv2.BORDER_REPLICATE | cv2.BORDER_ISOLATED,
        )
        knots[begin : begin + w + 2, 1 : h + 3] = about.T
    if level:
        knots -= np.float32(level)
    np.fmax(knots, -_LARGEST, out=knots)
    np.fmin(knots, _LARGEST, out=knots)
    return knots, begins


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
