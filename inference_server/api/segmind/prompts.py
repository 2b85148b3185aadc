"""Segmind requests as images, prompts and options of `segmentation.types`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inference_server.segmentation.types import (
    AutomaticOptions,
    ConceptPrompt,
    ImageRef,
    VisualOptions,
    VisualPrompt,
)
from schemas.segmind import Sam3ImageRequest, SegmindRequest


def image_ref(request: SegmindRequest) -> ImageRef:
    """Return the image that a request names by URL or contains in base64."""
    if request.image_is_url:
        return ImageRef(url=request.image)
    return ImageRef(base64=request.image)


def concept_prompt(
    text: str | None, boxes: Sequence[Sequence[float]] = (), threshold: float = 0.5
) -> ConceptPrompt:
    """Build a concept prompt.

    Args:
        text: the concept in words; None if it is given by boxes alone.
        boxes: exemplar boxes, (x0, y0, x1, y1) in pixels; default none.
        threshold: minimum confidence, 0 to 1; default 0.5.
    """
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return ConceptPrompt(text, corners, np.ones(len(corners), np.int64), threshold)


def point_prompt(points: Sequence[Sequence[float]], labels: Sequence[int]) -> VisualPrompt:
    """Build a prompt for the object at some points.

    Args:
        points: (x, y) in pixels.
        labels: 1 for a point on the object, 0 for one beside it; one per point.
    """
    return VisualPrompt(np.array(points, np.float32).reshape(-1, 2), np.array(labels, np.int64))


def point_options(points: Sequence[Sequence[float]]) -> VisualOptions:
    """Return the options for points: a single point is ambiguous, so the best of three is kept."""
    return VisualOptions(multimask=len(points) == 1, within=True)


def automatic_options(request: Sam3ImageRequest) -> AutomaticOptions:
    """Return the options of automatic mask generation."""
    return AutomaticOptions(
        points_per_side=request.points_per_side, pred_iou_threshold=request.pred_iou_thresh
    )
