"""Convert low-resolution logits to masks, and masks to polygons, run lengths and images.

Pure, thread-safe functions on arrays, independent of models, HTTP and vendors' field names. A
`Mask` holds the runs of its pixels. Most functions work on the runs, so their cost and memory
follow the mask's outline and not the image's area. Polygons, label planes and PNGs need the pixels
of the mask's box or rows, one mask at a time.

Coordinates are pixels of the original image, (x, y) for points and boxes, (height, width) for
sizes.
"""

from inference_server.masks.brush import encode_brush
from inference_server.masks.coco import coco_annotation, coco_pieces
from inference_server.masks.labels import (
    INSIDE,
    STRIP_ROWS,
    LabelPlane,
    Layer,
    Rank,
    id_type,
    label_plane,
    label_strips,
)
from inference_server.masks.mask import (
    Mask,
    clip,
    column_runs,
    corner_and_size,
    intersection,
    outside,
    pixels_of_runs,
    rows_of,
)
from inference_server.masks.nms import mask_nms
from inference_server.masks.placement import enlarged, meet, moved, union, within
from inference_server.masks.png import encode_pixels, encode_png, png_pieces
from inference_server.masks.polygons import mask_polygons, outline, simplified_parts
from inference_server.masks.rings import mask_rings
from inference_server.masks.rle import RLE, encode_rle
from inference_server.masks.simplify import simplify_rings
from inference_server.masks.upsample import upsample_mask, upsample_masks

__all__ = [
    "INSIDE",
    "RLE",
    "STRIP_ROWS",
    "LabelPlane",
    "Layer",
    "Mask",
    "Rank",
    "clip",
    "coco_annotation",
    "coco_pieces",
    "column_runs",
    "corner_and_size",
    "encode_brush",
    "encode_pixels",
    "encode_png",
    "encode_rle",
    "enlarged",
    "id_type",
    "intersection",
    "label_plane",
    "label_strips",
    "mask_nms",
    "mask_polygons",
    "mask_rings",
    "meet",
    "moved",
    "outline",
    "outside",
    "pixels_of_runs",
    "png_pieces",
    "rows_of",
    "simplified_parts",
    "simplify_rings",
    "union",
    "upsample_mask",
    "upsample_masks",
    "within",
]
