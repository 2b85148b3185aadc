"""X-AnyLabeling's remote server: an image and words or marks in, shapes out."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import FailFast, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from schemas.common import (
    Coordinate,
    Fraction,
    Identifier,
    InputModel,
    Limits,
    WireModel,
    at_most,
    check_count,
    examples,
)
from schemas.example_scene import EXAMPLE_SCENE

CONCEPTS, VISUAL = "segment_anything_3", "segment_anything_2"
"""Ids of the models for words and exemplars, and for clicks and boxes; those of the vendor."""

_LENGTHS = {"point": 2, "rectangle": 4}


class XAnyLabelingMark(InputModel):
    """A point or a rectangle that the user drew."""

    type: Literal["point", "rectangle", "auto_grid"] = Field(
        description="What was drawn. `auto_grid` is refused: it belongs to models that run in the "
        "program."
    )
    data: Annotated[list[Coordinate], Field(max_length=4)] = Field(
        default_factory=list,
        description="`[x, y]`, or `[x1, y1, x2, y2]` of opposite corners in any order; in pixels.",
    )
    label: Literal[0, 1] = Field(
        default=1, description="1 for positive, 0 for negative. Models differ in its meaning."
    )

    @model_validator(mode="after")
    def _has_its_numbers(self) -> Self:
        length = _LENGTHS.get(self.type)
        if length is None:
            raise PydanticCustomError(
                "auto_grid", "Segmenting everything is not supported; send points or rectangles"
            )
        if len(self.data) != length:
            raise PydanticCustomError(
                "mark",
                "A {type} has {length} numbers in data, got {count}",
                {"type": self.type, "length": length, "count": len(self.data)},
            )
        if self.type == "rectangle" and (
            self.data[0] == self.data[2] or self.data[1] == self.data[3]
        ):
            raise PydanticCustomError("box_size", "The rectangle is empty; send opposite corners")
        return self

    @property
    def corners(self) -> list[float]:
        """A rectangle as `[x0, y0, x1, y1]` with `x0 < x1` and `y0 < y1`."""
        x, y = sorted(self.data[::2]), sorted(self.data[1::2])
        return [x[0], y[0], x[1], y[1]]


class XAnyLabelingParams(InputModel):
    """Prompts and options. Without words and marks, nothing is found."""

    conf_threshold: Fraction = Field(
        default=0.0,
        description="Minimum confidence of objects that words or exemplars find. 0 stands for the "
        "default, 0.25: the program sends it if the model has no such control.",
    )
    iou_threshold: Fraction = Field(
        default=0.0,
        description="Remove an object that overlaps a more confident one by more than this IoU. 0 "
        "keeps all.",
    )
    epsilon_factor: Fraction = Field(
        default=0.001,
        description="How far a polygon may deviate from the mask's outline, as a part of the "
        "outline's length.",
    )
    text_prompt: str = Field(
        default="",
        description="Concepts, separated by commas or, without a comma, by full stops.",
    )
    marks: Annotated[list[XAnyLabelingMark], FailFast(), at_most("max_shapes", "marks")] = Field(
        default_factory=list,
        description="Points and rectangles. `segment_anything_2` segments the object at the points "
        "or in each rectangle; for `segment_anything_3`, rectangles are exemplars.",
    )

    @field_validator("text_prompt")
    @classmethod
    def _limit_text(cls, text: str, info: ValidationInfo) -> str:
        """Limit the whole text before it is divided."""
        limits = Limits.of(info)
        most = limits.max_prompts * (limits.max_text_length + 2)
        if len(text) > most:
            raise PydanticCustomError(
                "string_too_long",
                "The concepts together have at most {most} characters, got {count}; send fewer, "
                "or raise INFERENCE_MAX_PROMPTS on the server",
                {"most": most, "count": len(text)},
            )
        return text

    @model_validator(mode="after")
    def _limit(self, info: ValidationInfo) -> Self:
        longest = max(map(len, self.concepts), default=0)
        for count, limit, noun in (
            (len(self.concepts), "max_prompts", "concepts"),
            (longest, "max_text_length", "characters of a concept"),
            (len(self.of_type("point")), "max_points", "points"),
            (len(self.of_type("rectangle")), "max_boxes", "rectangles"),
        ):
            check_count(count, limit, noun, info)
        return self

    @property
    def concepts(self) -> list[str]:
        """The concepts in their order, without duplicates."""
        separator = "," if "," in self.text_prompt else "."
        parts = (part.strip() for part in self.text_prompt.split(separator))
        return list(dict.fromkeys(part for part in parts if part))

    def of_type(self, kind: str) -> list[XAnyLabelingMark]:
        """Return the marks of a type, `point` or `rectangle`."""
        return [mark for mark in self.marks if mark.type == kind]


class XAnyLabelingRequest(InputModel):
    """An image, the id of a model, and prompts."""

    model_config = examples(
        {
            "model": CONCEPTS,
            "image": EXAMPLE_SCENE,
            "params": {"text_prompt": "red circle, black square", "conf_threshold": 0.25},
        },
        {
            "model": VISUAL,
            "image": EXAMPLE_SCENE,
            "params": {"marks": [{"type": "point", "data": [118, 96], "label": 1}]},
        },
    )

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="API key. It can also be sent in a header, such as `Token`, or the query "
        "string.",
    )
    model: Identifier = Field(description="Id of a model, as `GET /x-anylabeling/v1/models` lists.")
    image: Annotated[str, Field(min_length=1)] = Field(
        repr=False, description="The image file as a data URL or in base64; its type is detected."
    )
    params: XAnyLabelingParams = Field(
        default_factory=XAnyLabelingParams, description="Prompts and options."
    )


class XAnyLabelingShape(WireModel):
    """A polygon around a part of an object."""

    label: str = Field(
        description="The concept, or `AUTOLABEL_OBJECT` for marks: the program then asks for a "
        "name, and replaces the shape at the next click."
    )
    shape_type: Literal["polygon"] = Field(description="Always `polygon`.")
    points: list[Annotated[list[float], Field(min_length=2, max_length=2)]] = Field(
        description="`[x, y]` in pixels, at least three; holes are not kept."
    )
    score: float = Field(description="Confidence, or predicted IoU for marks; 0 to 1.")
    group_id: int | None = Field(
        default=None,
        description="The same number, greater than 0, for all parts of an object; absent if it has "
        "one part.",
    )


class XAnyLabelingResult(WireModel):
    """The shapes found, and what becomes of those on the image."""

    shapes: list[XAnyLabelingShape] = Field(description="The shapes; empty if nothing was found.")
    description: str = Field(description="Always empty: the program would save it with the image.")
    replace: bool | None = Field(
        default=None,
        description="False adds the shapes to those on the image. Absent, which is the case for "
        "words that were found, leaves the choice to the program's own switch.",
    )


class XAnyLabelingResponse(WireModel):
    """A result."""

    success: Literal[True] = Field(description="Always true.")
    data: XAnyLabelingResult = Field(description="The result.")


XAnyLabelingNumber = TypeAliasType(
    "XAnyLabelingNumber", Annotated[float, Field(description="Value of a number or a slider.")]
)
XAnyLabelingSwitch = TypeAliasType(
    "XAnyLabelingSwitch", Annotated[bool, Field(description="Value of a switch.")]
)
XAnyLabelingValue = TypeAliasType(
    "XAnyLabelingValue",
    Annotated[XAnyLabelingNumber | XAnyLabelingSwitch, Field(description="Initial value.")],
)


class XAnyLabelingWidget(WireModel):
    """A control that the program shows while a model is selected."""

    name: str = Field(description="Its name in the program.")
    value: XAnyLabelingValue | None = Field(default=None, description="Its initial value.")
    placeholder: str | None = Field(default=None, description="Hint in an empty text field.")


class XAnyLabelingModel(WireModel):
    """A model, and the controls for it."""

    display_name: str = Field(description="Name in the program's menu.")
    widgets: list[XAnyLabelingWidget] = Field(description="The controls.")
    params: dict[str, Any] = Field(description="Always empty.")
    capabilities: dict[str, Any] = Field(description="Always empty.")
    batch_processing_mode: Literal["text_prompt"] | None = Field(
        description="`text_prompt` if the program may run all images, and asks once for the words; "
        "null if it cannot."
    )


class XAnyLabelingModelDetails(XAnyLabelingModel):
    """A model with its id."""

    model_id: str = Field(description="Id of the model.")


class XAnyLabelingModels(WireModel):
    """The models."""

    success: Literal[True] = Field(description="Always true.")
    data: dict[str, XAnyLabelingModel] = Field(description="Models by id, in the menu's order.")


class XAnyLabelingModelInfo(WireModel):
    """One model."""

    success: Literal[True] = Field(description="Always true.")
    data: XAnyLabelingModelDetails = Field(description="The model.")


class XAnyLabelingErrorDetail(WireModel):
    """What went wrong, and how to fix it."""

    code: str = Field(
        description="Stable code: `UNAUTHORIZED`, `MODEL_NOT_FOUND`, `INVALID_IMAGE`, "
        "`INFERENCE_ERROR`, or one for another cause."
    )
    message: str = Field(description="Human-readable error message.")


class XAnyLabelingError(WireModel):
    """A failure. The program shows the status only."""

    model_config = examples(
        {
            "success": False,
            "error": {"code": "MODEL_NOT_FOUND", "message": "Unknown model `sam`."},
        }
    )

    success: Literal[False] = Field(description="Always false.")
    error: XAnyLabelingErrorDetail = Field(description="The cause.")
