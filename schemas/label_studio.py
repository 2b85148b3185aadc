"""Label Studio's ML backend protocol: what Label Studio sends, and what it expects."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field, field_validator
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

MAX_EPSILON = 1000.0
_MAX_ID = 2**63 - 1


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


ProjectId = Annotated[
    str, BeforeValidator(_as_text), at_most("max_id_length", "characters of a project's id")
]

LabelStudioName = TypeAliasType(
    "LabelStudioName",
    Annotated[
        str,
        Field(description="Name of a label."),
        at_most("max_text_length", "characters of a label"),
    ],
)

LabelStudioWords = TypeAliasType(
    "LabelStudioWords",
    Annotated[
        str,
        Field(description="A concept in words."),
        at_most("max_text_length", "characters of text"),
    ],
)

_Names = Annotated[list[LabelStudioName], FailFast(), BeforeValidator(_as_list)]


class LabelStudioParameters(InputModel):
    """Parameters of a backend: `extra_params`, or attributes `model_…` of a control tag."""

    box: Literal["object", "exemplar"] = Field(
        default="object",
        description="What a smart rectangle selects: the `object` inside it, or, as an `exemplar`, "
        "everything like it.",
    )
    score_threshold: Fraction = Field(
        default=0.5, description="Minimum confidence of words and exemplars."
    )
    nms_iou_threshold: Fraction = Field(
        default=0.7,
        description="Of two masks of words that overlap by more than this IoU, the less confident "
        "is removed, whatever its label; 1 keeps all.",
    )
    simplify_epsilon: Annotated[float, Field(ge=0, le=MAX_EPSILON)] = Field(
        default=1.0, description="Maximum deviation of a polygon from the outline, in pixels."
    )
    output: Annotated[str, at_most("max_text_length", "characters of a name")] | None = Field(
        default=None,
        description="Name of the control tag that gets the results. Default: the first one of "
        "`BrushLabels`, `BitmaskLabels`, `PolygonLabels`, `RectangleLabels`, in this order.",
    )


class LabelStudioSetupRequest(InputModel):
    """A project's configuration, which Label Studio sends before batches."""

    model_config = examples(
        {
            "project": "1.1764000000",
            "schema": '<View><Image name="image" value="$image"/><BrushLabels name="brush" '
            'toName="image"><Label value="red circle"/></BrushLabels></View>',
            "extra_params": {"box": "exemplar"},
        }
    )

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="API key. Label Studio sends it by HTTP Basic instead.",
    )
    project: ProjectId | None = Field(default=None, description="Id of the project.")
    label_config: str = Field(alias="schema", description="Label configuration (XML).")
    extra_params: dict[str, Any] | None = Field(
        default=None, description="Parameters of the backend; see the documentation."
    )


class LabelStudioModelVersion(WireModel):
    """The version of the predictions that a project gets now."""

    model_config = examples({"model_version": "sam3/demo-3f2a90c1d4e8"})

    model_version: str = Field(
        description="Names the model, with a digest of the label configuration, the parameters "
        "and the weights. Label Studio skips tasks that have predictions of this version."
    )


class LabelStudioTask(InputModel):
    """A task; other fields are ignored."""

    id: Annotated[int, Field(ge=0, le=_MAX_ID)] | None = Field(
        default=None, description="Id of the task."
    )
    data: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="The task's columns, by name."
    )


class LabelStudioValue(InputModel):
    """Position and labels of a prompt, in percent of the image."""

    x: Coordinate | None = Field(default=None, description="Left side, or abscissa of a point.")
    y: Coordinate | None = Field(default=None, description="Top side, or ordinate of a point.")
    width: Coordinate | None = Field(default=None, description="Width of a rectangle.")
    height: Coordinate | None = Field(default=None, description="Height of a rectangle.")
    rotation: Coordinate = Field(
        default=0.0, description="Degrees by which a rectangle is turned clockwise at its corner."
    )
    positive: bool | None = Field(
        default=None, description="False if the prompt marks what is not wanted."
    )
    labels: _Names = Field(default_factory=list, description="Labels of the prompt.")
    keypointlabels: _Names = Field(default_factory=list, description="Labels of a point.")
    rectanglelabels: _Names = Field(default_factory=list, description="Labels of a rectangle.")
    text: Annotated[
        list[LabelStudioWords],
        FailFast(),
        at_most("max_prompts", "words"),
        BeforeValidator(_as_list),
    ] = Field(default_factory=list, description="Words of a `TextArea`.")


class LabelStudioItem(InputModel):
    """A prompt that the user made in the editor; other fields are ignored."""

    type: str = Field(default="", description="Type of the prompt, such as `keypointlabels`.")
    from_name: str | None = Field(default=None, description="Name of its control tag.")
    to_name: str | None = Field(default=None, description="Name of the image's tag.")
    value: LabelStudioValue = Field(default=LabelStudioValue(), description="Position and labels.")
    is_positive: bool | None = Field(
        default=None, description="False if the prompt marks what is not wanted."
    )


class LabelStudioContext(InputModel):
    """What the user does in the editor."""

    result: Annotated[list[LabelStudioItem], FailFast()] = Field(
        default_factory=list, description="The prompts."
    )
    event: str | None = Field(
        default=None, description="An event of the editor, such as `capabilities`."
    )

    @field_validator("result", mode="before")
    @classmethod
    def _limit(cls, value: Any, info: Any) -> Any:
        if isinstance(value, list):
            check_shapes(len(value), info)
        return value


class LabelStudioParams(InputModel):
    """Parameters of a request; other fields are ignored."""

    context: LabelStudioContext | None = Field(
        default=None, description="Prompts; absent in batches."
    )


class LabelStudioPredictRequest(InputModel):
    """Tasks to predict: a batch, or one task with the user's prompts."""

    model_config = examples(
        {
            "project": "1.1764000000",
            "label_config": '<View><Image name="image" value="$image"/><BrushLabels name="brush" '
            'toName="image"><Label value="red circle"/></BrushLabels></View>',
            "tasks": [{"id": 1, "data": {"image": f"data:image/jpeg;base64,{EXAMPLE_SCENE}"}}],
        }
    )

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="API key. Label Studio sends it by HTTP Basic instead.",
    )
    tasks: list[LabelStudioTask] = Field(default_factory=list, description="The tasks.", repr=False)
    project: ProjectId | None = Field(default=None, description="Id of the project.")
    label_config: str = Field(description="Label configuration (XML).")
    params: LabelStudioParams = Field(
        default=LabelStudioParams(), description="Parameters of the request."
    )


class LabelStudioRegionValue(WireModel):
    """The shape of a region; lengths are percent of the image. Its type decides the fields."""

    format: Literal["rle"] | None = Field(default=None, description="`brushlabels`: the format.")
    rle: list[int] | None = Field(
        default=None, description="`brushlabels`: the mask as Label Studio's run lengths."
    )
    points: list[list[float]] | None = Field(
        default=None, description="`polygonlabels`: the vertices, `[x, y]`."
    )
    closed: bool | None = Field(default=None, description="`polygonlabels`: always true.")
    x: float | None = Field(default=None, description="`rectanglelabels`: left side.")
    y: float | None = Field(default=None, description="`rectanglelabels`: top side.")
    width: float | None = Field(default=None, description="`rectanglelabels`: width.")
    height: float | None = Field(default=None, description="`rectanglelabels`: height.")
    rotation: float | None = Field(default=None, description="`rectanglelabels`: always 0.")
    imageDataURL: str | None = Field(  # noqa: N815 - Label Studio's name
        default=None, description="`bitmasklabels`: the mask as the data URL of a PNG."
    )
    brushlabels: list[str] | None = Field(default=None, description="The labels of a brush.")
    bitmasklabels: list[str] | None = Field(default=None, description="The labels of a bitmask.")
    polygonlabels: list[str] | None = Field(default=None, description="The labels of a polygon.")
    rectanglelabels: list[str] | None = Field(
        default=None, description="The labels of a rectangle."
    )


class LabelStudioRegion(WireModel):
    """One region of a prediction."""

    id: str = Field(description="Random id of the region.")
    from_name: str = Field(description="Name of the control tag.")
    to_name: str = Field(description="Name of the image's tag.")
    type: str = Field(description="Type of the control tag, such as `brushlabels`.")
    original_width: int = Field(description="Width of the image in pixels.")
    original_height: int = Field(description="Height of the image in pixels.")
    image_rotation: int = Field(description="Always 0.")
    score: float = Field(description="Confidence, 0 to 1.")
    value: LabelStudioRegionValue = Field(description="Shape and labels.")


class LabelStudioPrediction(WireModel):
    """The prediction of one task."""

    result: list[LabelStudioRegion] = Field(
        description="The regions, best first. For the event `capabilities`, one item whose `value` "
        "describes the backend."
    )
    score: float = Field(description="Mean score of the regions; 0 without regions.")
    model_version: str = Field(
        description="As in the response to `/setup`; with the suffix `-failed` if the task failed, "
        "so that Label Studio asks for it again."
    )


class LabelStudioPredictResponse(WireModel):
    """Predictions: one per task in the same order, or that of the first task alone."""

    model_config = examples(
        {
            "results": [
                {
                    "result": [
                        {
                            "id": "6f1c0e9b2a",
                            "from_name": "brush",
                            "to_name": "image",
                            "type": "brushlabels",
                            "original_width": 2,
                            "original_height": 2,
                            "image_rotation": 0,
                            "score": 0.93,
                            "value": {
                                "format": "rle",
                                "rle": [0, 0, 0, 16, 57, 27, 253, 255, 240],
                                "brushlabels": ["red circle"],
                            },
                        }
                    ],
                    "score": 0.93,
                    "model_version": "sam3/demo-3f2a90c1d4e8",
                }
            ]
        }
    )

    results: list[LabelStudioPrediction] = Field(description="The predictions.")


class LabelStudioHealth(WireModel):
    """The backend is up."""

    model_config = examples({"status": "UP", "model_class": "sam3/demo"})

    status: Literal["UP"] = Field(description="Always `UP`.")
    model_class: str = Field(description="The model that answers words.")


class LabelStudioVersions(WireModel):
    """The versions of the predictions that the key's projects get now."""

    model_config = examples({"versions": ["sam3/demo-3f2a90c1d4e8"]})

    versions: list[str] = Field(description="The versions.")


class LabelStudioReceived(WireModel):
    """An event was received."""

    model_config = examples({"status": "ok"})

    status: Literal["ok"] = Field(description="Always `ok`.")


class LabelStudioError(WireModel):
    """What went wrong, and how to fix it."""

    model_config = examples(
        {
            "status": 400,
            "detail": "The label configuration has no Image tag.",
            "code": "prompt",
            "request": {},
        }
    )

    status: int = Field(description="HTTP status.")
    detail: str = Field(description="Human-readable error message.")
    code: str | None = Field(default=None, description=CODE)
    request: dict[str, Any] = Field(description="Always empty.")
