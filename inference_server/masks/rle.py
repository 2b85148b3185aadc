"""Encode masks as COCO's compressed run lengths.

The format is that of `rleEncode` and `rleToString` in pycocotools' maskApi.c: alternating lengths
of runs of 0 and 1 in column-major order, starting with 0.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from pycocotools import mask as coco

from inference_server.masks.mask import Mask


class RLE(TypedDict):
    """A mask as COCO's compressed run lengths.

    Attributes:
        size: [height, width] of the image in pixels.
        counts: The compressed run lengths, ASCII.
    """

    size: list[int]
    counts: str


def encode_rle(mask: Mask) -> RLE:
    """Encode a mask, like `pycocotools.mask.encode` of its plane but without creating the plane.

    Args:
        mask: The mask; it may be empty.
    """
    height, width = mask.size
    counts = np.diff(mask.runs.reshape(-1), prepend=0, append=height * width)
    if counts.size > 1 and counts[-1] == 0:  # the mask contains the plane's last pixel
        counts = counts[:-1]
    # For 850 counts this takes 0.009 ms from an array, and 0.05 ms from a list, which is
    # documented. The same in NumPy was slower.
    rle = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}
