"""The API of the SAM 3 Hugging Face Space: text, points and boxes in, masks as PNGs out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    FailFast,
    Field,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from schemas.common import (
    CODE,
    Coordinate,
    Fraction,
    InputModel,
    WireModel,
    at_most,
    check_shapes,
    examples,
)
from schemas.example_scene import EXAMPLE_SCENE
from schemas.geometry import Polygon

MAX_EPSILON = 1000.0
_EXAMPLE_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAAAAACMmsGiAAAAOUlEQVR4AWIAAgAAAAD//2IAAAAA//9iYPj/n4GB"
    "4f9/BgAAAAD//2IAAgAAAAD//2IAAAAA//8DACfsA/1Kx9sCAAAAAElFTkSuQmCC"
)


def _has_size(box: list[float]) -> list[float]:
    x1, y1, x2, y2 = box
    if x2 <= x1 or y2 <= y1:
        raise PydanticCustomError(
            "box_size", "The box is empty; send [x1, y1, x2, y2] with x2 > x1 and y2 > y1"
        )
    return box


SpaceImage = TypeAliasType(
    "SpaceImage",
    Annotated[
        str,
        Field(
            min_length=1,
            description="The base64-encoded image file, with or without a `data:image/…;base64,` "
            "prefix, or an `http://` or `https://` URL.",
        ),
    ],
)

SpaceText = TypeAliasType(
    "SpaceText",
    Annotated[
        str,
        Field(min_length=1, description="A concept as a short noun phrase, such as `kitten`."),
        at_most("max_text_length", "characters of text"),
    ],
)

SpaceBox = TypeAliasType(
    "SpaceBox",
    Annotated[
        list[Coordinate],
        Field(min_length=4, max_length=4, description="`[x1, y1, x2, y2]` in pixels."),
        AfterValidator(_has_size),
    ],
)

SpacePoint = TypeAliasType(
    "SpacePoint",
    Annotated[
        list[Coordinate], Field(min_length=2, max_length=2, description="`[x, y]` in pixels.")
    ],
)

SpaceLabel = TypeAliasType(
    "SpaceLabel", Annotated[Literal[0, 1], Field(description="1 for positive, 0 for negative.")]
)


class SpaceInputs(InputModel):
    """An image and prompts. At least one of `text_prompts`, `boxes` and `points` is required."""

    image: SpaceImage = Field(repr=False, description="The image.")
    text_prompts: Annotated[list[SpaceText], at_most("max_prompts", "text prompts")] = Field(
        default_factory=list,
        description="Concepts. All instances of each one are found.",
    )
    points: Annotated[list[SpacePoint], FailFast(), at_most("max_points", "points")] = Field(
        default_factory=list,
        description="Points. Those inside a positive box refine the object in that box; all others "
        "together select one more object. Negative points alone select nothing.",
    )
    point_labels: Annotated[list[SpaceLabel], FailFast(), at_most("max_points", "point labels")] = (
        Field(
            default_factory=list,
            description="One label per point: 1 on the object, 0 outside it.",
        )
    )
    boxes: Annotated[list[SpaceBox], FailFast(), at_most("max_visual_prompts", "boxes")] = Field(
        default_factory=list,
        description="A positive box selects one object. The area of a negative box is removed from "
        "all masks, including those of text prompts.",
    )
    box_labels: Annotated[
        list[SpaceLabel], FailFast(), at_most("max_visual_prompts", "box labels")
    ] = Field(
        default_factory=list,
        description="One label per box: 1 for positive, 0 for negative.",
    )
    multimask_output: bool = Field(
        default=False,
        description="Return three masks of different extent per object selected by boxes or "
        "points.",
    )
    confidence_threshold: Fraction = Field(default=0.5, description="Minimum score of a mask.")
    vectorize: bool = Field(default=False, description="Return polygons in addition to the masks.")
    simplify_epsilon: Annotated[float, Field(ge=0, le=MAX_EPSILON)] = Field(
        default=2.0, description="Maximum deviation of a polygon from the outline, in pixels."
    )

    @model_validator(mode="after")
    def _limit_shapes(self, info: ValidationInfo) -> SpaceInputs:
        check_shapes(len(self.points) + len(self.boxes), info)
        return self


class SpaceRequest(InputModel):
    """A request to the Space's SAM 2 compatible API."""

    model_config = examples(
        {
            "inputs": {
                "image": EXAMPLE_SCENE,
                "text_prompts": ["red circle", "cross"],
                "confidence_threshold": 0.5,
            }
        },
        {
            "inputs": {
                "image": EXAMPLE_SCENE,
                "boxes": [[56, 66, 90, 101], [21, 80, 45, 104]],
                "box_labels": [1, 0],
                "points": [[118, 96]],
                "point_labels": [1],
                "vectorize": True,
                "simplify_epsilon": 2.0,
            }
        },
    )

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="API key. It can also be sent in a header or the query string.",
    )
    inputs: SpaceInputs = Field(description="Image and prompts.")


SpaceArgumentText = TypeAliasType(
    "SpaceArgumentText", Annotated[str, Field(description="The image or the concept.")]
)
SpaceArgumentNumber = TypeAliasType(
    "SpaceArgumentNumber", Annotated[float, Field(description="Minimum score of a mask.")]
)
SpaceArgument = TypeAliasType(
    "SpaceArgument",
    Annotated[
        SpaceArgumentText | SpaceArgumentNumber,
        Field(description="One of `[image, text, threshold]`."),
    ],
)
_Arguments = Annotated[
    list[SpaceArgument],
    Field(min_length=2, max_length=3, description="`[image, text, threshold]`."),
]


def _complete(value: Any) -> Any:
    """Append the default threshold if it is absent or null."""
    if not isinstance(value, list) or not 2 <= len(value) <= 3:
        raise PydanticCustomError(
            "predict_data",
            "Input should be a list: the image, the text and optionally the threshold",
        )
    threshold = value[2] if len(value) == 3 else None
    return [*value[:2], 0.5 if threshold is None else threshold]


class SpacePredictRequest(InputModel):
    """A text prompt in Gradio's request format."""

    model_config = examples({"data": [EXAMPLE_SCENE, "red circle", 0.5]})

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="API key. It can also be sent in a header or the query string.",
    )
    data: Annotated[
        tuple[SpaceImage, SpaceText, Fraction],
        BeforeValidator(_complete, json_schema_input_type=_Arguments),
    ] = Field(
        repr=False,
        description="Image, concept and minimum score of a mask (optional, default 0.5), in this "
        "order.",
    )


PromptType = TypeAliasType(
    "PromptType",
    Annotated[
        Literal["text", "visual"],
        Field(description="`text` for text prompts, `visual` for points and boxes."),
    ],
)


class SpaceResponse(WireModel):
    """The segmented objects; the lists are empty if none was found."""

    model_config = examples(
        {
            "masks": [_EXAMPLE_PNG],
            "scores": [0.95],
            "num_objects": 1,
            "sam_version": "3.0",
            "prompt_types": ["text"],
            "success": True,
            "polygons": [[[1, 1], [1, 2], [2, 2], [2, 1]]],
            "polygon_format": "pixel_coordinates",
            "original_image_size": [4, 4],
        }
    )

    masks: list[str] = Field(
        description="One base64-encoded PNG per mask: single channel, image size, 255 on the "
        "object and 0 elsewhere. Masks of text prompts come first, in request order, then masks of "
        "boxes, then masks of points."
    )
    scores: list[float] = Field(
        description="One score per mask: confidence for text, predicted IoU for points and boxes."
    )
    num_objects: int = Field(description="Number of masks.")
    sam_version: str = Field(description="Always `3.0`.")
    prompt_types: list[PromptType] = Field(description="Types of the prompts in the request.")
    success: bool = Field(description="Always true.")
    polygons: list[Polygon] | None = Field(
        default=None,
        description="With `vectorize`, one polygon per mask: the outline of its largest part.",
    )
    polygon_format: Literal["pixel_coordinates"] | None = Field(
        default=None, description="With `vectorize`: unit of `polygons`."
    )
    original_image_size: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="With `vectorize`: `[width, height]` of the image, in pixels."
    )


class SpaceError(WireModel):
    """What went wrong, and how to fix it."""

    model_config = examples(
        {
            "success": False,
            "error": "box_labels must be provided when boxes are specified",
            "code": "validation",
            "masks": [],
            "scores": [],
            "num_objects": 0,
        }
    )

    success: bool = Field(description="Always false.")
    error: str = Field(description="Human-readable error message.")
    code: str | None = Field(default=None, description=CODE)
    masks: list[str] = Field(description="Always empty.")
    scores: list[float] = Field(description="Always empty.")
    num_objects: int = Field(description="Always 0.")


class SpacePredictResponse(WireModel):
    """The segmented objects in Gradio's response format."""

    data: Annotated[list[SpaceResponse], Field(min_length=1, max_length=1)] = Field(
        description="A list with one entry: the segmented objects."
    )
    is_generating: bool = Field(description="Always false: the response is complete.")
    duration: float = Field(description="Processing time in seconds.")
    average_duration: float = Field(
        description="Average processing time of such requests, in seconds."
    )
