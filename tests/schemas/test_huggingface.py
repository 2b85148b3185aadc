"""The SAM3 Space API: defaults, accepted forms and error messages."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from schemas.common import Limits, validation_detail, validation_message
from schemas.huggingface import (
    SpaceError,
    SpaceInputs,
    SpacePredictRequest,
    SpaceRequest,
    SpaceResponse,
)


def message(model: type[BaseModel], body: dict[str, Any], limits: Limits | None = None) -> str:
    """The error message for an invalid body."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body, context=limits or Limits())
    return validation_message(validation_detail(caught.value))


def test_defaults() -> None:
    inputs = SpaceRequest.model_validate({"inputs": {"image": "aGk="}}).inputs
    assert inputs.model_dump() == {
        "image": "aGk=",
        "text_prompts": [],
        "points": [],
        "point_labels": [],
        "boxes": [],
        "box_labels": [],
        "multimask_output": False,
        "confidence_threshold": 0.5,
        "vectorize": False,
        "simplify_epsilon": 2.0,
    }


def test_null_and_unknown_fields() -> None:
    fields = dict.fromkeys(SpaceInputs.model_fields) | {"image": "aGk=", "seed": 7}
    body = {"api_key": None, "inputs": fields, "parameters": {}}
    assert SpaceRequest.model_validate(body).inputs == SpaceInputs(image="aGk=")


@pytest.mark.parametrize("model", [SpaceRequest, SpacePredictRequest, SpaceResponse, SpaceError])
def test_examples_are_valid(model: type[BaseModel]) -> None:
    extra = model.model_config["json_schema_extra"]
    assert isinstance(extra, dict)
    examples = extra["examples"]
    assert isinstance(examples, list)
    for example in examples:
        model.model_validate(example)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image": None}, "inputs.image: Field required"),
        ({"image": ""}, "inputs.image: String should have at least 1 character"),
        ({"image": 7}, "inputs.image: Input should be a valid string"),
        ({"text_prompts": "cat"}, "inputs.text_prompts: Input should be a valid list"),
        (
            {"text_prompts": ["cat", ""]},
            "inputs.text_prompts[1]: String should have at least 1 character",
        ),
        (
            {"boxes": [[1, 2, 3, 4], [1, 2, 3]]},
            "inputs.boxes[1]: List should have at least 4 items after validation, not 3",
        ),
        (
            {"boxes": [[1, 2, 1, 4]]},
            "inputs.boxes[0]: The box is empty; send [x1, y1, x2, y2] with x2 > x1 and y2 > y1",
        ),
        (
            {"boxes": [[1, 2, True, 4]]},
            "inputs.boxes[0][2]: Input should be a valid number, not a boolean",
        ),
        (
            {"points": [[[1, 2]]]},
            "inputs.points[0][0]: Input should be a valid number",
        ),
        ({"points": [[1, 1e10]]}, "inputs.points[0][1]: Input should be less than or equal to"),
        ({"box_labels": [2]}, "inputs.box_labels[0]: Input should be 0 or 1"),
        ({"point_labels": ["1"]}, "inputs.point_labels[0]: Input should be 0 or 1"),
        (
            {"confidence_threshold": 1.5},
            "inputs.confidence_threshold: Input should be less than or equal to 1",
        ),
        (
            {"simplify_epsilon": 1001},
            "inputs.simplify_epsilon: Input should be less than or equal to 1000",
        ),
        (
            {"simplify_epsilon": -1},
            "inputs.simplify_epsilon: Input should be greater than or equal to 0",
        ),
    ],
)
def test_invalid_inputs(fields: dict[str, Any], expected: str) -> None:
    assert message(SpaceRequest, {"inputs": {"image": "aGk=", **fields}}).startswith(expected)


@pytest.mark.parametrize(
    ("fields", "setting"),
    [
        ({"text_prompts": ["a"] * 3}, "MAX_PROMPTS"),
        ({"text_prompts": ["abc"]}, "MAX_TEXT_LENGTH"),
        ({"boxes": [[0, 0, 1, 1]] * 3}, "MAX_VISUAL_PROMPTS"),
        ({"box_labels": [1] * 3}, "MAX_VISUAL_PROMPTS"),
        ({"points": [[0, 0]] * 3}, "MAX_POINTS"),
        ({"point_labels": [1] * 3}, "MAX_POINTS"),
    ],
)
def test_limits(fields: dict[str, Any], setting: str) -> None:
    limits = Limits(max_prompts=2, max_visual_prompts=2, max_points=2, max_text_length=2)
    expected = message(SpaceRequest, {"inputs": {"image": "aGk=", **fields}}, limits)
    assert f"raise INFERENCE_{setting} on the server" in expected


def test_the_image_is_not_in_the_repr() -> None:
    assert "aGk=" not in repr(SpaceRequest.model_validate({"inputs": {"image": "aGk="}}))
    assert "aGk=" not in repr(SpacePredictRequest.model_validate({"data": ["aGk=", "cat"]}))


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (["aGk=", "cat", 0.3], ("aGk=", "cat", 0.3)),
        (["aGk=", "cat", 1], ("aGk=", "cat", 1.0)),
        (["aGk=", "cat"], ("aGk=", "cat", 0.5)),
        (["aGk=", "cat", None], ("aGk=", "cat", 0.5)),
    ],
)
def test_gradio_data(data: list[Any], read: tuple[Any, ...]) -> None:
    assert SpacePredictRequest.model_validate({"data": data}).data == read


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, "data: Field required"),
        ({}, "data: Input should be a list: the image, the text"),
        (["aGk="], "data: Input should be a list: the image, the text"),
        (["aGk=", "cat", 0.5, 1], "data: Input should be a list: the image, the text"),
        (["aGk=", 0.5], "data[1]: Input should be a valid string"),
        (["aGk=", ""], "data[1]: String should have at least 1 character"),
        (["aGk=", "a" * 257], "data[1]: At most 256 characters of text are accepted, got 257"),
        (["aGk=", "cat", "?"], "data[2]: Input should be a valid number"),
        (
            [None, "cat", 2],
            "data[0]: Input should be a valid string; data[2]: Input should be less",
        ),
    ],
)
def test_invalid_gradio_data(data: Any, expected: str) -> None:
    assert message(SpacePredictRequest, {"data": data}).startswith(expected)
