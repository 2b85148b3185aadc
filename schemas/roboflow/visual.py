"""Visual segmentation: select one object by a box, by clicks, or by both."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field, RootModel
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from schemas.common import InputModel, WireModel, at_most, examples, few_shapes
from schemas.geometry import CenterBox, Point
from schemas.roboflow.image import EXAMPLE_IMAGE, ImageRequest, Sam2Version
from schemas.roboflow.prediction import EXAMPLE_PREDICTION, SegmentationPrediction


class Sam2Prompt(InputModel):
    """One object: a box around it, clicks on it, or both."""

    model_config = examples(
        {"points": [{"x": 320, "y": 540, "positive": True}]},
        {"box": {"x": 345.5, "y": 586, "width": 555, "height": 678}},
    )

    box: CenterBox | None = Field(default=None, description="A box around the object.")
    points: Annotated[list[Point], FailFast(), at_most("max_points", "points in a prompt")] = Field(
        default_factory=list, description="Clicks on the object, and beside it."
    )


class Sam2PromptSet(InputModel):
    """Prompts, wrapped in an object."""

    model_config = examples({"prompts": [{"points": [{"x": 320, "y": 540, "positive": True}]}]})

    prompts: list[Sam2Prompt] = Field(
        default_factory=list, description="One prompt for each object."
    )


class Sam2PromptList(RootModel[list[Sam2Prompt]]):
    """Prompts, one for each object."""


def _prompt_list(value: Any) -> Any:
    """Folds the forms that visual prompts come in into a list of at least one prompt."""
    if isinstance(value, dict):
        value = [value] if value.get("prompts") is None else value["prompts"]
    if not isinstance(value, list):
        raise PydanticCustomError(
            "prompts_form",
            "prompts is a list of prompts, one prompt, or an object with such a list as prompts",
        )
    return value or [{}]


Sam2Prompts = TypeAliasType(
    "Sam2Prompts",
    Annotated[
        list[Sam2Prompt],
        BeforeValidator(few_shapes),
        at_most("max_visual_prompts", "prompts in a visual request"),
        BeforeValidator(
            _prompt_list, json_schema_input_type=Sam2PromptSet | Sam2PromptList | Sam2Prompt | None
        ),
        Field(description="Prompts: wrapped in an object, as a list, a single one, or none."),
    ],
)

VisualFormat = TypeAliasType(
    "VisualFormat",
    Annotated[
        Literal["json", "polygon", "rle", "binary"],
        Field(
            description="`json` (`polygon` means the same), `rle`, or `binary`: a compressed "
            "`.npz` file with the arrays `masks` and `low_res_masks`."
        ),
    ],
)


class Sam2SegmentationRequest(ImageRequest):
    """Segment one object for each prompt."""

    model_config = examples(
        {
            "image": EXAMPLE_IMAGE,
            "prompts": {"prompts": [{"points": [{"x": 320, "y": 540, "positive": True}]}]},
        },
        {
            "image_id": "dog-1",
            "prompts": [
                {
                    "box": {"x": 345.5, "y": 586, "width": 555, "height": 678},
                    "points": [{"x": 80, "y": 260, "positive": False}],
                }
            ],
            "format": "rle",
            "sam2_version_id": "hiera_tiny",
        },
    )

    prompts: Sam2Prompts = Field(
        default_factory=lambda: [Sam2Prompt()],
        description="One prompt for each object: wrapped in an object, as a list, or a single one. "
        "Without prompts the answer is what the model finds most likely by itself.",
    )
    format: VisualFormat = Field(default="json", description="The form of the masks in the answer.")
    sam2_version_id: Sam2Version = Field(
        default="hiera_large", description="The size of SAM 2 to use."
    )
    multimask_output: bool = Field(
        default=True,
        description="Whether the model considers three masks for each prompt, which helps where "
        "a prompt is ambiguous. The answer holds the best one either way.",
    )
    save_logits_to_cache: bool = Field(
        default=False, description="Whether to keep the low-resolution logits for later clicks."
    )
    load_logits_from_cache: bool = Field(
        default=False,
        description="Whether to start from the logits kept for an earlier prompt on the same "
        "image: one with the same box whose points are among these.",
    )

    @property
    def mask_format(self) -> Literal["polygon", "rle", "binary"]:
        """`format` without its alias."""
        return "polygon" if self.format == "json" else self.format


class Sam2PromptResult(WireModel):
    """The object that one prompt selects."""

    prompt_index: int = Field(description="The position of the prompt in the request, from 0.")
    predictions: list[SegmentationPrediction] = Field(
        description="The mask; empty when the prompt selects nothing."
    )


class Sam2SegmentationResponse(WireModel):
    """The selected objects: by prompt, and all in one list."""

    model_config = examples(
        {
            "prompt_results": [{"prompt_index": 0, "predictions": [EXAMPLE_PREDICTION]}],
            "predictions": [EXAMPLE_PREDICTION],
            "time": 0.087,
        }
    )

    prompt_results: list[Sam2PromptResult] = Field(
        description="One result for each prompt, in their order."
    )
    predictions: list[SegmentationPrediction] = Field(
        description="The same predictions in one list."
    )
    time: float = Field(description="Seconds that it took.")
