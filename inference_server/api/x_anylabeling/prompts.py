"""X-AnyLabeling's words and marks as images, prompts and options of `segmentation.types`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference_server.api.x_anylabeling.models import DEFAULT_CONFIDENCE
from inference_server.errors import PromptError
from inference_server.segmentation.prompts import group_points_by_box
from inference_server.segmentation.types import (
    ConceptOptions,
    ConceptPrompt,
    ImageRef,
    VisualOptions,
    VisualPrompt,
)
from schemas.x_anylabeling import (
    VISUAL,
    XAnyLabelingMark,
    XAnyLabelingParams,
    XAnyLabelingRequest,
)

_MARKS = ("body", "params", "marks")


def image_ref(request: XAnyLabelingRequest) -> ImageRef:
    """Return the image of a request. It has no id: its embedding is found by the file's digest."""
    return ImageRef(base64=request.image)


def concept_prompts(params: XAnyLabelingParams) -> list[ConceptPrompt]:
    """Return a prompt per concept, or one for rectangles, which are exemplars.

    Returns:
        The prompts; none if there are neither words nor a positive rectangle.

    Raises:
        PromptError: there are points, or exemplars and several concepts.
    """
    if params.of_type("point"):
        raise PromptError(
            f"This model takes words and rectangles. Send points to the model {VISUAL}.", _MARKS
        )
    concepts, rectangles = params.concepts, params.of_type("rectangle")
    boxes, labels = _boxes(rectangles), np.array([mark.label for mark in rectangles], np.int64)
    threshold = params.conf_threshold or DEFAULT_CONFIDENCE
    if not rectangles:
        return [ConceptPrompt(text, boxes, labels, threshold) for text in concepts]
    if len(concepts) > 1:
        raise PromptError(
            f"Rectangles are exemplars of one concept, and text_prompt has {len(concepts)}. Send "
            "one concept, or no text.",
            _MARKS,
        )
    if not concepts and not labels.any():
        return []
    return [ConceptPrompt(concepts[0] if concepts else None, boxes, labels, threshold)]


def concept_options(params: XAnyLabelingParams) -> ConceptOptions:
    """Return the options of a concept request."""
    return ConceptOptions(nms_iou_threshold=params.iou_threshold or None, within=True)


def visual_prompts(params: XAnyLabelingParams) -> list[VisualPrompt]:
    """Return the objects to segment.

    One rectangle and all points select one object. Of several rectangles, each selects an object,
    with the points inside it; the other points select one more.

    Returns:
        The prompts; none if there are neither rectangles nor positive points.
    """
    marked = params.of_type("point")
    points = np.array([mark.data for mark in marked], np.float32).reshape(-1, 2)
    labels = np.array([mark.label for mark in marked], np.int64)
    rectangles = _boxes(params.of_type("rectangle"))
    if len(rectangles) == 1:
        return [VisualPrompt(points, labels, box=rectangles[0])]
    return group_points_by_box(points, labels, rectangles, 0.0)


def visual_options(prompts: Sequence[VisualPrompt]) -> VisualOptions:
    """Return the options for objects: a single point is ambiguous, so the best of three is kept."""
    alone = all(prompt.box is None and len(prompt.points) == 1 for prompt in prompts)
    return VisualOptions(multimask=alone, within=True)


def _boxes(rectangles: Sequence[XAnyLabelingMark]) -> NDArray[np.float32]:
    return np.array([mark.corners for mark in rectangles], np.float32).reshape(-1, 4)
