"""Requests to the Space as images and prompts of `segmentation.types`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import RequestError
from inference_server.segmentation.prompts import group_points_by_box
from inference_server.segmentation.types import ConceptPrompt, ImageRef, VisualPrompt
from schemas.huggingface import SpaceInputs


def image_ref(text: str) -> ImageRef:
    """Return the image that a text names by URL or contains in base64, which has no colons."""
    if text.lstrip()[:8].lower().startswith(("http://", "https://")):
        return ImageRef(url=text.strip())
    return ImageRef(base64=text)


@dataclass(frozen=True, slots=True)
class SpacePrompts:
    """The prompts of a request.

    Attributes:
        concepts: one per text.
        objects: one per positive box, and one for the points outside these boxes.
        excluded: `float32[N, 4]`, the negative boxes, (x0, y0, x1, y1) in pixels.
        kinds: which kinds of prompts the request has: `text`, `visual` or both.
    """

    concepts: list[ConceptPrompt]
    objects: list[VisualPrompt]
    excluded: NDArray[np.float32]
    kinds: list[str]

    @classmethod
    def of(cls, inputs: SpaceInputs) -> SpacePrompts:
        """Read the prompts of a request.

        Raises:
            RequestError: a prompt lacks its label, or there is no positive prompt.
        """
        _check(inputs)
        boxes = np.array(inputs.boxes, np.float32).reshape(-1, 4)
        positive = np.array(inputs.box_labels, np.bool_)
        threshold = inputs.confidence_threshold
        concepts = [
            ConceptPrompt(text, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), threshold)
            for text in inputs.text_prompts
        ]
        points = np.array(inputs.points, np.float32).reshape(-1, 2)
        labels = np.array(inputs.point_labels, np.int64)
        objects = group_points_by_box(points, labels, boxes[positive], threshold)
        if not concepts and not objects:
            raise RequestError(
                "All boxes and points are negative. Send at least one positive box or point "
                "(label 1), or text_prompts"
            )
        used = {"text": concepts, "visual": inputs.boxes or inputs.points}
        return cls(
            concepts, objects, boxes[~positive], [kind for kind, any_ in used.items() if any_]
        )


def _check(inputs: SpaceInputs) -> None:
    """Check that prompts and labels are complete; the Space's clients know these messages."""
    if not (inputs.text_prompts or inputs.boxes or inputs.points):
        raise RequestError("At least one of text_prompt, boxes, or points must be provided")
    for prompts, labels, noun, plural in (
        (inputs.boxes, inputs.box_labels, "box", "boxes"),
        (inputs.points, inputs.point_labels, "point", "points"),
    ):
        if prompts and not labels:
            raise RequestError(f"{noun}_labels must be provided when {plural} are specified")
        if len(prompts) != len(labels):
            raise RequestError(
                f"{noun}_labels has {len(labels)} entries for {len(prompts)} {plural}; send one "
                f"label per {noun}, 1 for positive or 0 for negative"
            )
