"""Annotations and documents in COCO's format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from inference_server.masks.mask import Mask, corner_and_size
from inference_server.masks.polygons import mask_polygons
from inference_server.masks.rle import encode_rle


def coco_annotation(
    mask: Mask, score: float, category_id: int, form: str, epsilon: float = 0.0
) -> dict[str, Any]:
    """Build the annotation of an object, without its id and that of its image.

    Args:
        mask: The object's mask.
        score: Its confidence, 0 to 1.
        category_id: Id of its category.
        form: `rle` or `polygon`. A mask without a polygon of at least three points, which COCO
            requires, is written as RLE in either case.
        epsilon: Maximum distance in pixels of a simplified polygon. Default: 0, not simplified.
    """
    return {
        "category_id": category_id,
        "segmentation": _segmentation(mask, form, epsilon),
        "area": mask.area,
        "bbox": corner_and_size(mask),
        "iscrowd": 0,
        "score": score,
    }


def coco_pieces(
    info: Mapping[str, Any],
    categories: Sequence[str],
    images: Iterable[Mapping[str, Any]],
    annotations: Iterable[Mapping[str, Any]],
) -> Iterator[bytes]:
    """Write a COCO document in pieces, so that it need not fit into memory.

    Args:
        info: Description of the document.
        categories: Names of the categories; ids count them from 1.
        images: The images, with their ids.
        annotations: The annotations, with the ids of their images; their own ids count from 1.

    Yields:
        Pieces of the JSON document, an image or annotation each.
    """
    named = [
        {"id": number, "name": name, "supercategory": ""}
        for number, name in enumerate(categories, 1)
    ]
    yield b'{"info":' + orjson.dumps(info) + b',"licenses":[],'
    yield b'"categories":' + orjson.dumps(named) + b',\n"images":['
    yield from _listed(images)
    yield b'],\n"annotations":['
    yield from _listed({"id": number, **each} for number, each in enumerate(annotations, 1))
    yield b"]}\n"


def _listed(entries: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    between = b"\n"
    for entry in entries:
        yield between + orjson.dumps(entry, option=orjson.OPT_SERIALIZE_NUMPY)
        between = b",\n"


def _segmentation(mask: Mask, form: str, epsilon: float) -> object:
    if form == "polygon":
        parts = [part.reshape(-1) for part in mask_polygons(mask, epsilon) if len(part) >= 3]
        if parts:
            return parts
    return encode_rle(mask)
