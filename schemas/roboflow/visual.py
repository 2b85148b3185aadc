"""Visual segmentation (SAM 2): segment one object per prompt, given by a box, points, or both."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field, RootModel
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from schemas.common import InputModel, WireModel, at_most, check_prompt_shapes, examples
from schemas.geometry import CenterBox, Point
from schemas.roboflow.image import (
    EXAMPLE_IMAGE,
    ImageFields,
    ImageForm,
    ImageRequest,
    Sam2Version,
)
from schemas.roboflow.prediction import (
    EXAMPLE_PREDICTION,
    PredictionOptions,
    SegmentationPrediction,
)


class Sam2Prompt(InputModel):
    """One object, given by a box, points, or both."""

    model_config = examples(
        {"points": [{"x": 73, "y": 83, "positive": True}]},
        {"box": {"x": 118, "y": 96, "width": 34, "height": 36}},
    )

    box: CenterBox | None = Field(default=None, description="Box around the object.")
    points: Annotated[list[Point], FailFast(), at_most("max_points", "points in a prompt")] = Field(
        default_factory=list,
        description="Positive points on the object and negative points outside it.",
    )


class Sam2PromptSet(InputModel):
    """A list of prompts, wrapped in an object."""

    model_config = examples({"prompts": [{"points": [{"x": 73, "y": 83, "positive": True}]}]})

    prompts: list[Sam2Prompt] = Field(default_factory=list, description="One prompt per object.")


class Sam2PromptList(RootModel[list[Sam2Prompt]]):
    """A list of prompts, one per object."""


def _prompt_list(value: Any) -> Any:
    """Convert all accepted forms of visual prompts to a list of at least one prompt."""
    if isinstance(value, dict):
        value = [value] if value.get("prompts") is None else value["prompts"]
    if not isinstance(value, list):
        raise PydanticCustomError(
            "prompts_form",
            "Input should be a list of prompts, one prompt, or an object with the list in prompts",
        )
    return value or [{}]


Sam2Prompts = TypeAliasType(
    "Sam2Prompts",
    Annotated[
        list[Sam2Prompt],
        BeforeValidator(check_prompt_shapes),
        at_most("max_visual_prompts", "prompts in a visual request"),
        BeforeValidator(
            _prompt_list, json_schema_input_type=Sam2PromptSet | Sam2PromptList | Sam2Prompt | None
        ),
        Field(
            description="Prompts: a list, a list wrapped in an object, a single prompt, or none."
        ),
    ],
)

VisualFormat = TypeAliasType(
    "VisualFormat",
    Annotated[
        Literal["json", "polygon", "rle", "binary"],
        Field(
            description="`json` (alias: `polygon`), `rle`, or `binary`: a compressed `.npz` file "
            "with the arrays `masks` and `low_res_masks`."
        ),
    ],
)


class VisualSegmentationFields(PredictionOptions, ImageFields):
    """Fields of a request that segments one object per prompt, without the image."""

    prompts: Sam2Prompts = Field(
        default_factory=lambda: [Sam2Prompt()],
        description="One prompt per object, as a list, a list wrapped in an object, or a single "
        "prompt. Without prompts, the model segments the object it considers most likely.",
    )
    format: VisualFormat = Field(default="json", description="Format of the masks in the response.")
    sam2_version_id: Sam2Version | None = Field(
        default=None,
        description="Size of the SAM 2 model to use. Without it, the server chooses the model; the "
        "header `x-model` names it.",
    )
    multimask_output: bool = Field(
        default=True,
        description="Whether the model predicts three candidate masks per prompt, which helps with "
        "ambiguous prompts. The response contains the best one either way.",
    )
    save_logits_to_cache: bool = Field(
        default=False, description="Whether to cache the low-resolution logits for later requests."
    )
    load_logits_from_cache: bool = Field(
        default=False,
        description="Whether to refine the cached logits of an earlier prompt on the same image: "
        "one with the same box and a subset of these points.",
    )

    @property
    def mask_format(self) -> Literal["polygon", "rle", "binary"]:
        """`format` with the alias `json` resolved."""
        return "polygon" if self.format == "json" else self.format


class VisualSegmentationRequest(VisualSegmentationFields, ImageRequest):
    """Segment one object per prompt, with SAM 3 if it has a visual head, or with SAM 2."""

    model_config = examples(
        {
            "image": EXAMPLE_IMAGE,
            "prompts": {"prompts": [{"points": [{"x": 73, "y": 83, "positive": True}]}]},
        },
        {
            "image": EXAMPLE_IMAGE,
            "image_id": "scene",
            "prompts": [
                {
                    "box": {"x": 118, "y": 96, "width": 34, "height": 36},
                    "points": [{"x": 73, "y": 83, "positive": False}],
                }
            ],
            "format": "rle",
            "sam2_version_id": "hiera_tiny",
        },
    )


class VisualSegmentationForm(ImageForm):
    """Segment objects; `request` has the fields of `VisualSegmentationRequest` but `image`."""

    request: VisualSegmentationFields = Field(description="All other fields, as JSON.")


class Sam2SegmentationFields(VisualSegmentationFields):
    """Fields of a request that segments one object per prompt with SAM 2, without the image."""

    sam2_version_id: Sam2Version = Field(
        default="hiera_large", description="Size of the SAM 2 model to use."
    )


class Sam2SegmentationRequest(Sam2SegmentationFields, VisualSegmentationRequest):
    """Segment one object per prompt with SAM 2."""


class Sam2SegmentationForm(ImageForm):
    """Segment with SAM 2; `request` has the fields of `Sam2SegmentationRequest` but `image`."""

    request: Sam2SegmentationFields = Field(description="All other fields, as JSON.")


class Sam2PromptResult(WireModel):
    """The object that one prompt selects."""

    prompt_index: int = Field(description="Zero-based position of the prompt in the request.")
    predictions: list[SegmentationPrediction] = Field(
        description="The mask; empty if the prompt selects nothing."
    )


class Sam2SegmentationResponse(WireModel):
    """The selected objects, grouped by prompt and as one list."""

    model_config = examples(
        {
            "prompt_results": [{"prompt_index": 0, "predictions": [EXAMPLE_PREDICTION]}],
            "predictions": [EXAMPLE_PREDICTION],
            "time": 0.087,
        }
    )

    prompt_results: list[Sam2PromptResult] = Field(
        description="One result per prompt, in request order."
    )
    predictions: list[SegmentationPrediction] = Field(
        description="The predictions of all prompts in one list."
    )
    time: float = Field(description="Processing time in seconds.")
