"""Roboflow requests as images, prompts and options of `segmentation.types`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference_server.segmentation.types import (
    ConceptPrompt,
    ImageRef,
    VisualOptions,
    VisualPrompt,
)
from schemas.roboflow import ImageRequest, Sam2SegmentationRequest, Sam3SegmentationRequest


def image_ref(request: ImageRequest) -> ImageRef:
    """Return the image that a request names."""
    image = request.image
    return ImageRef(
        url=image.value if image is not None and image.type == "url" else None,
        base64=image.value if image is not None and image.type == "base64" else None,
        image_id=request.image_id,
    )


def concept_prompts(request: Sam3SegmentationRequest) -> list[ConceptPrompt]:
    """Return the prompts of a concept request, each with its threshold."""
    return [
        ConceptPrompt(
            text=prompt.text,
            boxes=_rows([box.corners for box in prompt.boxes], 4),
            labels=np.array(prompt.labels, np.int64),
            threshold=threshold,
        )
        for prompt, threshold in zip(request.prompts, request.thresholds, strict=True)
    ]


def visual_prompts(request: Sam2SegmentationRequest) -> list[VisualPrompt]:
    """Return the prompts of a visual request."""
    return [
        VisualPrompt(
            points=_rows([(point.x, point.y) for point in prompt.points], 2),
            labels=np.array([point.positive for point in prompt.points], np.int64),
            box=None if prompt.box is None else np.array(prompt.box.corners, np.float32),
        )
        for prompt in request.prompts
    ]


def visual_options(request: Sam2SegmentationRequest) -> VisualOptions:
    """Return the options of a visual request."""
    return VisualOptions(
        multimask=request.multimask_output,
        save_logits=request.save_logits_to_cache,
        load_logits=request.load_logits_from_cache,
        logits=request.mask_format == "binary",
    )


def _rows(rows: Sequence[Sequence[float]], columns: int) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, columns)
