"""The prediction of concept and visual segmentation: a mask with its score."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.common import MAX_COORDINATE, InputModel, Number, WireModel, examples
from schemas.geometry import Masks

EXAMPLE_PREDICTION = {
    "format": "polygon",
    "confidence": 0.93,
    "masks": [[[124, 78], [101, 87], [111, 113], [134, 102]]],
}


class PredictionOptions(InputModel):
    """Options of a request that change how its masks are written."""

    simplify_epsilon: Annotated[Number, Field(ge=0, le=MAX_COORDINATE)] = Field(
        default=0.0,
        description="Simplify polygons: maximum distance in pixels between a vertex that is left "
        "out and the edge that replaces it (Douglas-Peucker). All parts stay, and polygons do not "
        "cross themselves or each other. 0 keeps every vertex. Only with polygons.",
    )
    include_boxes: bool = Field(
        default=False,
        description="Whether predictions have `bbox` and `area`; a `binary` file then has the "
        "arrays `boxes` and `areas`.",
    )

    @property
    def mask_format(self) -> Literal["polygon", "rle", "binary"]:
        """Format of the masks, without aliases."""
        return "polygon"

    @model_validator(mode="after")
    def _simplifies_polygons(self) -> PredictionOptions:
        if self.simplify_epsilon > 0 and self.mask_format != "polygon":
            raise PydanticCustomError(
                "simplify_epsilon",
                "simplify_epsilon simplifies polygons, but the format is {form}, whose masks are "
                "exact; send format polygon, or leave simplify_epsilon out",
                {"form": self.mask_format},
            )
        return self


class SegmentationPrediction(WireModel):
    """One mask with its score."""

    model_config = examples(
        EXAMPLE_PREDICTION,
        {
            "format": "rle",
            "confidence": 0.88,
            "masks": {"size": [4, 4], "counts": "52203"},
            "bbox": [1, 1, 2, 3],
            "area": 4,
        },
    )

    format: Literal["polygon", "rle"] = Field(description="Format of `masks`.")
    confidence: float = Field(description="Score from 0 to 1.")
    masks: Masks = Field(description="The mask, in the format given by `format`.")
    bbox: Annotated[list[int], Field(min_length=4, max_length=4)] | None = Field(
        default=None,
        description="Box of the mask in pixels: left edge, top edge, width, height, as in COCO. "
        "Only with `include_boxes`; zeros for an empty mask.",
    )
    area: int | None = Field(
        default=None,
        description="Number of pixels of the mask, before polygons are simplified. Only with "
        "`include_boxes`.",
    )
