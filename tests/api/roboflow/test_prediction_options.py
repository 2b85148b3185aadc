"""`simplify_epsilon` and `include_boxes`: in both requests, every format, and jobs."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest

from schemas.roboflow import Sam2SegmentationResponse, Sam3SegmentationResponse
from tests.api.pictures import Picture, click, iou, plane
from tests.api.serving import CONCEPT, SAM2_EMBED, VISUAL, Running

SEGMENT = "/sam2/segment_image"
PATHS = [CONCEPT, VISUAL, SEGMENT]


def asked(path: str, picture: Picture, **fields: Any) -> dict[str, Any]:
    prompts = [{"text": "red circle"}, {"text": "blue square"}]
    clicks = [click(item) for item in picture.scene.objects]
    image = {"image": picture.sent}
    return {**image, "prompts": prompts if path == CONCEPT else clicks, **fields}


def predictions(server: Running, path: str, picture: Picture, **fields: Any) -> list[Any]:
    answer = server.answer(path, **asked(path, picture, **fields))
    model = Sam3SegmentationResponse if path == CONCEPT else Sam2SegmentationResponse
    model.model_validate(answer, strict=True)
    return [each for result in answer["prompt_results"] for each in result["predictions"]]


def vertices(found: list[Any]) -> int:
    return sum(len(polygon) for each in found for polygon in each["masks"])


@pytest.mark.parametrize("path", PATHS)
def test_polygons_are_simplified(server: Running, picture: Picture, path: str) -> None:
    exact = predictions(server, path, picture)
    few = predictions(server, path, picture, simplify_epsilon=2)
    fewer = predictions(server, path, picture, simplify_epsilon=6.5)
    assert vertices(exact) > 5 * vertices(few) > 5 * vertices(fewer)
    for one, other in zip(exact, few, strict=True):
        assert one["confidence"] == other["confidence"]
        assert len(one["masks"]) == len(other["masks"])
        drawn = plane(one, picture.size)
        assert iou(plane(other, picture.size), drawn) > 0.9
        for polygon, simple in zip(one["masks"], other["masks"], strict=True):
            assert len(simple) >= min(3, len(polygon))
            for vertex in polygon:
                contour = np.array(simple, np.float32)
                assert abs(cv2.pointPolygonTest(contour, tuple(map(float, vertex)), True)) <= 2.001


@pytest.mark.parametrize("path", PATHS)
def test_zero_is_exact(server: Running, picture: Picture, path: str) -> None:
    exact = predictions(server, path, picture)
    assert predictions(server, path, picture, simplify_epsilon=0) == exact
    assert all(set(each) == {"format", "confidence", "masks"} for each in exact)


@pytest.mark.parametrize("path", PATHS)
def test_boxes_and_areas_are_those_of_the_mask(
    server: Running, picture: Picture, path: str
) -> None:
    """In pixels: left, top, width, height."""
    found = predictions(server, path, picture, format="rle", include_boxes=True)
    assert len(found) >= 3
    for each in found:
        mask = plane(each, picture.size)
        ys, xs = np.nonzero(mask)
        box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
        assert each["bbox"] == box
        assert each["area"] == mask.sum()
    simple = predictions(server, path, picture, include_boxes=True, simplify_epsilon=5)
    for each, other in zip(found, simple, strict=True):
        assert (other["bbox"], other["area"]) == (each["bbox"], each["area"])


def test_an_empty_mask_has_an_empty_box(server: Running, picture: Picture) -> None:
    from inference_server.api.roboflow.results import visual_results
    from inference_server.masks import Mask
    from inference_server.segmentation.types import Instance
    from schemas.roboflow import PredictionOptions

    nothing = Instance(0, 0.1, Mask.empty(picture.size))
    (found,) = visual_results([nothing], PredictionOptions(include_boxes=True))["predictions"]
    assert found["bbox"] == [0, 0, 0, 0]
    assert found["area"] == 0
    assert found["masks"] == []


@pytest.mark.parametrize("path", [VISUAL, SEGMENT])
def test_a_binary_file_has_boxes_and_areas(server: Running, picture: Picture, path: str) -> None:
    body = asked(path, picture, format="binary")
    with np.load(io.BytesIO(server.post(path, body).content)) as file:
        assert set(file) == {"masks", "low_res_masks"}
    response = server.post(path, {**body, "include_boxes": True})
    with np.load(io.BytesIO(response.content)) as file:
        assert set(file) == {"masks", "low_res_masks", "boxes", "areas"}
        masks, boxes, areas = file["masks"], file["boxes"], file["areas"]
    assert boxes.dtype == areas.dtype == np.int64
    assert areas.tolist() == masks.sum((1, 2)).tolist()
    for mask, (left, top, width, height) in zip(masks, boxes.tolist(), strict=True):
        assert mask[top : top + height, left : left + width].sum() == mask.sum()
        assert mask[top].any()
        assert mask[:, left + width - 1].any()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (-0.5, "greater than or equal to 0"),
        (1e10, "less than or equal to 1000000000"),
        (True, "not a boolean"),
        ("much", "valid number"),
    ],
)
def test_invalid_tolerances(
    server: Running, picture: Picture, path: str, value: object, problem: str
) -> None:
    response = server.post(path, asked(path, picture, simplify_epsilon=value))
    assert response.status_code == 422, response.text
    (item,) = response.json()["detail"]
    assert item["loc"] == ["body", "simplify_epsilon"]
    assert problem in item["msg"]


@pytest.mark.parametrize(
    ("path", "form"),
    [(CONCEPT, "rle"), (VISUAL, "rle"), (VISUAL, "binary"), (SEGMENT, "binary")],
)
def test_exact_formats_are_not_simplified(
    server: Running, picture: Picture, path: str, form: str
) -> None:
    response = server.post(path, asked(path, picture, format=form, simplify_epsilon=1))
    assert response.status_code == 422, response.text
    assert f"the format is {form}" in response.json()["detail"][0]["msg"]
    allowed = server.post(path, asked(path, picture, format=form, simplify_epsilon=0))
    assert allowed.status_code == 200, allowed.text


def test_embedding_ignores_both(server: Running, picture: Picture) -> None:
    body = {"image": picture.sent, "simplify_epsilon": -1, "include_boxes": "?"}
    assert server.post(SAM2_EMBED, body).status_code == 200
