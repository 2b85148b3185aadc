"""Segmind's sam3-image and sam-v2-image: JSON in; one image, or JSON with several images, out.

Points, boxes and labels are strings that contain JSON, as in Segmind's documentation, or plain
lists. A blank string or `null` counts as absent.
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

from schemas.common import CODE, Coordinate, InputModel, WireModel, at_most, check_shapes, examples
from schemas.example_scene import EXAMPLE_SCENE

PointLabel = Literal[0, 1]


def _read(value: Any, form: str) -> list[Any]:
    """Return a list as is, or parse it from a JSON string."""
    if isinstance(value, str):
        try:
            value = from_json(value, allow_inf_nan=False) if value.strip() else []
        except ValueError as error:
            raise PydanticCustomError(
                "json_list",
                "Input should be JSON such as {form}, but is not valid JSON: {cause}",
                {"form": form, "cause": str(error)},
            ) from None
    if value is None:
        return []
    if not isinstance(value, list):
        raise PydanticCustomError(
            "json_list",
            "Input should be a list such as {form}, or a string with the list as JSON",
            {"form": form},
        )
    return value


def _rows(form: str) -> BeforeValidator:
    """Create a validator that reads a list of rows, or a single row without the outer brackets."""

    def read(value: Any) -> list[Any]:
        rows = _read(value, form)
        return [rows] if rows and isinstance(rows[0], int | float) else rows

    return BeforeValidator(read, json_schema_input_type=JsonText | NumberRow | NumberRows)


def _row(*names: str) -> BeforeValidator:
    """Create a validator that rejects anything but a list with one item per name."""

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
    "JsonText",
    Annotated[str, Field(description="A string that contains JSON, such as `[[300, 400]]`.")],
)
NumberRow = TypeAliasType(
    "NumberRow", Annotated[list[float], Field(description="One point or box.")]
)
NumberRows = TypeAliasType(
    "NumberRows", Annotated[list[NumberRow], Field(description="Points or boxes.")]
)
LabelRow = TypeAliasType(
    "LabelRow", Annotated[list[PointLabel], Field(description="Point labels.")]
)
LabelRows = TypeAliasType(
    "LabelRows", Annotated[list[LabelRow], Field(description="Point labels, in groups.")]
)

PointList = TypeAliasType(
    "PointList",
    Annotated[
        list[Annotated[list[Coordinate], _row("x", "y")]],
        at_most("max_points", "points"),
        _rows("[[300, 400]]"),
        Field(description="Points in pixels: `[[x, y], …]`, or a single `[x, y]`."),
    ],
)
BoxList = TypeAliasType(
    "BoxList",
    Annotated[
        list[Annotated[list[Coordinate], _row("x0", "y0", "x1", "y1")]],
        at_most("max_boxes", "boxes"),
        _rows("[[100, 150, 200, 250]]"),
        Field(
            description="Boxes in pixels: `[[x0, y0, x1, y1], …]`, or a single `[x0, y0, x1, y1]`."
        ),
    ],
)
PointLabelList = TypeAliasType(
    "PointLabelList",
    Annotated[
        list[PointLabel],
        at_most("max_points", "point labels"),
        BeforeValidator(_read_labels, json_schema_input_type=JsonText | LabelRow | LabelRows),
        Field(description="Point labels: `[[1, 0]]`, `[[1], [0]]` or `[1, 0]`."),
    ],
)

PromptText = Annotated[str, at_most("max_text_length", "characters of text")]


class SegmindRequest(InputModel):
    """Fields of all requests: the image and the API key."""

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="API key. It can also be sent in the header `x-api-key`.",
    )
    image: str = Field(
        min_length=1,
        repr=False,
        description="The image: an http or https URL, or the base64-encoded file, with or without "
        "a `data:image/…;base64,` prefix.",
    )

    @property
    def image_is_url(self) -> bool:
        """Whether the image is a URL; in base64, `://` cannot occur."""
        return "://" in self.image[:16]


def _not_blank(text: str | None) -> str | None:
    return text if text and text.strip() else None


def _positive_label() -> list[PointLabel]:
    return [1]


class Sam3ImageRequest(SegmindRequest):
    """Segment by text, exemplar boxes or points; without a prompt, segment everything.

    Text and boxes find all instances of a concept; points select one object. With both, the
    response contains the masks of both, without duplicates.
    """

    model_config = examples(
        {"image": EXAMPLE_SCENE, "text_prompt": "red circle", "point_labels_input": "[[1]]"},
        {
            "image": EXAMPLE_SCENE,
            "points_input": "[[73, 83], [33, 92]]",
            "point_labels_input": "[[1, 0]]",
            "return_overlay": True,
            "return_masks": True,
        },
        {"image": EXAMPLE_SCENE, "boxes_input": [[101, 78, 135, 114]], "max_masks": 5},
    )

    text_prompt: PromptText | None = Field(
        default=None, description="What to find: a short noun phrase, such as `animal` or `plant`."
    )
    boxes_input: BoxList = Field(
        default_factory=list,
        description="Boxes around exemplars: `[[x0, y0, x1, y1], …]` in pixels, as a list or a "
        "JSON string.",
    )
    points_input: PointList = Field(
        default_factory=list,
        description="Points of one object: `[[x, y], …]` in pixels, as a list or a JSON string.",
    )
    point_labels_input: PointLabelList = Field(
        default_factory=_positive_label,
        description="One label per point: 1 (on the object) or 0 (outside it). A single label "
        "applies to all points. `[[1]]` by default.",
    )
    return_preview: bool = Field(
        default=True, description="Return all masks in one image, white on black."
    )
    return_overlay: bool = Field(
        default=False, description="Return the input image with the masks drawn over it."
    )
    return_masks: bool = Field(
        default=False, description="Return each mask as a separate image, highest score first."
    )
    threshold: float = Field(
        default=0.5,
        ge=0.1,
        le=1,
        description="Minimum score of a mask: confidence for text and boxes, predicted IoU for "
        "points and without a prompt.",
    )
    points_per_side: int = Field(
        default=32,
        ge=0,
        le=128,
        description="Without a prompt: points per side of the grid that covers the image; at least "
        "1.",
    )
    pred_iou_thresh: float = Field(
        default=0.88,
        ge=0.5,
        le=1,
        description="Without a prompt: minimum predicted IoU of a mask.",
    )
    max_masks: int = Field(
        default=0,
        ge=0,
        le=100,
        description="Maximum number of masks, highest scores first; 0 for no limit.",
    )

    _blank_is_absent = field_validator("text_prompt")(_not_blank)

    @field_validator("boxes_input")
    @classmethod
    def _have_size(cls, boxes: list[list[float]]) -> list[list[float]]:
        for x0, y0, x1, y1 in boxes:
            if x1 <= x0 or y1 <= y0:
                raise PydanticCustomError(
                    "box_size",
                    "A box is empty; send [x0, y0, x1, y1] with x1 greater than x0, and y1 greater "
                    "than y0",
                )
        return boxes

    @model_validator(mode="after")
    def _is_consistent(self, info: ValidationInfo) -> Sam3ImageRequest:
        check_shapes(len(self.points_input) + len(self.boxes_input), info)
        if not (self.return_preview or self.return_overlay or self.return_masks):
            raise PydanticCustomError(
                "no_output",
                "No output requested; set return_preview, return_overlay or return_masks to true",
            )
        labels, points = len(self.point_labels_input), len(self.points_input)
        if not points and self.point_labels_input not in ([], [1]):
            raise PydanticCustomError(
                "point_labels",
                "point_labels_input requires points; send points_input, or omit point_labels_input",
            )
        if labels not in (0, 1, points) and points:
            raise PydanticCustomError(
                "point_labels",
                "point_labels_input has {labels} labels for {points} points; send one label per "
                "point, or a single label for all",
                {"labels": labels, "points": points},
            )
        if points and not any(self.labels):
            raise PydanticCustomError(
                "point_labels",
                "All points are negative; send at least one point on the object, with label 1 in "
                "point_labels_input",
            )
        if self.is_automatic and not self.points_per_side:
            raise PydanticCustomError(
                "no_prompt",
                "points_per_side is 0, and there is no prompt; send text_prompt, boxes_input, "
                "points_input, or points_per_side of at least 1",
            )
        return self

    @property
    def labels(self) -> list[int]:
        """One label per point: 1 on the object, 0 outside it."""
        given: list[int] = list(self.point_labels_input or [1])
        return given * len(self.points_input) if len(given) == 1 else given

    @property
    def is_automatic(self) -> bool:
        """Whether the request has no prompt."""
        return self.text_prompt is None and not self.boxes_input and not self.points_input


class SamV2ImageRequest(SegmindRequest):
    """Segment by text, or segment one object by points."""

    model_config = examples(
        {"image": EXAMPLE_SCENE, "prompt": "red circle", "overlay_mask": True, "base64": False},
        {
            "image": EXAMPLE_SCENE,
            "coordinates": "[[118, 96], [112, 90]]",
            "remove_coordinates": "[73, 83]",
        },
    )

    prompt: PromptText | None = Field(
        default=None,
        description="What to find: a short noun phrase. Optional if `coordinates` are sent.",
    )
    coordinates: PointList = Field(
        default_factory=list,
        description="Points on one object: `[x, y]` or `[[x, y], …]` in pixels, as a list or a "
        "JSON string. Ignored if `prompt` is sent.",
    )
    remove_coordinates: PointList = Field(
        default_factory=list,
        description="Points outside the object, in the same form. With `prompt`, objects that "
        "contain one of them are removed.",
    )
    overlay_mask: bool = Field(
        default=True,
        description="Return the input image with the mask drawn over it; otherwise the mask, white "
        "on black.",
    )
    base64: bool = Field(
        default=False, description="Return the image as a base64 JSON string instead of a file."
    )

    _blank_is_absent = field_validator("prompt")(_not_blank)

    @model_validator(mode="after")
    def _has_prompt(self, info: ValidationInfo) -> SamV2ImageRequest:
        check_shapes(len(self.coordinates) + len(self.remove_coordinates), info)
        if self.prompt is None and not self.coordinates:
            raise PydanticCustomError(
                "no_prompt",
                "No prompt; send prompt, or coordinates of points on the object, such as [834, 74]",
            )
        return self


class SegmindImages(WireModel):
    """Several images, each a base64-encoded PNG. Images that were not requested are absent."""

    model_config = examples({"preview": "iVBORw0KGgo=", "masks": ["iVBORw0KGgo="]})

    preview: str | None = Field(default=None, description="All masks, white on black.")
    overlay: str | None = Field(
        default=None, description="The input image with the masks drawn over it."
    )
    masks: list[str] | None = Field(
        default=None, description="Each mask, highest score first; empty if none was found."
    )


class Base64Image(RootModel[str]):
    """A base64-encoded PNG."""


class SegmindFailure(WireModel):
    """What went wrong, and how to fix it."""

    model_config = examples(
        {"error": "threshold: Input should be less than or equal to 1", "code": "validation"}
    )

    error: str = Field(description="Human-readable error message.")
    code: str | None = Field(default=None, description=CODE)
