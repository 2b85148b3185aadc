"""X-AnyLabeling's requests: defaults, concepts, marks, limits."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.common import Limits, validation_detail, validation_message
from schemas.x_anylabeling import XAnyLabelingParams, XAnyLabelingRequest


def params(**fields: Any) -> XAnyLabelingParams:
    return XAnyLabelingParams.model_validate(fields)


def message(limits: Limits | None = None, **fields: Any) -> str:
    """Return the error message for invalid parameters."""
    with pytest.raises(ValidationError) as caught:
        XAnyLabelingParams.model_validate(fields, context=limits or Limits())
    return validation_message(validation_detail(caught.value))


def point(*data: float) -> dict[str, Any]:
    return {"type": "point", "data": list(data), "label": 1}


def rectangle(*data: float, label: int = 1) -> dict[str, Any]:
    return {"type": "rectangle", "data": list(data), "label": label}


def test_defaults() -> None:
    body = XAnyLabelingRequest.model_validate({"model": "m", "image": "aGk=", "params": None})
    assert body.params == XAnyLabelingParams()
    assert body.params.model_dump() == {
        "conf_threshold": 0.0,
        "iou_threshold": 0.0,
        "epsilon_factor": 0.001,
        "text_prompt": "",
        "marks": [],
    }


@pytest.mark.parametrize(
    ("text", "concepts"),
    [
        ("", []),
        ("red circle", ["red circle"]),
        (" red circle , dog,, dog", ["red circle", "dog"]),
        ("person.dog. cat", ["person", "dog", "cat"]),
        ("st. bernard, cat", ["st. bernard", "cat"]),
        (" , ", []),
    ],
)
def test_concepts_are_separated_by_commas_or_else_by_full_stops(
    text: str, concepts: list[str]
) -> None:
    assert params(text_prompt=text).concepts == concepts


@pytest.mark.parametrize("data", [(9, 8, 3, 2), (3, 8, 9, 2), (9, 2, 3, 8), (3, 2, 9, 8)])
def test_corners_may_come_in_any_order(data: tuple[int, ...]) -> None:
    (mark,) = params(marks=[rectangle(*data)]).of_type("rectangle")
    assert mark.corners == [3, 2, 9, 8]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"marks": [point(1)]}, "marks[0]: A point has 2 numbers in data, got 1"),
        ({"marks": [rectangle(1, 2)]}, "marks[0]: A rectangle has 4 numbers in data, got 2"),
        ({"marks": [rectangle(1, 2, 1, 5)]}, "marks[0]: The rectangle is empty"),
        ({"marks": [{"type": "auto_grid"}]}, "everything is not supported"),
        ({"marks": [rectangle(1, 2, 3, 5, label=2)]}, "marks[0].label"),
        ({"epsilon_factor": 2}, "epsilon_factor"),
        ({"conf_threshold": -1}, "conf_threshold"),
    ],
)
def test_invalid(fields: dict[str, Any], words: str) -> None:
    assert words in message(**fields)


@pytest.mark.parametrize(
    ("limits", "fields", "words"),
    [
        (Limits(max_prompts=1), {"text_prompt": "a,b"}, "At most 1 concepts are accepted, got 2"),
        (Limits(max_text_length=3), {"text_prompt": "a,bcde"}, "INFERENCE_MAX_TEXT_LENGTH"),
        (Limits(max_prompts=2, max_text_length=3), {"text_prompt": "." * 11}, "at most 10 char"),
        (Limits(max_points=1), {"marks": [point(1, 2)] * 2}, "INFERENCE_MAX_POINTS"),
        (Limits(max_boxes=1), {"marks": [rectangle(1, 2, 3, 4)] * 2}, "INFERENCE_MAX_BOXES"),
        (Limits(max_shapes=1), {"marks": [point(1, 2)] * 2}, "INFERENCE_MAX_SHAPES"),
    ],
)
def test_limits(limits: Limits, fields: dict[str, Any], words: str) -> None:
    assert words in message(limits, **fields)
    XAnyLabelingParams.model_validate(fields)
