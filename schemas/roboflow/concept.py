"""Concept segmentation: find every instance of what a text or exemplar boxes describe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    FailFast,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from schemas.common import (
    Fraction,
    Identifier,
    InputModel,
    WireModel,
    at_most,
    examples,
    few_shapes,
)
from schemas.geometry import BoxLabel, ConceptBox
from schemas.roboflow.image import EXAMPLE_IMAGE, ImageRequest
from schemas.roboflow.prediction import EXAMPLE_PREDICTION, SegmentationPrediction


class Sam3Prompt(InputModel):
    """A concept: a text, exemplar boxes, or both."""

    model_config = examples(
        {"type": "text", "text": "dog"},
        {
            "type": "visual",
            "boxes": [{"x": 68, "y": 247, "width": 555, "height": 678}],
            "box_labels": [1],
        },
    )

    type: Literal["text", "visual"] | None = Field(
        default=None,
        description="A hint of what the prompt is about. A `visual` prompt needs at least one box.",
    )
    text: Annotated[str, at_most("max_text_length", "characters of text")] | None = Field(
        default=None, description="What to look for, in a few words."
    )
    boxes: Annotated[list[ConceptBox], FailFast(), at_most("max_boxes", "boxes in a prompt")] = (
        Field(default_factory=list, description="Boxes around exemplars, in pixels.")
    )
    box_labels: Annotated[
        list[BoxLabel], FailFast(), at_most("max_boxes", "box labels in a prompt")
    ] = Field(
        default_factory=list,
        description="For each box whether it shows the concept (1, true) or something to leave "
        "out (0, false). Without it, all boxes show the concept.",
    )
    output_prob_thresh: Fraction | None = Field(
        default=None,
        description="Least score of this prompt's predictions, in place of the request's.",
    )

    @field_validator("text")
    @classmethod
    def _blank_is_absent(cls, text: str | None) -> str | None:
        return text if text and text.strip() else None

    @field_validator("box_labels")
    @classmethod
    def _one_label_a_box(cls, labels: list[bool], info: ValidationInfo) -> list[bool]:
        if "boxes" not in info.data:
            return labels
        boxes = len(info.data["boxes"])
        if len(labels) != boxes:
            raise PydanticCustomError(
                "box_labels",
                "box_labels needs one entry a box: there are {labels} for {boxes}",
                {"labels": len(labels), "boxes": boxes},
            )
        return labels

    @model_validator(mode="after")
    def _asks_for_something(self) -> Sam3Prompt:
        if self.type == "visual" and not self.boxes:
            raise PydanticCustomError("prompt_boxes", "A visual prompt needs at least one box")
        if self.text is None and not self.boxes:
            raise PydanticCustomError("prompt_empty", "A prompt needs a text, or at least one box")
        return self

    @property
    def kind(self) -> Literal["text", "visual"]:
        """The hint, or without one what the prompt holds: a text counts before boxes."""
        return self.type or ("text" if self.text is not None else "visual")

    @property
    def labels(self) -> list[bool]:
        """Whether each box is a positive exemplar."""
        return self.box_labels or [True] * len(self.boxes)


ConceptFormat = TypeAliasType(
    "ConceptFormat",
    Annotated[
        Literal["polygon", "json", "rle"],
        Field(description="`polygon` (`json` means the same) or `rle`."),
    ],
)


class Sam3SegmentationRequest(ImageRequest):
    """Find every instance of each concept."""

    model_config = examples(
        {
            "image": EXAMPLE_IMAGE,
            "prompts": [
                {"type": "text", "text": "person"},
                {"type": "text", "text": "dog", "output_prob_thresh": 0.3},
            ],
            "format": "polygon",
            "output_prob_thresh": 0.5,
            "nms_iou_threshold": 0.9,
        },
        {
            "image_id": "dog-1",
            "prompts": [
                {
                    "type": "visual",
                    "boxes": [
                        {"x": 68, "y": 247, "width": 555, "height": 678},
                        {"x0": 0, "y0": 0, "x1": 60, "y1": 80},
                    ],
                    "box_labels": [1, 0],
                }
            ],
            "format": "rle",
        },
    )

    prompts: Annotated[
        list[Sam3Prompt],
        Field(min_length=1),
        BeforeValidator(few_shapes),
        at_most("max_prompts", "prompts in a concept request"),
    ] = Field(description="The concepts to look for; 16 at most, unless the server says otherwise.")
    format: ConceptFormat = Field(
        default="polygon", description="The form of the masks in the answer."
    )
    output_prob_thresh: Fraction = Field(
        default=0.5, description="Least score of a prediction; 0 keeps all of them."
    )
    model_id: Identifier = Field(
        default="sam3/sam3_final", description="The SAM 3 model; the default is the generic one."
    )
    nms_iou_threshold: Fraction | None = Field(
        default=None,
        description="Of two masks, of any prompts, that overlap more than this (intersection over "
        "union), only the one with the higher score is kept. Without it all are kept.",
    )

    @property
    def mask_format(self) -> Literal["polygon", "rle"]:
        """`format` without its alias."""
        return "rle" if self.format == "rle" else "polygon"

    @property
    def thresholds(self) -> list[float]:
        """The least score for each prompt: its own, or else the request's."""
        return [
            self.output_prob_thresh if p.output_prob_thresh is None else p.output_prob_thresh
            for p in self.prompts
        ]


class Sam3PromptEcho(WireModel):
    """The prompt that a result answers."""

    prompt_index: int = Field(description="The position of the prompt in the request, from 0.")
    type: Literal["text", "visual"] = Field(description="What the prompt was about.")
    text: str | None = Field(default=None, description="The prompt's text, if it had one.")
    num_boxes: int = Field(description="How many boxes the prompt had.")


class Sam3PromptResult(WireModel):
    """What was found for one concept."""

    prompt_index: int = Field(description="The position of the prompt in the request, from 0.")
    echo: Sam3PromptEcho = Field(description="The prompt.")
    predictions: list[SegmentationPrediction] = Field(
        description="One entry for each instance, the best first; empty when there is none."
    )


class Sam3SegmentationResponse(WireModel):
    """What was found, one result for each prompt."""

    model_config = examples(
        {
            "prompt_results": [
                {
                    "prompt_index": 0,
                    "echo": {
                        "prompt_index": 0,
                        "type": "text",
                        "text": "dog",
                        "num_boxes": 0,
                    },
                    "predictions": [EXAMPLE_PREDICTION],
                }
            ],
            "time": 0.342,
        }
    )

    prompt_results: list[Sam3PromptResult] = Field(
        description="One result for each prompt, in their order."
    )
    time: float = Field(description="Seconds that it took.")
