"""Output formats: overlaps, holes and tiny masks, which the demo's scenes do not have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from inference_server.batch import formats
from inference_server.batch.formats import (
    Picture,
    coco_document,
    coco_part,
    feature_collection,
    label_files,
    overlay_jpeg,
)
from inference_server.batch.inputs import Source
from inference_server.batch.search import PromptInfo, SearchResult
from inference_server.errors import RequestError
from inference_server.masks import Mask
from inference_server.segmentation.types import Instance, StoredImage
from tests.api.pictures import encoded, iou
from tests.api.rasters import PLACES, geotiff, masks_of_geojson

SIZE = (30, 40)


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    plane = np.zeros(SIZE, np.bool_)
    plane[y0:y1, x0:x1] = True
    return plane


RING = box(2, 2, 20, 20) & ~box(6, 6, 16, 16)
OVER = box(10, 10, 30, 25)
DOT = box(35, 3, 36, 4)
PLANES = (RING, OVER, DOT)


def picture(data: bytes | None = None) -> Picture:
    """An image with a ring, a box that overlaps it, and a single pixel."""
    found = [
        Instance(index, score, Mask.from_plane(plane))
        for index, score, plane in zip((0, 1, 1), (0.9, 0.6, 0.5), PLANES, strict=True)
    ]
    return Picture(
        Source(Path("/x/y.png"), "y.png"),
        StoredImage.of(encoded(np.zeros((*SIZE, 3), np.uint8)) if data is None else data),
        SearchResult(SIZE, found),
        [PromptInfo("text", "ring", "ring"), PromptInfo("visual", "object")],
    )


def test_geojson_keeps_overlaps_and_holes() -> None:
    collection = json.loads(feature_collection(picture()))
    assert "crs" not in collection
    for mask, plane in zip(masks_of_geojson(collection, SIZE), PLANES, strict=True):
        assert iou(mask, plane) == 1
    assert [each["properties"]["category"] for each in collection["features"]] == [
        "ring",
        "object",
        "object",
    ]


def test_geojson_names_a_crs_without_an_epsg_code() -> None:
    image = np.full((*SIZE, 1), 100, np.uint8)
    raster = geotiff(image, "ESRI:102003", PLACES["EPSG:32633"])
    collection = json.loads(feature_collection(picture(raster)))
    assert collection["crs"]["properties"]["name"] == "urn:ogc:def:crs:ESRI::102003"


def test_geojson_excludes_nodata() -> None:
    image = np.full((*SIZE, 1), 100, np.uint8)
    image[:, 18:] = 7
    raster = geotiff(image, "EPSG:32633", nodata=7)
    collection = json.loads(feature_collection(picture(raster)))
    place = PLACES["EPSG:32633"]
    ring, over = masks_of_geojson(collection, SIZE, place)  # the single pixel is nodata
    valid = box(0, 0, 18, SIZE[0])
    assert iou(ring, RING & valid) == 1
    assert iou(over, OVER & valid) == 1


def test_labels_put_the_better_object_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    files = label_files(picture())
    plane = cv2.imdecode(np.frombuffer(files[".png"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert plane is not None
    assert (plane[RING] == 1).all()
    assert (plane[OVER & ~RING] == 2).all()
    assert (plane[DOT] == 3).all()
    assert (plane[~np.any(PLANES, axis=0)] == 0).all()
    listed = json.loads(files[".json"])
    assert [each["area"] for each in listed["objects"]] == [each.sum() for each in PLANES]
    assert listed["objects"][1]["bbox"] == [10, 10, 20, 15]
    monkeypatch.setattr(formats, "_MOST_LABELS", 2)
    with pytest.raises(RequestError, match="The image has 3 objects, but a PNG can hold 2"):
        label_files(picture())


def test_a_mask_without_polygon_is_rle() -> None:
    part = json.loads(coco_part(picture(), ["ring", "object"], "polygon"))
    ring, over, dot = (each["segmentation"] for each in part["annotations"])
    assert ring == [[2.0, 2.0, 2.0, 19.0, 19.0, 19.0, 19.0, 2.0]]
    assert len(over) == 1
    assert (coco.decode(dot) == DOT).all()


def test_ids_of_a_document_are_unique() -> None:
    parts = [coco_part(picture(), ["ring", "object"], "rle")] * 2
    document = json.loads(b"".join(coco_document(lambda: parts, ["ring", "object"], ["sam3/x"])))
    assert [each["id"] for each in document["images"]] == [1, 2]
    assert [each["id"] for each in document["annotations"]] == [1, 2, 3, 4, 5, 6]
    assert [each["image_id"] for each in document["annotations"]] == [1, 1, 1, 2, 2, 2]
    assert [each["category_id"] for each in document["annotations"]] == [1, 2, 2] * 2
    assert document["info"]["description"] == "Found by sam3/x"
    empty = json.loads(b"".join(coco_document(lambda: [], ["ring"], ["sam3/x"])))
    assert (empty["images"], empty["annotations"]) == ([], [])


def test_an_image_too_large_for_jpeg() -> None:
    with pytest.raises(RequestError, match="too large for an overlay"):
        overlay_jpeg(
            np.zeros((1, 70_000, 3), np.uint8),
            Picture(picture().source, picture().image, SearchResult((1, 70_000), []), []),
        )
