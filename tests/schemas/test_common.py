"""Properties that all request and response models share, and error formatting."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import schemas.common
import schemas.geometry
import schemas.roboflow.concept
import schemas.roboflow.image
import schemas.roboflow.prediction
import schemas.roboflow.visual
import schemas.system
from inference_server.settings import Settings
from schemas.common import (
    Limits,
    ValidationErrorResponse,
    validation_detail,
    validation_message,
)
from schemas.roboflow import Sam2SegmentationRequest, Sam3SegmentationRequest

MODULES: list[ModuleType] = [
    schemas.common,
    schemas.geometry,
    schemas.roboflow.concept,
    schemas.roboflow.image,
    schemas.roboflow.prediction,
    schemas.roboflow.visual,
    schemas.system,
]


WIRE_TYPES: list[type[BaseModel]] = [
    value
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, type)
    and issubclass(value, BaseModel)
    and value.__module__ == module.__name__
    and "[" not in value.__name__  # RootModel[...], which RootModel's subclasses derive from.
]


@pytest.mark.parametrize("model", WIRE_TYPES, ids=lambda model: model.__name__)
class TestEveryType:
    def test_is_described(self, model: type[BaseModel]) -> None:
        schema = model.model_json_schema()
        assert schema["description"]
        for name, field in schema.get("properties", {}).items():
            # Pydantic drops a description that equals that of the field's type.
            assert field.get("description"), name

    def test_examples_are_valid(self, model: type[BaseModel]) -> None:
        for example in model.model_json_schema().get("examples", []):
            read = model.model_validate(example)
            assert model.model_validate_json(json.dumps(example)) == read

    def test_optional_fields_are_not_nullable(self, model: type[BaseModel]) -> None:
        for name, field in model.model_json_schema().get("properties", {}).items():
            assert field.get("default", "") is not None
            # The only field whose documented forms include null.
            if (model, name) != (Sam2SegmentationRequest, "prompts"):
                assert {"type": "null"} not in field.get("anyOf", [])


@pytest.mark.parametrize("model", [Sam3SegmentationRequest, Sam2SegmentationRequest])
def test_requests_have_examples(model: type[BaseModel]) -> None:
    assert len(model.model_json_schema()["examples"]) >= 2


def test_default_limits_equal_the_settings() -> None:
    for name in Limits.__slots__:
        assert getattr(Limits(), name) == Settings.model_fields[name].default, name


class TestValidationDetail:
    def errors(self, data: Any, **options: Any) -> list[dict[str, Any]]:
        with pytest.raises(ValidationError) as caught:
            Sam3SegmentationRequest.model_validate(data)
        return validation_detail(caught.value, **options)

    def test_never_contains_the_input(self) -> None:
        secret = "s3cret" * 50
        bad = {
            "api_key": [secret],
            "image": {"type": secret, "value": [secret]},
            "image_id": secret,
            "model_id": secret,
            "format": secret,
            "nms_iou_threshold": secret,
            "prompts": [{"type": secret, "text": [secret], "boxes": [{secret: 1}, secret]}, secret],
        }
        detail = self.errors(bad)
        assert len(detail) >= 9
        assert "s3cret" not in json.dumps(detail)

    def test_has_the_documented_form(self) -> None:
        detail = self.errors({"image_id": "a", "prompts": [{"boxes": [{"x0": 1}]}]})
        assert detail[0] == {
            "loc": ["body", "prompts", 0, "boxes", 0, "y0"],
            "msg": "Field required",
            "type": "missing",
        }
        ValidationErrorResponse.model_validate({"detail": detail})

    def test_prefix(self) -> None:
        assert self.errors(5, prefix=("query", 0))[0]["loc"] == ["query", 0]

    def test_mentions_objects_not_python_types(self) -> None:
        expected = {"loc": ["body"], "msg": "Input should be an object", "type": "model_type"}
        bodies: list[Any] = [5, "text", [], None, True]
        for body in bodies:
            assert self.errors(body) == [expected]


def test_errors_as_one_message() -> None:
    body = {"image_id": "x", "prompts": [{"text": "dog"}, {"boxes": 7}], "format": "?"}
    with pytest.raises(ValidationError) as caught:
        Sam3SegmentationRequest.model_validate(body)
    detail = validation_detail(caught.value)
    assert validation_message(detail) == (
        "prompts[1].boxes: Input should be a valid list; "
        "format: Input should be 'polygon', 'json' or 'rle'"
    )
    assert validation_message(detail, most=1).endswith("a valid list; and 1 more")
    whole = [{"loc": ["body"], "msg": "Input should be an object", "type": "model_type"}]
    assert validation_message(whole) == "Input should be an object"
