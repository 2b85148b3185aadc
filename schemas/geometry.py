"""Boxes, points and masks of the Roboflow API.

`{x, y, width, height}` has two meanings: in a concept prompt `x, y` is the top-left corner, in a
visual prompt the centre. `TopLeftBox` and `CenterBox` keep them apart, and `corners` gives the same
form for every box.
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
"""A box as `(x0, y0, x1, y1)` in pixels."""


class TopLeftBox(InputModel):
    """A box given by its **top-left corner** and size, in pixels. Used by concept prompts."""

    model_config = examples({"x": 56, "y": 66, "width": 34, "height": 35})

    x: Coordinate = Field(description="Left edge, in pixels.")
    y: Coordinate = Field(description="Top edge, in pixels.")
    width: Length = Field(description="Width, in pixels.")
    height: Length = Field(description="Height, in pixels.")

    @property
    def corners(self) -> Corners:
        """The box as `(x0, y0, x1, y1)`."""
        return self.x, self.y, self.x + self.width, self.y + self.height


class CornerBox(InputModel):
    """A box given by its top-left and bottom-right corners, in pixels. Used by concept prompts."""

    model_config = examples({"x0": 101, "y0": 78, "x1": 135, "y1": 114})

    x0: Coordinate = Field(description="Left edge, in pixels.")
    y0: Coordinate = Field(description="Top edge, in pixels.")
    x1: Coordinate = Field(description="Right edge, in pixels; greater than `x0`.")
    y1: Coordinate = Field(description="Bottom edge, in pixels; greater than `y0`.")

    @model_validator(mode="after")
    def _has_size(self) -> CornerBox:
        if self.x1 <= self.x0 or self.y1 <= self.y0:
            raise PydanticCustomError(
                "box_size", "The box is empty; send x1 greater than x0, and y1 greater than y0"
            )
        return self

    @property
    def corners(self) -> Corners:
        """The box as `(x0, y0, x1, y1)`."""
        return self.x0, self.y0, self.x1, self.y1


class CenterBox(InputModel):
    """A box given by its **centre** and size, in pixels. Used by visual prompts."""

    model_config = examples({"x": 118, "y": 96, "width": 34, "height": 36})

    x: Coordinate = Field(
        description="Horizontal centre, in pixels from the left edge of the image."
    )
    y: Coordinate = Field(description="Vertical centre, in pixels from the top edge of the image.")
    width: Length = Field(description="Full width, in pixels.")
    height: Length = Field(description="Full height, in pixels.")

    @property
    def corners(self) -> Corners:
        """The box as `(x0, y0, x1, y1)`."""
        w, h = self.width / 2, self.height / 2
        return self.x - w, self.y - h, self.x + w, self.y + h


class Point(InputModel):
    """A point (click) on the image."""

    model_config = examples({"x": 73, "y": 83, "positive": True})

    x: Coordinate = Field(description="Pixels from the left edge.")
    y: Coordinate = Field(description="Pixels from the top edge.")
    positive: bool = Field(description="True for a point on the object, false for one outside it.")


def _box_form(value: Any) -> str | None:
    """Return the tag of `ConceptBox` that fits a raw box, or None if neither does."""
    if isinstance(value, TopLeftBox):
        return "top-left box"
    if isinstance(value, CornerBox):
        return "corner box"
    if not isinstance(value, dict):
        return None
    given = {key for key in value if value[key] is not None}
    # A box with the fields of both forms is read as XYWH, as in Roboflow's implementation.
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
            custom_error_message="Input should be a box: an object with x, y, width and height "
            "(x, y is the top-left corner), or with x0, y0, x1 and y1",
        ),
        Field(description="A box around an exemplar, given by corner and size or by two corners."),
    ],
)

BoxLabelNumber = TypeAliasType(
    "BoxLabelNumber",
    Annotated[Literal[0, 1], Field(description="1 for a positive exemplar, 0 for a negative one.")],
)
BoxLabelFlag = TypeAliasType(
    "BoxLabelFlag",
    Annotated[bool, Field(description="True for a positive exemplar, false for a negative one.")],
)


def _read_label(value: Any) -> Any:
    # Stricter than pydantic, which also accepts "yes", "off" and similar strings.
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise PydanticCustomError(
        "box_label", "Input should be 1 or true (positive), or 0 or false (negative)"
    )


BoxLabel = TypeAliasType(
    "BoxLabel",
    Annotated[
        bool,
        BeforeValidator(_read_label, json_schema_input_type=BoxLabelNumber | BoxLabelFlag),
        Field(
            description="Whether the box is a positive exemplar (1, true) or a negative one (0, "
            "false)."
        ),
    ],
)

Polygon = TypeAliasType(
    "Polygon",
    Annotated[
        list[Annotated[list[float], Field(min_length=2, max_length=2)]],
        Field(
            description="Outline of one connected part, as `[x, y]` in pixels. A part that is one "
            "pixel wide has fewer than three vertices."
        ),
    ],
)
Polygons = TypeAliasType(
    "Polygons",
    Annotated[
        list[Polygon],
        Field(
            description="A mask as the outer contours of its connected parts; holes are not kept."
        ),
    ],
)


class CocoRle(WireModel):
    """A mask in COCO's compressed run-length encoding (RLE), as `pycocotools` reads it."""

    model_config = examples({"size": [4, 4], "counts": "52203"})

    size: Annotated[list[int], Field(min_length=2, max_length=2)] = Field(
        description="`[height, width]` of the image, in pixels."
    )
    counts: str = Field(description="Compressed run lengths, in column-major order.")


Masks = TypeAliasType(
    "Masks",
    Annotated[Polygons | CocoRle, Field(description="A mask, as polygons or RLE.")],
)
