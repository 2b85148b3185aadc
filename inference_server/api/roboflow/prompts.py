"""Roboflow requests as images, prompts and options of `segmentation.types`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference_server.engines.catalog import ModelKey
from inference_server.segmentation.types import (
    ConceptPrompt,
    ImageRef,
    StoredImage,
    VisualOptions,
    VisualPrompt,
)
from schemas.roboflow import (
    ImageFields,
    ImageRequest,
    Sam3SegmentationFields,
    VisualSegmentationFields,
)


def id_alone(request: ImageRequest) -> str | None:
    """Return the id of the image if a request names it without sending it; otherwise None."""
    return request.image_id if request.image is None else None


def image_ref(
    request: ImageFields, accepted: StoredImage | None = None, upload: StoredImage | None = None
) -> ImageRef:
    """Return the image that a request names.

    Args:
        request: the request body.
        accepted: the file that the id alone named when the request was accepted as a job; the id
            may name another by now, or none. Default: None.
        upload: the file that a form sent. Default: None.
    """
    if accepted is not None:
        return ImageRef(file=accepted, image_id=request.image_id, pinned=True)
    image = request.image if isinstance(request, ImageRequest) else None
    return ImageRef(
        url=image.value if image is not None and image.type == "url" else None,
        base64=image.value if image is not None and image.type == "base64" else None,
        file=upload,
        image_id=request.image_id,
    )


def sam2_key(version: str | None) -> ModelKey | None:
    """Return the SAM 2 of a size; None, for the server's choice, without one."""
    return None if version is None else ModelKey("sam2", version)


def concept_prompts(request: Sam3SegmentationFields) -> list[ConceptPrompt]:
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


def visual_prompts(request: VisualSegmentationFields) -> list[VisualPrompt]:
    """Return the prompts of a visual request."""
    return [
        VisualPrompt(
            points=_rows([(point.x, point.y) for point in prompt.points], 2),
            labels=np.array([point.positive for point in prompt.points], np.int64),
            box=None if prompt.box is None else np.array(prompt.box.corners, np.float32),
        )
        for prompt in request.prompts
    ]


def visual_options(request: VisualSegmentationFields) -> VisualOptions:
    """Return the options of a visual request."""
    return VisualOptions(
        multimask=request.multimask_output,
        save_logits=request.save_logits_to_cache,
        load_logits=request.load_logits_from_cache,
        logits=request.mask_format == "binary",
    )


def _rows(rows: Sequence[Sequence[float]], columns: int) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, columns)
