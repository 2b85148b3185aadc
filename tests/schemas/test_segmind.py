"""Segmind API: defaults, forms of points and boxes, validation."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from schemas.common import Limits
from schemas.segmind import Sam3ImageRequest, SamV2ImageRequest
from tests.schemas.checks import mistakes

IMAGE = {"image": "https://example.com/a.jpg"}


def sam3(**fields: Any) -> Sam3ImageRequest:
    return Sam3ImageRequest.model_validate({**IMAGE, **fields})


def test_defaults() -> None:
    assert sam3().model_dump(exclude={"image", "api_key"}) == {
        "text_prompt": None,
        "boxes_input": [],
        "points_input": [],
        "point_labels_input": [1],
        "return_preview": True,
        "return_overlay": False,
        "return_masks": False,
        "threshold": 0.5,
        "points_per_side": 32,
        "pred_iou_thresh": 0.88,
        "max_masks": 0,
    }
    request = SamV2ImageRequest.model_validate({**IMAGE, "prompt": "boy"})
    assert request.model_dump(exclude={"image", "api_key"}) == {
        "prompt": "boy",
        "coordinates": [],
        "remove_coordinates": [],
        "overlay_mask": True,
        "base64": False,
    }


def test_the_documented_call() -> None:
    request = sam3(
        text_prompt="plants",
        point_labels_input="[[1]]",
        return_preview=True,
        return_overlay=False,
        return_masks=False,
        threshold=0.5,
        points_per_side=32,
        pred_iou_thresh=0.88,
        max_masks=0,
    )
    assert request.text_prompt == "plants"
    assert not request.is_automatic


@pytest.mark.parametrize(
    ("sent", "points"),
    [
        ("[[300, 400]]", [[300, 400]]),
        ("[[150, 200], [300, 400]]", [[150, 200], [300, 400]]),
        (" [300.5,400] ", [[300.5, 400]]),
        ([[150, 200], [300, 400]], [[150, 200], [300, 400]]),
        ([300, 400], [[300, 400]]),
        ("", []),
        ("null", []),
        (None, []),
        ("[]", []),
    ],
)
def test_forms_of_points(sent: Any, points: list[list[float]]) -> None:
    assert sam3(points_input=sent).points_input == points
    request = SamV2ImageRequest.model_validate({**IMAGE, "prompt": "boy", "coordinates": sent})
    assert request.coordinates == points


@pytest.mark.parametrize(
    ("sent", "labels"),
    [
        ("[[1, 0]]", [1, 0]),
        ("[1, 0]", [1, 0]),
        ("[[1], [0]]", [1, 0]),
        ([1, 0], [1, 0]),
        ([[1, 0]], [1, 0]),
        ("[[1]]", [1, 1]),
        ("[1]", [1, 1]),
        ("", [1, 1]),
        ("[]", [1, 1]),
        (None, [1, 1]),
    ],
)
def test_forms_of_labels(sent: Any, labels: list[int]) -> None:
    request = sam3(points_input="[[1, 2], [3, 4]]", point_labels_input=sent)
    assert request.labels == labels


def test_forms_of_boxes() -> None:
    for sent in ("[[100, 150, 200, 250]]", "[100, 150, 200, 250]", [[100, 150, 200, 250]]):
        assert sam3(boxes_input=sent).boxes_input == [[100, 150, 200, 250]]


def test_blank_text_is_absent() -> None:
    assert sam3(text_prompt=" ").is_automatic
    assert not sam3(text_prompt=" ", points_input=[1, 2]).is_automatic


@pytest.mark.parametrize(
    ("image", "is_url"),
    [
        ("https://example.com/a.jpg", True),
        ("HTTP://example.com/a.jpg", True),
        ("ftp://example.com/a.jpg", True),
        ("data:image/png;base64,iVBORw0KGgo=", False),
        ("iVBORw0KGgo=", False),
        ("////", False),
    ],
)
def test_urls_and_base64(image: str, is_url: bool) -> None:
    assert Sam3ImageRequest(image=image).image_is_url == is_url


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"image": None}, ("image", "missing")),
        ({"image": ""}, ("image", "string_too_short")),
        ({"threshold": 0.09}, ("threshold", "greater_than_equal")),
        ({"threshold": 1.1}, ("threshold", "less_than_equal")),
        ({"pred_iou_thresh": 0.4}, ("pred_iou_thresh", "greater_than_equal")),
        ({"points_per_side": 129}, ("points_per_side", "less_than_equal")),
        ({"points_per_side": -1}, ("points_per_side", "greater_than_equal")),
        ({"points_per_side": 0}, ("", "no_prompt")),
        ({"max_masks": 101}, ("max_masks", "less_than_equal")),
        ({"return_preview": False}, ("", "no_output")),
        ({"points_input": "[[1, 2]"}, ("points_input", "json_list")),
        ({"points_input": "[[1, NaN]]"}, ("points_input", "json_list")),
        ({"points_input": "[" * 100_000}, ("points_input", "json_list")),
        ({"points_input": '{"x": 1}'}, ("points_input", "json_list")),
        ({"points_input": 7}, ("points_input", "json_list")),
        ({"points_input": "[[1]]"}, ("points_input.0", "row")),
        ({"points_input": [[1, "?"]]}, ("points_input.0.1", "float_parsing")),
        ({"points_input": [[1, 1e30]]}, ("points_input.0.1", "less_than_equal")),
        ({"points_input": [[1, 2]], "point_labels_input": [0]}, ("", "point_labels")),
        ({"points_input": [[1, 2]], "point_labels_input": [1, 0]}, ("", "point_labels")),
        ({"point_labels_input": [1, 1]}, ("", "point_labels")),
        ({"point_labels_input": "[[2]]"}, ("point_labels_input.0", "literal_error")),
        ({"boxes_input": "[[1, 2, 3]]"}, ("boxes_input.0", "row")),
        ({"boxes_input": "[[3, 2, 1, 4]]"}, ("boxes_input", "box_size")),
    ],
)
def test_invalid_requests(fields: dict[str, Any], found: tuple[str, str]) -> None:
    assert mistakes(Sam3ImageRequest, {**IMAGE, **fields}) == [found]


@pytest.mark.parametrize("fields", [{}, {"prompt": " "}, {"remove_coordinates": [1, 2]}])
def test_text_or_coordinates_are_required(fields: dict[str, Any]) -> None:
    assert mistakes(SamV2ImageRequest, {**IMAGE, **fields}) == [("", "no_prompt")]


@pytest.mark.parametrize(
    ("model", "field", "value", "kind"),
    [
        (Sam3ImageRequest, "points_input", [[1, 2]] * 3, "too_long"),
        (Sam3ImageRequest, "points_input", "[[1, 2], [1, 2], [1, 2]]", "too_long"),
        (Sam3ImageRequest, "boxes_input", [[1, 2, 3, 4]] * 3, "too_long"),
        (Sam3ImageRequest, "point_labels_input", [[1, 1, 1]], "too_long"),
        (Sam3ImageRequest, "text_prompt", "abc", "string_too_long"),
        (SamV2ImageRequest, "prompt", "abc", "string_too_long"),
        (SamV2ImageRequest, "coordinates", "[[1, 2], [1, 2], [1, 2]]", "too_long"),
    ],
)
def test_limits(model: type[BaseModel], field: str, value: Any, kind: str) -> None:
    limits = Limits(max_points=2, max_boxes=2, max_text_length=2)
    assert mistakes(model, {**IMAGE, field: value}, limits) == [(field, kind)]
