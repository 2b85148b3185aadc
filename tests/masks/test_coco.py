"""COCO documents in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
from pycocotools import mask as coco

from inference_server.masks import Mask, coco_annotation, coco_pieces

PLANE = np.zeros((6, 8), np.bool_)
PLANE[1:4, 2:7] = True


def test_an_annotation() -> None:
    mask = Mask.from_plane(PLANE)
    found = coco_annotation(mask, 0.5, 3, "rle")
    np.testing.assert_array_equal(coco.decode(found.pop("segmentation")), PLANE)
    assert found == {
        "category_id": 3,
        "area": 15,
        "bbox": [2, 1, 5, 3],
        "iscrowd": 0,
        "score": 0.5,
    }
    (polygon,) = coco_annotation(mask, 0.5, 3, "polygon")["segmentation"]
    assert len(polygon) == 8
    # One pixel has no polygon of three points.
    pixel = Mask(np.array([[9, 10]]), (6, 8))
    assert set(coco_annotation(pixel, 0.5, 3, "polygon")["segmentation"]) == {"size", "counts"}


def test_a_document_is_written_as_its_annotations_arrive() -> None:
    written: list[bytes] = []

    def annotations() -> Iterator[dict[str, Any]]:
        for count in range(3):
            assert b"".join(written).count(b"image_id") == count  # those before are written
            yield {"image_id": 1, **coco_annotation(Mask.from_plane(PLANE), 0.5, 1, "polygon")}

    pieces = coco_pieces({"version": "1"}, ["car"], [{"id": 1, "width": 8}], annotations())
    while (piece := next(pieces, None)) is not None:
        written.append(piece)
    document = orjson.loads(b"".join(written))
    assert document["categories"] == [{"id": 1, "name": "car", "supercategory": ""}]
    assert document["images"] == [{"id": 1, "width": 8}]
    assert [each["id"] for each in document["annotations"]] == [1, 2, 3]
    assert orjson.loads(b"".join(coco_pieces({}, [], [], []))) == {
        "info": {},
        "licenses": [],
        "categories": [],
        "images": [],
        "annotations": [],
    }
