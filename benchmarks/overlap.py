"""IoU of masks, for comparisons with a reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco

from inference_server.masks import RLE, Mask, intersection


def iou(a: Mask, b: Mask) -> float:
    """Return the intersection over union of two masks, 0 to 1; 0 if both are empty.

    Args:
        a: one mask.
        b: the other mask, of the same size.
    """
    shared = intersection(a, b)
    return shared / (a.area + b.area - shared) if shared else 0.0


def decode_rle(rle: RLE) -> Mask:
    """Decode compressed COCO RLE.

    Args:
        rle: size and counts.
    """
    decode: Any = coco.decode
    return Mask.from_plane(np.asarray(decode(rle), np.bool_))
