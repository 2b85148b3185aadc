"""Segmind's sam3-image and sam-v2-image: JSON in; one image, or several in JSON, out.

Points, boxes and labels are texts that hold JSON, as the vendor writes them, or the lists
themselves. A text that is blank, or holds `null`, is the same as none.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    RootModel,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, from_json
from typing_extensions import TypeAliasType

from schemas.common import Coordinate, InputModel, WireModel, at_most, check_shapes, examples

PointLabel = Literal[0, 1]
EXAMPLE_IMAGE = "https://segmind-sd-models.s3.amazonaws.com/display_images/sam-v2-ip.jpg"


def _read(value: Any, form: str) -> list[Any]:
    """The list in a text, or the list itself."""
    if isinstance(value, str):
        try:
            value = from_json(value, allow_inf_nan=False) if value.strip() else []
        except ValueError as error:
            raise PydanticCustomError(
                "json_list",
                "Input should be JSON such as {form}, and is no JSON: {cause}",
                {"form": form, "cause": str(error)},
            ) from None
    if value is None:
        return []
    if not isinstance(value, list):
        raise PydanticCustomError(
            "json_list",
            "Input should be a list such as {form}, or a text that holds it as JSON",
            {"form": form},
        )
    return value


def _rows(form: str) -> BeforeValidator:
    """Reads a list of rows; of one row alone the outer brackets may be missing."""

    def read(value: Any) -> list[Any]:
        rows = _read(value, form)
        return [rows] if rows and isinstance(rows[0], int | float) else rows

    return BeforeValidator(read, json_schema_input_type=JsonText | NumberRow | NumberRows)


def _row(*names: str) -> BeforeValidator:
    """Refuses what is no list of as many numbers as there are names."""

    def check(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(names):
            raise PydanticCustomError(
                "row", "Input should be [{form}], in pixels", {"form": ", ".join(names)}
            )
        return value

    return BeforeValidator(check)


def _read_labels(value: Any) -> list[Any]:
    labels = _read(value, "[[1, 0]]")
    return [label for part in labels for label in (part if isinstance(part, list) else [part])]


JsonText = TypeAliasType(
    "JsonText", Annotated[str, Field(description="A text that holds JSON, such as `[[300, 400]]`.")]
)
NumberRow = TypeAliasType(
    "NumberRow", Annotated[list[float], Field(description="One point, or one box.")]
)
NumberRows = TypeAliasType(
    "NumberRows", Annotated[list[NumberRow], Field(description="Points, or boxes.")]
)
LabelRow = TypeAliasType(
    "LabelRow", Annotated[list[PointLabel], Field(description="Labels of points.")]
)
LabelRows = TypeAliasType(
    "LabelRows", Annotated[list[LabelRow], Field(description="Labels of points, in groups.")]
)

PointList = TypeAliasType(
    "PointList",
    Annotated[
        list[Annotated[list[Coordinate], _row("x", "y")]],
        at_most("max_points", "points"),
        _rows("[[300, 400]]"),
        Field(description="Points in pixels: `[[x, y], …]`, or one flat `[x, y]`."),
    ],
)
BoxList = TypeAliasType(
    "BoxList",
    Annotated[
        list[Annotated[list[Coordinate], _row("x0", "y0", "x1", "y1")]],
        at_most("max_boxes", "boxes"),
        _rows("[[100, 150, 200, 250]]"),
        Field(description="Boxes in pixels: `[[x0, y0, x1, y1], …]`, or one of them flat."),
    ],
)
PointLabelList = TypeAliasType(
    "PointLabelList",
    Annotated[
        list[PointLabel],
        at_most("max_points", "point labels"),
        BeforeValidator(_read_labels, json_schema_input_type=JsonText | LabelRow | LabelRows),
        Field(description="Labels: `[[1, 0]]`, `[[1], [0]]` or `[1, 0]`."),
    ],
)

Words = Annotated[str, at_most("max_text_length", "characters of text")]


class SegmindRequest(InputModel):
    """What every request says about its image and its sender."""

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="The API key, for clients that send it here; the header x-api-key does as "
        "well.",
    )
    image: str = Field(
        min_length=1,
        repr=False,
        description="The image: its http or https address, or its file in base64, with or without "
        "a `data:image/…;base64,` prefix.",
    )

    @property
    def image_is_url(self) -> bool:
        """The image is given by its address; base64 has no colon but in its prefix."""
        return "://" in self.image[:16]


def _not_blank(text: str | None) -> str | None:
    return text if text and text.strip() else None


def _on_the_object() -> list[PointLabel]:
    return [1]


class Sam3ImageRequest(SegmindRequest):
    """Segment by words, exemplar boxes or points; without any of them, everything.

    Words and boxes find every object of a concept; points select one object. With both, the answer
    has the masks of both, and an object that both find is there once.
    """

    model_config = examples(
        {"image": EXAMPLE_IMAGE, "text_prompt": "plants", "point_labels_input": "[[1]]"},
        {
            "image": EXAMPLE_IMAGE,
            "points_input": "[[150, 200], [300, 400]]",
            "point_labels_input": "[[1, 0]]",
            "return_overlay": True,
            "return_masks": True,
        },
        {"image": EXAMPLE_IMAGE, "boxes_input": [[100, 150, 200, 250]], "max_masks": 5},
    )

    text_prompt: Words | None = Field(
        default=None, description="What to look for, in a few words: `animal`, `plant`."
    )
    boxes_input: BoxList = Field(
        default_factory=list,
        description="Boxes around examples of what to look for, `[[x0, y0, x1, y1], …]` in pixels, "
        "as a list or as a text that holds it as JSON.",
    )
    points_input: PointList = Field(
        default_factory=list,
        description="Points on one object, and beside it where their label is 0: `[[x, y], …]` in "
        "pixels, as a list or as a text that holds it as JSON.",
    )
    point_labels_input: PointLabelList = Field(
        default_factory=_on_the_object,
        description="For each point 1 (on the object) or 0 (beside it); one label alone counts for "
        "all points. `[[1]]` by default.",
    )
    return_preview: bool = Field(
        default=True, description="Have all masks as one image, white on black."
    )
    return_overlay: bool = Field(
        default=False, description="Have the input image with the masks in colours over it."
    )
    return_masks: bool = Field(
        default=False, description="Have each mask as an image of its own, the best first."
    )
    threshold: float = Field(
        default=0.5,
        ge=0.1,
        le=1,
        description="Least score of a mask: confidence, or for points and without a prompt "
        "predicted IoU.",
    )
    points_per_side: int = Field(
        default=32,
        ge=0,
        le=128,
        description="Without a prompt the image is searched by a grid of as many points squared, "
        "which needs 1 at least.",
    )
    pred_iou_thresh: float = Field(
        default=0.88,
        ge=0.5,
        le=1,
        description="Least predicted IoU of a mask that is found without a prompt.",
    )
    max_masks: int = Field(
        default=0, ge=0, le=100, description="Only as many masks, the best ones; 0 is no limit."
    )

    _blank_is_absent = field_validator("text_prompt")(_not_blank)

    @field_validator("boxes_input")
    @classmethod
    def _have_size(cls, boxes: list[list[float]]) -> list[list[float]]:
        for x0, y0, x1, y1 in boxes:
            if x1 <= x0 or y1 <= y0:
                raise PydanticCustomError(
                    "box_size",
                    "A box needs a size: send [x0, y0, x1, y1] with x1 greater than x0, and y1 "
                    "greater than y0",
                )
        return boxes

    @model_validator(mode="after")
    def _can_be_meant(self, info: ValidationInfo) -> Sam3ImageRequest:
        check_shapes(len(self.points_input) + len(self.boxes_input), info)
        if not (self.return_preview or self.return_overlay or self.return_masks):
            raise PydanticCustomError(
                "no_output",
                "Nothing would be answered: set one of return_preview, return_overlay and "
                "return_masks to true",
            )
        labels, points = len(self.point_labels_input), len(self.points_input)
        if not points and self.point_labels_input not in ([], [1]):
            raise PydanticCustomError(
                "point_labels",
                "point_labels_input labels the points of points_input, and there are none: send "
                "points_input, or leave point_labels_input out",
            )
        if labels not in (0, 1, points) and points:
            raise PydanticCustomError(
                "point_labels",
                "point_labels_input has {labels} labels for the {points} points of points_input: "
                "send one for each, or one for all",
                {"labels": labels, "points": points},
            )
        if points and not any(self.labels):
            raise PydanticCustomError(
                "point_labels",
                "points_input needs a point on the object: give it the label 1 in "
                "point_labels_input",
            )
        if self.is_automatic and not self.points_per_side:
            raise PydanticCustomError(
                "no_prompt",
                "points_per_side=0 finds nothing: send text_prompt, boxes_input or points_input, "
                "or points_per_side of at least 1",
            )
        return self

    @property
    def labels(self) -> list[int]:
        """For each point whether it is on the object."""
        given: list[int] = list(self.point_labels_input or [1])
        return given * len(self.points_input) if len(given) == 1 else given

    @property
    def is_automatic(self) -> bool:
        """There is no prompt."""
        return self.text_prompt is None and not self.boxes_input and not self.points_input


class SamV2ImageRequest(SegmindRequest):
    """Segment by words, or one object by points on it."""

    model_config = examples(
        {"image": EXAMPLE_IMAGE, "prompt": "boy", "overlay_mask": True, "base64": False},
        {
            "image": EXAMPLE_IMAGE,
            "coordinates": "[[839, 74], [844, 20]]",
            "remove_coordinates": "[834, 174]",
        },
    )

    prompt: Words | None = Field(
        default=None,
        description="What to look for, in a few words. It may be left out where there are "
        "coordinates.",
    )
    coordinates: PointList = Field(
        default_factory=list,
        description="Points on one object: `[x, y]` or `[[x, y], …]` in pixels, as a list or as a "
        "text that holds it as JSON. Ignored if there is a prompt.",
    )
    remove_coordinates: PointList = Field(
        default_factory=list,
        description="Points beside the object, in the same form. With a prompt, objects on which "
        "one of them lies are left out.",
    )
    overlay_mask: bool = Field(
        default=True,
        description="Have the input image with the mask over it; otherwise the mask, white on "
        "black.",
    )
    base64: bool = Field(
        default=False, description="Have the image as a JSON text in base64, not as a file."
    )

    _blank_is_absent = field_validator("prompt")(_not_blank)

    @model_validator(mode="after")
    def _asks_for_something(self, info: ValidationInfo) -> SamV2ImageRequest:
        check_shapes(len(self.coordinates) + len(self.remove_coordinates), info)
        if self.prompt is None and not self.coordinates:
            raise PydanticCustomError(
                "no_prompt", "Send prompt, or coordinates such as [834, 74] of points on the object"
            )
        return self


class SegmindImages(WireModel):
    """Several images, each a PNG in base64. What was not asked for is absent."""

    model_config = examples({"preview": "iVBORw0KGgo=", "masks": ["iVBORw0KGgo="]})

    preview: str | None = Field(default=None, description="All masks, white on black.")
    overlay: str | None = Field(default=None, description="The input image with the masks over it.")
    masks: list[str] | None = Field(
        default=None, description="Each mask, the best first; empty where nothing was found."
    )


class Base64Image(RootModel[str]):
    """A PNG in base64."""


class SegmindFailure(WireModel):
    """What went wrong, and what to do about it."""

    model_config = examples({"error": "threshold: Input should be less than or equal to 1"})

    error: str = Field(description="What went wrong, for people.")
