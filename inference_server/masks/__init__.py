"""Masks: from low-resolution logits to polygons and run lengths.

Pure functions on arrays, which know nothing of models, HTTP or any contract's field names, and hold
no state: they may run in several threads. A `Mask` is the runs of its pixels, and everything here
but polygons, label planes and PNGs works on the runs: cost and memory follow the mask's outline,
never the image's area times the number of masks. These need the pixels of the mask's box, or of the
rows that it reaches, for one mask at a time.
Coordinates are pixels of the original image, (x, y) for points and boxes, (height, width) for
sizes.
"""

from inference_server.masks.labels import LabelPlane, extents, label_plane
from inference_server.masks.mask import Mask, clip, intersection, outside
from inference_server.masks.nms import mask_nms
from inference_server.masks.png import encode_pixels, encode_png
from inference_server.masks.polygons import mask_polygons, outline
from inference_server.masks.rle import RLE, encode_rle
from inference_server.masks.upsample import upsample_mask, upsample_masks

__all__ = [
    "RLE",
    "LabelPlane",
    "Mask",
    "clip",
    "encode_pixels",
    "encode_png",
    "encode_rle",
    "extents",
    "intersection",
    "label_plane",
    "mask_nms",
    "mask_polygons",
    "outline",
    "outside",
    "upsample_mask",
    "upsample_masks",
]
