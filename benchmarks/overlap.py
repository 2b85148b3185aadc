"""How much masks overlap, for benchmarks that compare ours with a reference's."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco

from inference_server.masks import RLE, Mask, intersection


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks' pixels, 0 to 1; 0 if both are empty."""
    shared = intersection(a, b)
    return shared / (a.area + b.area - shared) if shared else 0.0


def decode_rle(rle: RLE) -> Mask:
    """The mask of compressed COCO run lengths."""
    decode: Any = coco.decode
    return Mask.from_plane(np.asarray(decode(rle), np.bool_))
