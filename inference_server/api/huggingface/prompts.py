"""The words, points and boxes of a request to the Space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference_server.engines.base import ConceptPrompt, VisualPrompt
from inference_server.errors import RequestError
from inference_server.segmentation.prompts import objects_at
from schemas.huggingface import SpaceInputs


@dataclass(frozen=True, slots=True)
class Prompts:
    """What to look for, and what to leave out.

    Attributes:
        concepts: one a text.
        objects: one a positive box, and one for the points in none of these.
        excluded: `float32[N, 4]`, the negative boxes.
        kinds: which prompts the request had.
    """

    concepts: list[ConceptPrompt]
    objects: list[VisualPrompt]
    excluded: NDArray[np.float32]
    kinds: list[str]

    @classmethod
    def of(cls, inputs: SpaceInputs) -> Prompts:
        """Read the prompts of a request.

        Raises:
            RequestError: they cannot be meant.
        """
        _check(inputs)
        boxes = np.array(inputs.boxes, np.float32).reshape(-1, 4)
        positive = np.array(inputs.box_labels, np.bool_)
        least = inputs.confidence_threshold
        concepts = [
            ConceptPrompt(text, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), least)
            for text in inputs.text_prompts
        ]
        points = np.array(inputs.points, np.float32).reshape(-1, 2)
        labels = np.array(inputs.point_labels, np.int64)
        objects = objects_at(points, labels, boxes[positive], least)
        if not concepts and not objects:
            raise RequestError(
                "All boxes and points are negative. Send a positive one (label 1) as well, or "
                "text_prompts"
            )
        used = {"text": concepts, "visual": inputs.boxes or inputs.points}
        return cls(
            concepts, objects, boxes[~positive], [kind for kind, any_ in used.items() if any_]
        )


def _check(inputs: SpaceInputs) -> None:
    """What the contract wants to be told, in its words."""
    if not (inputs.text_prompts or inputs.boxes or inputs.points):
        raise RequestError("At least one of text_prompt, boxes, or points must be provided")
    for prompts, labels, noun in (
        (inputs.boxes, inputs.box_labels, "box"),
        (inputs.points, inputs.point_labels, "point"),
    ):
        several = f"{noun}es" if noun == "box" else f"{noun}s"
        if prompts and not labels:
            raise RequestError(f"{noun}_labels must be provided when {several} are specified")
        if len(prompts) != len(labels):
            raise RequestError(
                f"{noun}_labels has {len(labels)} labels for {len(prompts)} {several}: send one "
                f"for each, 1 for a positive {noun} or 0 for a negative one"
            )
