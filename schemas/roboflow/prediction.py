"""The prediction of concept and visual segmentation: a mask with its score."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.common import WireModel, examples
from schemas.geometry import Masks

EXAMPLE_PREDICTION = {
    "format": "polygon",
    "confidence": 0.93,
    "masks": [[[68, 247], [622, 247], [622, 924], [68, 924]]],
}


class SegmentationPrediction(WireModel):
    """One mask with its score."""

    model_config = examples(
        EXAMPLE_PREDICTION,
        {
            "format": "rle",
            "confidence": 0.88,
            "masks": {"size": [4, 4], "counts": "52203"},
        },
    )

    format: Literal["polygon", "rle"] = Field(description="Format of `masks`.")
    confidence: float = Field(description="Score from 0 to 1.")
    masks: Masks = Field(description="The mask, in the format given by `format`.")
