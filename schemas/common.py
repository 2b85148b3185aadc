"""Shared by all APIs: base models, limits, number types and error formatting.

Limits such as "at most 16 prompts" are server settings, not part of an API. They are passed as
pydantic's validation context:

    Sam3SegmentationRequest.model_validate(body, context=Limits(max_prompts=4))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from typing_extensions import TypeAliasType

MAX_COORDINATE = 1e9
"""Largest accepted coordinate, in pixels; beyond it, 32-bit float arithmetic could overflow."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper limits of one request; the defaults equal those of the server's settings.

    Attributes:
        max_prompts: Maximum number of prompts in a concept request.
        max_visual_prompts: Maximum number of prompts in a visual request.
        max_points: Maximum number of points in one prompt.
        max_boxes: Maximum number of exemplar boxes in one prompt.
        max_shapes: Maximum number of points and boxes in all prompts of a request together.
        max_text_length: Maximum length of a text prompt, in characters.
        max_id_length: Maximum length of an `image_id` or `model_id`, in characters.
        min_tile_size: Minimum side of a window of a raster, in pixels.
        max_tile_size: Maximum side of a window of a raster, in pixels.
    """

    max_prompts: int = 16
    max_visual_prompts: int = 256
    max_points: int = 1024
    max_boxes: int = 64
    max_shapes: int = 4096
    max_text_length: int = 256
    max_id_length: int = 256
    min_tile_size: int = 64
    max_tile_size: int = 4096

    @classmethod
    def of(cls, info: ValidationInfo) -> Limits:
        """Return the limits in a validation's context, or the defaults without one."""
        return info.context if isinstance(info.context, cls) else cls()


def at_most(limit: str, noun: str) -> BeforeValidator:
    """Create a validator that rejects a list or string longer than a limit.

    It runs before the items are validated, so a list of a million prompts is rejected cheaply.

    Args:
        limit: Name of a field of `Limits`.
        noun: What is counted, in the plural, for the error message.
    """

    def check(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str | list):
            kind = "string_too_long" if isinstance(value, str) else "too_long"
            check_count(len(value), limit, noun, info, kind=kind)
        return value

    return BeforeValidator(check)


def check_count(
    count: int, limit: str, noun: str, info: ValidationInfo, *, kind: str = "too_long"
) -> None:
    """Raise if a request has more of something than a limit.

    Args:
        count: How many there are.
        limit: Name of a field of `Limits`.
        noun: What is counted, in the plural, for the error message.
        info: Validation info; its context may hold `Limits`.
        kind: Type of the error. Default: `too_long`.
    """
    most = getattr(Limits.of(info), limit)
    if count > most:
        raise PydanticCustomError(
            "string_too_long" if kind == "string_too_long" else "too_long",
            "At most {most} {noun} are accepted, got {count}; send fewer, or raise {setting} "
            "on the server",
            {
                "most": most,
                "noun": noun,
                "count": count,
                "setting": f"INFERENCE_{limit.upper()}",
            },
        )


def check_shapes(count: int, info: ValidationInfo) -> None:
    """Raise if a request has more points and boxes than `Limits.max_shapes`.

    Args:
        count: Number of points and boxes in all prompts.
        info: Validation info; its context may hold `Limits`.
    """
    most = Limits.of(info).max_shapes
    if count > most:
        raise PydanticCustomError(
            "too_long",
            "At most {most} points and boxes are accepted in all prompts together, got {count}; "
            "split the request, or raise INFERENCE_MAX_SHAPES on the server",
            {"most": most, "count": count},
        )


def check_prompt_shapes(prompts: Any, info: ValidationInfo) -> Any:
    """Validate the number of shapes in a list of raw prompts, before the shapes are validated."""
    count = 0
    for prompt in prompts if isinstance(prompts, list) else ():
        if isinstance(prompt, dict):
            given = (prompt.get("points"), prompt.get("boxes"))
            count += sum(len(shapes) for shapes in given if isinstance(shapes, list))
            count += prompt.get("box") is not None
    check_shapes(count, info)
    return prompts


def not_boolean(value: Any) -> Any:
    """Refuse true and false where a number is expected."""
    # Pydantic converts `true` to 1.0, which would hide swapped arguments in a client.
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "Input should be a valid number, not a boolean")
    return value


# `Field` comes first in the aliases below: otherwise pydantic omits the bounds from the JSON
# schema.
_number = BeforeValidator(not_boolean)


def _is_file(value: Any) -> Any:
    if isinstance(value, str):
        raise PydanticCustomError(
            "file", "Input should be a file; send a multipart/form-data part with a filename"
        )
    return value


File = Annotated[
    Any, BeforeValidator(_is_file), WithJsonSchema({"type": "string", "format": "binary"})
]
"""An uploaded file."""

Number = Annotated[float, _number]
"""A number."""

Coordinate = Annotated[float, Field(ge=-MAX_COORDINATE, le=MAX_COORDINATE), _number]
"""A coordinate in pixels; it may lie outside the image."""

Length = Annotated[float, Field(gt=0, le=MAX_COORDINATE), _number]
"""A width or height in pixels, greater than 0."""

Fraction = Annotated[float, Field(ge=0, le=1), _number]
"""A threshold or score from 0 to 1."""

Identifier = Annotated[str, Field(min_length=1), at_most("max_id_length", "characters of an id")]
"""An id of an image or a model: a short, non-empty string."""


def examples(*values: dict[str, Any]) -> ConfigDict:
    """Return a model configuration that adds examples to the OpenAPI document."""
    return ConfigDict(json_schema_extra={"examples": list(values)})


class WireModel(BaseModel):
    """Base of all requests and responses: ignores unknown fields, rejects NaN and infinity."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe optional fields as optional instead of nullable, and drop field titles.

        By default `T | None = None` becomes an inline `anyOf` with `null`, for which client
        generators produce odd names and types. A field's title only repeats its name.
        """
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        for name, field in schema.get("properties", {}).items():
            field.pop("title", None)
            if "default" in field and field["default"] is None:
                del field["default"]
                schema["properties"][name] = _without_null(field)
        return reference


def _without_null(field: JsonSchemaValue) -> JsonSchemaValue:
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return field
    # The field's description overrides that of its type, because it is more specific.
    return {**kinds[0], **{key: value for key, value in field.items() if key != "anyOf"}}


class InputModel(WireModel):
    """Base of all requests: an explicit null is the same as an absent field."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


CODE = (
    "Stable word for the kind of error, such as `image` or `rate`; the documentation lists all. "
    "Messages may change."
)
"""Description of the field `code` of errors."""

LocationName = TypeAliasType(
    "LocationName", Annotated[str, Field(description="`body`, `query` or the name of a field.")]
)
LocationIndex = TypeAliasType(
    "LocationIndex", Annotated[int, Field(description="Zero-based position in a list.")]
)


LocationPart = TypeAliasType(
    "LocationPart",
    Annotated[
        LocationName | LocationIndex, Field(description="One step of the path to an invalid value.")
    ],
)


class ValidationErrorItem(WireModel):
    """One validation error."""

    loc: list[LocationPart] = Field(
        description="Path to the invalid value: `body`, then field names and list positions."
    )
    msg: str = Field(description="Human-readable error message.")
    type: str = Field(description="Machine-readable error type.")


class ValidationErrorResponse(WireModel):
    """All validation errors of a request. They never contain the image or the API key."""

    model_config = examples(
        {
            "detail": [
                {
                    "loc": ["body", "prompts", 0, "boxes", 0, "width"],
                    "msg": "Input should be greater than 0",
                    "type": "greater_than",
                }
            ],
            "code": "validation",
        }
    )

    detail: list[ValidationErrorItem] = Field(description="One entry per error.")
    code: str | None = Field(default=None, description=CODE)


class ErrorMessage(WireModel):
    """What went wrong, and how to fix it."""

    model_config = examples(
        {"message": "Could not load input image. Cause: it is not an image", "code": "image"}
    )

    message: str = Field(description="Human-readable error message.")
    code: str | None = Field(default=None, description=CODE)


def validation_detail(
    error: ValidationError, prefix: Sequence[str | int] = ("body",)
) -> list[dict[str, Any]]:
    """Convert a pydantic error to the `detail` of a `ValidationErrorResponse`, ready for JSON.

    The invalid input is omitted: it may be the image or the API key.

    Args:
        error: The error raised by pydantic.
        prefix: First items of each `loc`; `body` by default.

    Returns:
        One `{loc, msg, type}` per error.
    """
    return [
        {
            # Pydantic adds the tag of the union member that it tried. Field names are identifiers
            # and our tags are not ("corner box"), so the tags can be dropped here.
            "loc": [*prefix, *(p for p in item["loc"] if isinstance(p, int) or p.isidentifier())],
            "msg": _WORDING.get(item["type"], item["msg"]),
            "type": item["type"],
        }
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def validation_message(detail: Sequence[Mapping[str, Any]], most: int = 5) -> str:
    """Join validation errors into one message, for APIs whose errors are a single string.

    Args:
        detail: Errors in the form of `validation_detail`.
        most: Maximum number of errors to list, 5 by default; further errors are only counted.

    Returns:
        A message such as `inputs.boxes[0]: Field required; inputs.points: …`.
    """
    parts = [_field_path(item["loc"]) + item["msg"] for item in detail[:most]]
    if len(detail) > most:
        parts.append(f"and {len(detail) - most} more")
    return "; ".join(parts)


def _field_path(location: Sequence[str | int]) -> str:
    """Format `("body", "prompts", 0, "boxes")` as `prompts[0].boxes: `; the body itself as ``."""
    parts = location[1:] if location[:1] == ["body"] else location
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return f"{name.removeprefix('.')}: " if name else ""


# Pydantic's own messages for these types mention Python classes.
_WORDING = {
    "model_type": "Input should be an object",
    "model_attributes_type": "Input should be an object",
    "dict_type": "Input should be an object",
}
