"""What every contract shares: the base models, the bounds, the numbers, and how errors are worded.

Bounds such as "at most 16 prompts" are settings of a server, not of the contract. They come in as
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
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from typing_extensions import TypeAliasType

MAX_COORDINATE = 1e9
"""No image is a billion pixels wide; beyond that, arithmetic in 32-bit floats overflows."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one request may ask for; the defaults are those of the server's settings.

    Attributes:
        max_prompts: most prompts in a concept request.
        max_visual_prompts: most prompts in a visual request.
        max_points: most points in one prompt.
        max_boxes: most exemplar boxes in one prompt.
        max_shapes: most points and boxes of all prompts of a request together.
        max_text_length: longest text of a prompt, in characters.
        max_id_length: longest `image_id` or `model_id`, in characters.
    """

    max_prompts: int = 16
    max_visual_prompts: int = 256
    max_points: int = 1024
    max_boxes: int = 64
    max_shapes: int = 4096
    max_text_length: int = 256
    max_id_length: int = 256

    @classmethod
    def of(cls, info: ValidationInfo) -> Limits:
        """The limits that a validation runs under: its context, or else the defaults."""
        return info.context if isinstance(info.context, cls) else cls()


def at_most(limit: str, noun: str) -> BeforeValidator:
    """A validator that refuses a list or a text longer than one of `Limits`.

    It runs before the items are looked at: a million prompts are refused by counting them.

    Args:
        limit: name of the field of `Limits`.
        noun: what is counted, in the plural, for the message.
    """

    def check(value: Any, info: ValidationInfo) -> Any:
        most = getattr(Limits.of(info), limit)
        if isinstance(value, str | list) and len(value) > most:
            raise PydanticCustomError(
                "string_too_long" if isinstance(value, str) else "too_long",
                "At most {most} {noun} are accepted, not {count}: send fewer, or raise "
                "{setting} on the server",
                {
                    "most": most,
                    "noun": noun,
                    "count": len(value),
                    "setting": f"INFERENCE_{limit.upper()}",
                },
            )
        return value

    return BeforeValidator(check)


def check_shapes(count: int, info: ValidationInfo) -> None:
    """Refuses more points and boxes than the prompts of a request may have together.

    Args:
        count: of all of them.
        info: of the validation, whose `Limits` hold.
    """
    most = Limits.of(info).max_shapes
    if count > most:
        raise PydanticCustomError(
            "too_long",
            "At most {most} points and boxes are accepted in all prompts together, not {count}: "
            "send fewer at a time, or raise INFERENCE_MAX_SHAPES on the server",
            {"most": most, "count": count},
        )


def few_shapes(prompts: Any, info: ValidationInfo) -> Any:
    """A validator of a list of prompts, which counts before points and boxes are looked at."""
    count = 0
    for prompt in prompts if isinstance(prompts, list) else ():
        if isinstance(prompt, dict):
            given = (prompt.get("points"), prompt.get("boxes"))
            count += sum(len(shapes) for shapes in given if isinstance(shapes, list))
            count += prompt.get("box") is not None
    check_shapes(count, info)
    return prompts


def _not_boolean(value: Any) -> Any:
    # Pydantic reads `true` as 1.0, which hides a client's mistake in an order of arguments.
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "Input should be a valid number, not a boolean")
    return value


# The bounds stand before the check: only there does pydantic write them into the JSON schema.
_number = BeforeValidator(_not_boolean)

Coordinate = Annotated[float, Field(ge=-MAX_COORDINATE, le=MAX_COORDINATE), _number]
"""A place in pixels; it may lie outside of the image."""

Length = Annotated[float, Field(gt=0, le=MAX_COORDINATE), _number]
"""A width or a height in pixels."""

Fraction = Annotated[float, Field(ge=0, le=1), _number]
"""A threshold or a score."""

Identifier = Annotated[str, Field(min_length=1), at_most("max_id_length", "characters of an id")]
"""A name that a client chose."""


def examples(*values: dict[str, Any]) -> ConfigDict:
    """The part of a model's configuration that gives examples in the OpenAPI document."""
    return ConfigDict(json_schema_extra={"examples": list(values)})


class WireModel(BaseModel):
    """Base of everything on the wire: unknown fields are ignored, numbers are finite."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Writes optional fields as optional, not as nullable, and leaves out the noise.

        `T | None = None` would become an inline `anyOf` with `null`, out of which code generators
        make odd names and types. A field's title only repeats its name.
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
    # The field's own words come last: they say more than those of the type it refers to.
    return {**kinds[0], **{key: value for key, value in field.items() if key != "anyOf"}}


class InputModel(WireModel):
    """Base of what clients send: an explicit null means the same as leaving the field out."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


LocationName = TypeAliasType(
    "LocationName", Annotated[str, Field(description="The part of the request, or a field of it.")]
)
LocationIndex = TypeAliasType(
    "LocationIndex", Annotated[int, Field(description="A position in a list, counted from 0.")]
)


LocationPart = TypeAliasType(
    "LocationPart",
    Annotated[LocationName | LocationIndex, Field(description="One step towards a mistake.")],
)


class ValidationErrorItem(WireModel):
    """One thing that is wrong with a request."""

    loc: list[LocationPart] = Field(
        description="Where: `body`, then field names and positions in lists."
    )
    msg: str = Field(description="What is wrong, for people.")
    type: str = Field(description="What is wrong, for programs.")


class ValidationErrorResponse(WireModel):
    """Everything that is wrong with a request. It never repeats the image or the key."""

    model_config = examples(
        {
            "detail": [
                {
                    "loc": ["body", "prompts", 0, "boxes", 0, "width"],
                    "msg": "Input should be greater than 0",
                    "type": "greater_than",
                }
            ]
        }
    )

    detail: list[ValidationErrorItem] = Field(description="One entry for each mistake.")


class ErrorMessage(WireModel):
    """What went wrong, and what to do about it."""

    model_config = examples({"message": "Could not load input image. Cause: it is not an image"})

    message: str = Field(description="What went wrong, for people.")


def validation_detail(
    error: ValidationError, prefix: Sequence[str | int] = ("body",)
) -> list[dict[str, Any]]:
    """The `detail` of a `ValidationErrorResponse`, ready for JSON.

    The offending input is left out: it may be the image or the key.

    Args:
        error: what pydantic found.
        prefix: what `loc` starts with.

    Returns:
        One `{loc, msg, type}` for each mistake.
    """
    return [
        {
            # Pydantic adds the branch of a union that it tried. Field names are identifiers;
            # the tags of our unions are not, so that they can be told apart here.
            "loc": [*prefix, *(p for p in item["loc"] if isinstance(p, int) or p.isidentifier())],
            "msg": _WORDING.get(item["type"], item["msg"]),
            "type": item["type"],
        }
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def validation_message(detail: Sequence[Mapping[str, Any]], most: int = 5) -> str:
    """The mistakes of a request in one text, for contracts that word them so.

    Args:
        detail: as `validation_detail` gives it.
        most: mistakes that are told; of others only the number is.

    Returns:
        Such as `inputs.boxes[0]: Field required; inputs.points: …`.
    """
    told = [_where(item["loc"]) + item["msg"] for item in detail[:most]]
    if len(detail) > most:
        told.append(f"and {len(detail) - most} more")
    return "; ".join(told)


def _where(location: Sequence[str | int]) -> str:
    """`prompts[0].boxes: ` for `("body", "prompts", 0, "boxes")`; nothing for the body itself."""
    parts = location[1:] if location[:1] == ["body"] else location
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return f"{name.removeprefix('.')}: " if name else ""


# Pydantic's own words here speak of Python.
_WORDING = {
    "model_type": "Input should be an object",
    "model_attributes_type": "Input should be an object",
    "dict_type": "Input should be an object",
}
