"""Masks to COCO's compressed run lengths, and back.

The format is that of `rleEncode` and `rleToString` in pycocotools' maskApi.c: the lengths of the
runs of 0 and 1, in turns and beginning with 0, through the plane in column-major order; the third
and later ones as differences to the one two before; each as groups of five bits, the lowest first,
with a sixth bit where more follow, as the characters from "0" on.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from inference_server.masks.mask import Mask

CHUNK_BYTES = 1 << 20
"""Bytes of the temporary that is searched for the runs' ends, whatever the mask's area."""

_MORE, _SIGN, _BITS = 32, 16, 5
_LONGEST = 7  # groups of a value: 35 bits hold every 32-bit length and difference


class RLE(TypedDict):
    """A mask in COCO's compressed run lengths.

    Attributes:
        size: [height, width] of the image, in pixels.
        counts: the compressed run lengths, ASCII.
    """

    size: list[int]
    counts: str


def encode_rle(mask: Mask) -> RLE:
    """What `pycocotools.mask.encode` gives for the whole plane, without the plane."""
    height, width = mask.size
    ends = _run_ends(mask)
    counts = np.diff(ends, prepend=0, append=height * width)
    if counts.size > 1 and counts[-1] == 0:  # the mask holds the plane's last pixel
        counts = counts[:-1]
    # Measured, 900 to 3,000 runs: pycocotools' own compressor takes half of the time of the same
    # arithmetic in numpy.
    rle = coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def decode_rle(rle: RLE) -> Mask:
    """The mask, with a tight crop; no plane is made here either.

    Raises:
        ValueError: if the counts are not COCO's compressed form, or do not fill the image.
    """
    height, width = rle["size"]
    if height < 1 or width < 1:
        raise ValueError(f"an image has at least one pixel, not {height} x {width}")
    counts = _decompress(rle["counts"])
    if counts.min() < 0 or counts.sum() != height * width:
        raise ValueError(f"the counts do not fill an image of {height} x {width}")
    ends = np.cumsum(counts)
    starts, stops = ends[:-1:2], ends[1::2]  # runs of 1
    starts, stops = starts[starts < stops], stops[starts < stops]
    if starts.size == 0:
        return Mask.empty((height, width))

    x_first, y_first = np.divmod(starts, height)
    x_last, y_last = np.divmod(stops - 1, height)
    x0, x1 = int(x_first[0]), int(x_last[-1]) + 1
    if (x_first == x_last).all():
        y0, y1 = int(y_first.min()), int(y_last.max()) + 1
    else:  # a run goes on from the foot of a column to the head of the next
        y0, y1 = 0, height
    h, w = y1 - y0, x1 - x0
    # The same runs, counted through the crop instead of the plane.
    starts_in_crop = (x_first - x0) * h + y_first - y0
    ends_in_crop = np.stack([starts_in_crop, starts_in_crop + (stops - starts)], axis=1).ravel()
    lengths = np.diff(ends_in_crop, prepend=0, append=w * h)
    values = np.arange(lengths.size) % 2 == 1
    crop = np.repeat(values, lengths).reshape(w, h).T
    return Mask(x0, y0, np.ascontiguousarray(crop), (height, width))


def _run_ends(mask: Mask) -> NDArray[np.int64]:
    """Where the plane changes between 0 and 1, [n] ascending, as column-major pixel indices."""
    crop = mask.crop
    height = mask.size[0]
    h, w = crop.shape
    if crop.size == 0:
        return np.zeros(0, np.int64)
    # Searched in the order of memory, then sorted: transposing the crop costs more (measured for
    # 300 x 555 with 1,200 changes: 0.15 against 0.17 ms; for 1856 x 3451: 6 against 18 ms).
    head, foot = np.flatnonzero(crop[0]), np.flatnonzero(crop[-1])
    columns, rows = [head, foot], [np.zeros_like(head), np.full_like(foot, h)]
    step = max(1, CHUNK_BYTES // w)
    for start in range(1, h, step):
        changes = crop[start : start + step] != crop[start - 1 : min(start + step, h) - 1]
        row, column = np.divmod(np.flatnonzero(changes), w)
        columns.append(column)
        rows.append(row + start)
    ends = (np.concatenate(columns) + mask.x0) * height + np.concatenate(rows) + mask.y0
    ends.sort()
    if h == height:
        # A run that reaches a column's foot goes on where one begins at the next column's head.
        apart = np.diff(ends, prepend=-1, append=-1) != 0
        ends = ends[apart[1:] & apart[:-1]]
    return ends


def _decompress(text: str) -> NDArray[np.int64]:
    """Run lengths, int64 [n], from their compressed form."""
    groups = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - ord("0")
    if groups.size == 0 or groups.min() < 0 or groups.max() >= 2 * _MORE or groups[-1] & _MORE:
        raise ValueError("the counts are not compressed run lengths")
    last = np.flatnonzero(groups & _MORE == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    if length.max() > _LONGEST:
        raise ValueError("the counts hold a run length that is out of range")
    place = np.arange(groups.size) - np.repeat(first, length)
    values = np.add.reduceat((groups & (_MORE - 1)) << (_BITS * place), first)
    values -= np.where(groups[last] & _SIGN, np.int64(1) << (_BITS * length), 0)
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return values
