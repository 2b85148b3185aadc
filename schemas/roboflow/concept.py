"""Concept segmentation (SAM 3): find every instance of a concept, given by text or exemplars."""

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
    check_prompt_shapes,
    examples,
)
from schemas.geometry import BoxLabel, ConceptBox
from schemas.roboflow.image import EXAMPLE_IMAGE, ImageFields, ImageForm, ImageRequest
from schemas.roboflow.prediction import (
    EXAMPLE_PREDICTION,
    PredictionOptions,
    SegmentationPrediction,
)
from schemas.roboflow.windows import WindowOptions


class Sam3Prompt(InputModel):
    """A concept, given by text, exemplar boxes, or both."""

    model_config = examples(
        {"type": "text", "text": "red circle"},
        {
            "type": "visual",
            "boxes": [{"x": 56, "y": 66, "width": 34, "height": 35}],
            "box_labels": [1],
        },
    )

    type: Literal["text", "visual"] | None = Field(
        default=None,
        description="Type of the prompt; inferred if absent. A `visual` prompt needs at least one "
        "box.",
    )
    text: Annotated[str, at_most("max_text_length", "characters of text")] | None = Field(
        default=None, description="What to find: a short noun phrase, such as `red car`."
    )
    boxes: Annotated[list[ConceptBox], FailFast(), at_most("max_boxes", "boxes in a prompt")] = (
        Field(default_factory=list, description="Boxes around exemplars of the concept.")
    )
    box_labels: Annotated[
        list[BoxLabel], FailFast(), at_most("max_boxes", "box labels in a prompt")
    ] = Field(
        default_factory=list,
        description="One label per box: positive exemplar (1, true) or negative exemplar "
        "(0, false). Without it, all boxes are positive.",
    )
    output_prob_thresh: Fraction | None = Field(
        default=None,
        description="Minimum score of this prompt's predictions; overrides the request's.",
    )

    @field_validator("text")
    @classmethod
    def _blank_is_absent(cls, text: str | None) -> str | None:
        return text if text and text.strip() else None

    @field_validator("box_labels")
    @classmethod
    def _one_label_per_box(cls, labels: list[bool], info: ValidationInfo) -> list[bool]:
        if "boxes" not in info.data:
            return labels
        boxes = len(info.data["boxes"])
        if len(labels) != boxes:
            raise PydanticCustomError(
                "box_labels",
                "box_labels has {labels} entries for {boxes} boxes; send one label per box",
                {"labels": len(labels), "boxes": boxes},
            )
        return labels

    @model_validator(mode="after")
    def _is_not_empty(self) -> Sam3Prompt:
        if self.type == "visual" and not self.boxes:
            raise PydanticCustomError(
                "prompt_boxes", "A visual prompt needs boxes; send at least one"
            )
        if self.text is None and not self.boxes:
            raise PydanticCustomError(
                "prompt_empty", "The prompt is empty; send text or at least one box"
            )
        return self

    @property
    def kind(self) -> Literal["text", "visual"]:
        """The given type; without one, `text` if the prompt has text, else `visual`."""
        return self.type or ("text" if self.text is not None else "visual")

    @property
    def labels(self) -> list[bool]:
        """One flag per box: True for a positive exemplar."""
        return self.box_labels or [True] * len(self.boxes)


ConceptFormat = TypeAliasType(
    "ConceptFormat",
    Annotated[
        Literal["polygon", "json", "rle"],
        Field(description="`polygon` (alias: `json`) or `rle`."),
    ],
)


class Sam3SegmentationFields(WindowOptions, PredictionOptions, ImageFields):
    """Fields of a request that finds all instances of each concept, without the image."""

    prompts: Annotated[
        list[Sam3Prompt],
        Field(min_length=1),
        BeforeValidator(check_prompt_shapes),
        at_most("max_prompts", "prompts in a concept request"),
    ] = Field(description="Concepts to find; at most 16 by default (`INFERENCE_MAX_PROMPTS`).")
    format: ConceptFormat = Field(
        default="polygon", description="Format of the masks in the response."
    )
    output_prob_thresh: Fraction = Field(
        default=0.5, description="Minimum score of a prediction; 0 keeps all."
    )
    model_id: Identifier = Field(
        default="sam3/sam3_final", description="SAM 3 model to use; the default is the base model."
    )
    nms_iou_threshold: Fraction | None = Field(
        default=None,
        description="Non-maximum suppression across all prompts: of two masks with an IoU above "
        "this value, only the one with the higher score is kept. Without it, all masks are kept.",
    )

    @property
    def mask_format(self) -> Literal["polygon", "rle"]:
        """`format` with the alias `json` resolved."""
        return "rle" if self.format == "rle" else "polygon"

    @property
    def thresholds(self) -> list[float]:
        """One minimum score per prompt: its own, or the request's."""
        return [
            self.output_prob_thresh if p.output_prob_thresh is None else p.output_prob_thresh
            for p in self.prompts
        ]


class Sam3SegmentationRequest(Sam3SegmentationFields, ImageRequest):
    """Find all instances of each concept."""

    model_config = examples(
        {
            "image": EXAMPLE_IMAGE,
            "prompts": [
                {"type": "text", "text": "red circle"},
                {"type": "text", "text": "black square", "output_prob_thresh": 0.3},
            ],
            "format": "polygon",
            "output_prob_thresh": 0.5,
            "nms_iou_threshold": 0.9,
        },
        {
            "image": EXAMPLE_IMAGE,
            "image_id": "scene",
            "prompts": [
                {
                    "type": "visual",
                    "boxes": [
                        {"x": 56, "y": 66, "width": 34, "height": 35},
                        {"x0": 21, "y0": 80, "x1": 45, "y1": 104},
                    ],
                    "box_labels": [1, 1],
                }
            ],
            "format": "rle",
        },
    )


class Sam3SegmentationForm(ImageForm):
    """Find all instances; `request` has the fields of `Sam3SegmentationRequest` but `image`."""

    request: Sam3SegmentationFields = Field(description="All other fields, as JSON.")


class Sam3PromptEcho(WireModel):
    """Summary of the prompt that a result belongs to."""

    prompt_index: int = Field(description="Zero-based position of the prompt in the request.")
    type: Literal["text", "visual"] = Field(description="Type of the prompt, given or inferred.")
    text: str | None = Field(default=None, description="Text of the prompt; absent without text.")
    num_boxes: int = Field(description="Number of boxes in the prompt.")


class Sam3PromptResult(WireModel):
    """Instances found for one concept."""

    prompt_index: int = Field(description="Zero-based position of the prompt in the request.")
    echo: Sam3PromptEcho = Field(description="Summary of the prompt.")
    predictions: list[SegmentationPrediction] = Field(
        description="One entry per instance, highest score first; empty if none was found."
    )


class Sam3SegmentationResponse(WireModel):
    """Instances of each concept, one result per prompt."""

    model_config = examples(
        {
            "prompt_results": [
                {
                    "prompt_index": 0,
                    "echo": {
                        "prompt_index": 0,
                        "type": "text",
                        "text": "black square",
                        "num_boxes": 0,
                    },
                    "predictions": [EXAMPLE_PREDICTION],
                }
            ],
            "time": 0.342,
        }
    )

    prompt_results: list[Sam3PromptResult] = Field(
        description="One result per prompt, in request order."
    )
    time: float = Field(description="Processing time in seconds.")
