"""The API of the Hugging Face Space: words, points and boxes in; masks as PNGs out."""

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
    Coordinate,
    Fraction,
    InputModel,
    WireModel,
    at_most,
    check_shapes,
    examples,
)
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
            "box_size", "A box is [x1, y1, x2, y2] with x2 greater than x1, and y2 than y1"
        )
    return box


SpaceImage = TypeAliasType(
    "SpaceImage",
    Annotated[
        str,
        Field(
            min_length=1,
            description="The image's file in base64, with or without a `data:image/…;base64,` "
            "prefix; or its address, which begins with `http://` or `https://`.",
        ),
    ],
)

SpaceText = TypeAliasType(
    "SpaceText",
    Annotated[
        str,
        Field(min_length=1, description="A concept in a few words, such as `kitten`."),
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
    "SpaceLabel", Annotated[Literal[0, 1], Field(description="1 is positive, 0 negative.")]
)


class SpaceInputs(InputModel):
    """An image and prompts; at least one of `text_prompts`, `boxes` and `points` is needed."""

    image: SpaceImage = Field(repr=False, description="The image.")
    text_prompts: Annotated[list[SpaceText], at_most("max_prompts", "text prompts")] = Field(
        default_factory=list,
        description="Concepts, each looked for by itself: every instance of it is found.",
    )
    points: Annotated[list[SpacePoint], FailFast(), at_most("max_points", "points")] = Field(
        default_factory=list,
        description="Clicks. Those in a positive box are clicks on its object, and all others "
        "are on one object more. Negative ones alone show no object.",
    )
    point_labels: Annotated[list[SpaceLabel], FailFast(), at_most("max_points", "point labels")] = (
        Field(
            default_factory=list,
            description="One for each point: 1 on the object, 0 beside it.",
        )
    )
    boxes: Annotated[list[SpaceBox], FailFast(), at_most("max_visual_prompts", "boxes")] = Field(
        default_factory=list,
        description="A positive box is around one object; what is in a negative one is taken out "
        "of every mask, also of those found by words.",
    )
    box_labels: Annotated[
        list[SpaceLabel], FailFast(), at_most("max_visual_prompts", "box labels")
    ] = Field(
        default_factory=list,
        description="One for each box: 1 is positive, 0 negative.",
    )
    multimask_output: bool = Field(
        default=False,
        description="Three masks, of different extent, for each object by boxes or points.",
    )
    confidence_threshold: Fraction = Field(default=0.5, description="Least score of a mask.")
    vectorize: bool = Field(default=False, description="Polygons beside the masks.")
    simplify_epsilon: Annotated[float, Field(ge=0, le=MAX_EPSILON)] = Field(
        default=2.0, description="How far a polygon may be from the outline, in pixels."
    )

    @model_validator(mode="after")
    def _few_shapes(self, info: ValidationInfo) -> SpaceInputs:
        check_shapes(len(self.points) + len(self.boxes), info)
        return self


class SpaceRequest(InputModel):
    """A request of the Space's SAM 2 compatible API."""

    model_config = examples(
        {
            "inputs": {
                "image": "iVBORw0KGgo=",
                "text_prompts": ["kitten", "toy"],
                "confidence_threshold": 0.5,
            }
        },
        {
            "inputs": {
                "image": "https://media.roboflow.com/notebooks/examples/dog.jpeg",
                "boxes": [[100, 100, 200, 200], [50, 50, 150, 150]],
                "box_labels": [1, 0],
                "points": [[150, 150]],
                "point_labels": [1],
                "vectorize": True,
                "simplify_epsilon": 2.0,
            }
        },
    )

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="The API key, for clients that send it here; a header or the query does "
        "as well.",
    )
    inputs: SpaceInputs = Field(description="The image and the prompts.")


SpaceArgumentText = TypeAliasType(
    "SpaceArgumentText", Annotated[str, Field(description="The image, or else the concept.")]
)
SpaceArgumentNumber = TypeAliasType(
    "SpaceArgumentNumber", Annotated[float, Field(description="The least score of a mask.")]
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
    """Fills in the threshold."""
    if not isinstance(value, list) or not 2 <= len(value) <= 3:
        raise PydanticCustomError(
            "predict_data",
            "Input should be a list of the image, the text and, if need be, the threshold",
        )
    threshold = value[2] if len(value) == 3 else None
    return [*value[:2], 0.5 if threshold is None else threshold]


class SpacePredictRequest(InputModel):
    """Words alone, in the envelope of Gradio."""

    model_config = examples({"data": ["iVBORw0KGgo=", "kitten", 0.5]})

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="The API key, for clients that send it here; a header or the query does "
        "as well.",
    )
    data: Annotated[
        tuple[SpaceImage, SpaceText, Fraction],
        BeforeValidator(_complete, json_schema_input_type=_Arguments),
    ] = Field(
        repr=False,
        description="The image, the concept, and the least score of a mask, in this order; the "
        "last is 0.5 by default.",
    )


PromptType = TypeAliasType(
    "PromptType",
    Annotated[Literal["text", "visual"], Field(description="Words, or else points and boxes.")],
)


class SpaceResponse(WireModel):
    """The objects that were found; empty lists when there is none."""

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
        description="One for each object: a PNG in base64, of one channel and the image's size, "
        "255 on the object and 0 elsewhere. Those of words come first, in the order of the "
        "prompts; then those of boxes and of points."
    )
    scores: list[float] = Field(
        description="One for each mask: confidence, or the predicted IoU with points and boxes."
    )
    num_objects: int = Field(description="How many masks there are.")
    sam_version: str = Field(description="Always `3.0`.")
    prompt_types: list[PromptType] = Field(description="Which prompts the request had.")
    success: bool = Field(description="True.")
    polygons: list[Polygon] | None = Field(
        default=None,
        description="With `vectorize`, one for each mask: the outline of its largest part.",
    )
    polygon_format: Literal["pixel_coordinates"] | None = Field(
        default=None, description="With `vectorize`: what `polygons` are in."
    )
    original_image_size: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="With `vectorize`: `[width, height]` of the image."
    )


class SpaceError(WireModel):
    """What went wrong, and what to do about it."""

    model_config = examples(
        {
            "success": False,
            "error": "box_labels must be provided when boxes are specified",
            "masks": [],
            "scores": [],
            "num_objects": 0,
        }
    )

    success: bool = Field(description="False.")
    error: str = Field(description="What went wrong, for people.")
    masks: list[str] = Field(description="Empty.")
    scores: list[float] = Field(description="Empty.")
    num_objects: int = Field(description="0.")


class SpacePredictResponse(WireModel):
    """The objects that were found, in the envelope of Gradio."""

    data: Annotated[list[SpaceResponse], Field(min_length=1, max_length=1)] = Field(
        description="One entry: the objects."
    )
    is_generating: bool = Field(description="False: this is all.")
    duration: float = Field(description="Seconds that it took.")
    average_duration: float = Field(description="Seconds that such a request takes on average.")
