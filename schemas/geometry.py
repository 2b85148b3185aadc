"""Shapes on an image: the boxes and clicks that clients send, the masks they are answered.

Two boxes look the same on the wire and mean different things: `{x, y, width, height}` is anchored
at its top-left corner in a concept prompt, and at its centre in a visual one. They are separate
types, and `corners` reads all of them in one way.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from schemas.common import Coordinate, InputModel, Length, WireModel, examples

Corners = tuple[float, float, float, float]
"""A box as `(x0, y0, x1, y1)` in pixels, whatever way it was written in."""


class TopLeftBox(InputModel):
    """A box by its **top-left corner** and its size, in pixels. Concept prompts use it."""

    model_config = examples({"x": 68, "y": 247, "width": 555, "height": 678})

    x: Coordinate = Field(description="The left edge.")
    y: Coordinate = Field(description="The top edge.")
    width: Length = Field(description="The width, rightwards.")
    height: Length = Field(description="The height, downwards.")

    @property
    def corners(self) -> Corners:
        """The box as `(x0, y0, x1, y1)`."""
        return self.x, self.y, self.x + self.width, self.y + self.height


class CornerBox(InputModel):
    """A box by two corners, in pixels: top-left and bottom-right. Concept prompts use it."""

    model_config = examples({"x0": 68, "y0": 247, "x1": 623, "y1": 925})

    x0: Coordinate = Field(description="The left edge.")
    y0: Coordinate = Field(description="The top edge.")
    x1: Coordinate = Field(description="The right edge, greater than `x0`.")
    y1: Coordinate = Field(description="The bottom edge, greater than `y0`.")

    @model_validator(mode="after")
    def _has_size(self) -> CornerBox:
        if self.x1 <= self.x0 or self.y1 <= self.y0:
            raise PydanticCustomError(
                "box_size", "A box needs a size: x1 greater than x0, and y1 greater than y0"
            )
        return self

    @property
    def corners(self) -> Corners:
        """The box as `(x0, y0, x1, y1)`."""
        return self.x0, self.y0, self.x1, self.y1


class CenterBox(InputModel):
    """A box by its **centre** and its size, in pixels. Visual prompts use it."""

    model_config = examples({"x": 345.5, "y": 586, "width": 555, "height": 678})

    x: Coordinate = Field(description="The centre, from the left.")
    y: Coordinate = Field(description="The centre, from the top.")
    width: Length = Field(description="The whole width.")
    height: Length = Field(description="The whole height.")

    @property
    def corners(self) -> Corners:
        """The box as `(x0, y0, x1, y1)`."""
        w, h = self.width / 2, self.height / 2
        return self.x - w, self.y - h, self.x + w, self.y + h


class Point(InputModel):
    """A click on the image."""

    model_config = examples({"x": 320, "y": 540, "positive": True})

    x: Coordinate = Field(description="From the left, in pixels.")
    y: Coordinate = Field(description="From the top, in pixels.")
    positive: bool = Field(description="True on the object, false on what does not belong to it.")


def _box_form(value: Any) -> str | None:
    """Which of the two boxes a concept prompt means, as the tag of the union below."""
    if isinstance(value, TopLeftBox):
        return "top-left box"
    if isinstance(value, CornerBox):
        return "corner box"
    if not isinstance(value, dict):
        return None
    given = {key for key in value if value[key] is not None}
    # A box that spells out both is read as XYWH, as the vendor reads it.
    forms = {"top-left box": {"x", "y", "width", "height"}, "corner box": {"x0", "y0", "x1", "y1"}}
    best = max(forms, key=lambda form: len(forms[form] & given))
    return best if forms[best] & given else None


ConceptBox = TypeAliasType(
    "ConceptBox",
    Annotated[
        Annotated[TopLeftBox, Tag("top-left box")] | Annotated[CornerBox, Tag("corner box")],
        Discriminator(
            _box_form,
            custom_error_type="box_form",
            custom_error_message="A box is an object with x, y, width and height, anchored at its "
            "top-left corner, or one with x0, y0, x1 and y1",
        ),
        Field(description="A box around an exemplar, in one of two forms."),
    ],
)

BoxLabelNumber = TypeAliasType(
    "BoxLabelNumber",
    Annotated[Literal[0, 1], Field(description="1 is a positive exemplar, 0 a negative one.")],
)
BoxLabelFlag = TypeAliasType(
    "BoxLabelFlag",
    Annotated[bool, Field(description="True is a positive exemplar, false a negative one.")],
)


def _read_label(value: Any) -> Any:
    # An explicit list: pydantic's own reading of a boolean knows "yes", "off" and the like.
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise PydanticCustomError("box_label", "A box label is 1 or true, or else 0 or false")


BoxLabel = TypeAliasType(
    "BoxLabel",
    Annotated[
        bool,
        BeforeValidator(_read_label, json_schema_input_type=BoxLabelNumber | BoxLabelFlag),
        Field(description="Whether a box shows the concept."),
    ],
)

Polygon = TypeAliasType(
    "Polygon",
    Annotated[
        list[Annotated[list[float], Field(min_length=2, max_length=2)]],
        Field(description="The outline of one connected part, as `[x, y]` pixels."),
    ],
)
Polygons = TypeAliasType(
    "Polygons",
    Annotated[
        list[Polygon],
        Field(description="A mask as the outer contours of its connected parts."),
    ],
)


class CocoRle(WireModel):
    """A mask in COCO's compressed run-length encoding, as `pycocotools` reads it."""

    model_config = examples({"size": [4, 4], "counts": "52203"})

    size: Annotated[list[int], Field(min_length=2, max_length=2)] = Field(
        description="`[height, width]` of the image."
    )
    counts: str = Field(description="The runs, compressed.")


Masks = TypeAliasType(
    "Masks",
    Annotated[Polygons | CocoRle, Field(description="A mask: polygons, or run lengths.")],
)
