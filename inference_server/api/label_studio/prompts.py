"""What users do in Label Studio's editor, and labels of batches, as prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inference_server.api.label_studio.config import Control
from inference_server.auth import Work
from inference_server.errors import PromptError
from inference_server.segmentation.types import ConceptPrompt, VisualOptions, VisualPrompt
from schemas.common import Limits
from schemas.label_studio import LabelStudioItem, LabelStudioParameters, LabelStudioValue

Size = tuple[int, int]
_WORD = re.compile(r"[^\W_]+")


def label_words(output: Control, most: int) -> list[tuple[str, str]]:
    """Return what a batch looks for: (label, words) in the order of the labels.

    Args:
        output: the control that gets the results.
        most: maximum number of words.

    Raises:
        PromptError: the control has no labels, or too many words.
    """
    found = [(label.name, word) for label in output.labels for word in label.words]
    if not found:
        raise PromptError(
            f"The control {output.name!r} has no labels to look for. Add Label tags to it."
        )
    if len(found) > most:
        raise PromptError(
            f"The control {output.name!r} has {len(found)} label names and predicted_values; at "
            f"most {most} are looked for. Remove some, or raise INFERENCE_LABEL_STUDIO_MAX_WORDS "
            "on the server."
        )
    return found


def concept_prompts(
    words: Sequence[tuple[str, str]], parameters: LabelStudioParameters, limits: Limits
) -> list[ConceptPrompt]:
    """Return one concept per label and words.

    Args:
        words: (label, words).
        parameters: threshold of the scores.
        limits: limits of texts.

    Raises:
        PromptError: a text is too long.
    """
    for _, text in words:
        if len(text) > limits.max_text_length:
            raise PromptError(
                f"A label has {len(text)} characters; at most {limits.max_text_length} are "
                "accepted as a concept. Give it shorter words as predicted_values, or raise "
                "INFERENCE_MAX_TEXT_LENGTH on the server."
            )
    no_boxes, no_labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    threshold = parameters.score_threshold
    return [ConceptPrompt(text, no_boxes, no_labels, threshold) for _, text in words]


@dataclass(slots=True)
class Interaction:
    """The prompts of one label; lengths are percent of the image.

    Attributes:
        label: the label that the user chose; None if there was none.
        points: (x, y, positive).
        boxes: (rectangle, positive).
        words: texts.
    """

    label: str | None
    points: list[tuple[float, float, bool]] = field(default_factory=list)
    boxes: list[tuple[LabelStudioValue, bool]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def kind(self, box: str) -> Literal["concept", "exemplar", "object"]:
        """Return what the prompts select: concepts by words or by examples, or objects.

        Args:
            box: what a rectangle is, `object` or `exemplar`.
        """
        if self.words:
            return "concept"
        is_example = box == "exemplar" and any(positive for _, positive in self.boxes)
        return "exemplar" if is_example else "object"

    def count(self, box: str) -> tuple[int, int]:
        """Count the (concepts, objects) that the models are asked for.

        Args:
            box: what a rectangle is, `object` or `exemplar`.
        """
        kind = self.kind(box)
        if kind != "object":
            return len(self.words) if kind == "concept" else 1, 0
        boxes = sum(positive for _, positive in self.boxes)
        if boxes == 1 and self.points:
            return 0, 1
        return 0, boxes + any(positive for *_, positive in self.points)

    def objects(self, size: Size) -> list[VisualPrompt]:
        """Return one object per positive rectangle, and one for the points.

        Points refine a single rectangle instead. Negative prompts alone select nothing.

        Args:
            size: (height, width) of the image in pixels.
        """
        height, width = size
        scale = np.array([width, height]) / 100
        points = np.array([(x, y) for x, y, _ in self.points], np.float64).reshape(-1, 2) * scale
        labels = np.array([positive for *_, positive in self.points], np.int64)
        boxes = [_corners(value, size) for value, positive in self.boxes if positive]
        of_points = VisualPrompt(points.astype(np.float32), labels)
        if len(boxes) == 1 and len(points):
            return [VisualPrompt(of_points.points, labels, box=boxes[0])]
        no_points = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
        found = [VisualPrompt(*no_points, box=box) for box in boxes]
        return [*found, of_points] if labels.any() else found

    def exemplars(self, size: Size, parameters: LabelStudioParameters) -> ConceptPrompt:
        """Return the rectangles as examples of a concept.

        Args:
            size: (height, width) of the image in pixels.
            parameters: threshold of the scores.
        """
        boxes = np.array([_corners(value, size) for value, _ in self.boxes], np.float32)
        labels = np.array([positive for _, positive in self.boxes], np.int64)
        return ConceptPrompt(None, boxes.reshape(-1, 4), labels, parameters.score_threshold)


def visual_options(prompts: Sequence[VisualPrompt]) -> VisualOptions:
    """Return the options for objects: a single point is ambiguous; the best of three is kept."""
    alone = len(prompts) == 1 and prompts[0].box is None and len(prompts[0].points) == 1
    return VisualOptions(multimask=alone)


def interactions(items: Sequence[LabelStudioItem], limits: Limits) -> list[Interaction]:
    """Group the prompts of the editor by label.

    Args:
        items: the prompts.
        limits: limits of points, boxes and words.

    Raises:
        PromptError: a prompt has no position, or there are too many.
    """
    found: dict[str | None, Interaction] = {}
    for item in items:
        value = item.value
        names = value.labels or value.keypointlabels or value.rectanglelabels
        one = found.setdefault(
            names[0] if names else None, Interaction(names[0] if names else None)
        )
        told = item.is_positive if item.is_positive is not None else value.positive
        positive = told is None or told
        if value.text:
            one.words += [text.strip() for text in value.text if text.strip()]
        elif value.x is None or value.y is None:
            raise PromptError(f"A prompt of type {item.type[:64]!r} has no x and y.")
        elif value.width and value.height and not item.type.startswith("keypoint"):
            one.boxes.append((value, positive))
        else:
            one.points.append((value.x, value.y, positive))
    for one in found.values():
        _check(len(one.points), limits.max_points, "points", "max_points")
        _check(len(one.boxes), limits.max_boxes, "rectangles", "max_boxes")
    return list(found.values())


def work_of(chosen: Sequence[Interaction], box: str, limits: Limits) -> list[Work]:
    """Return the kinds of work that prompts ask for, which determine the price.

    Args:
        chosen: the prompts by label.
        box: what a rectangle is, `object` or `exemplar`.
        limits: limits of the concepts, and of the objects, of all labels together.

    Raises:
        PromptError: there are too many concepts or objects.
    """
    counts = [one.count(box) for one in chosen]
    concepts = sum(each for each, _ in counts)
    objects = sum(each for _, each in counts)
    _check(concepts, limits.max_prompts, "words and exemplars in all labels", "max_prompts")
    _check(objects, limits.max_visual_prompts, "objects in all labels", "max_visual_prompts")
    work: list[Work] = []
    if concepts:
        work.append("concept")
    if objects:
        work.append("visual")
    return work


def _check(count: int, most: int, noun: str, name: str) -> None:
    if count > most:
        raise PromptError(
            f"The request has {count} {noun}; at most {most} are accepted. Remove some, or raise "
            f"INFERENCE_{name.upper()} on the server."
        )


def label_of(output: Control, words: str | None, chosen: str | None) -> str:
    """Choose the label of a result.

    Args:
        output: the control that gets the result.
        words: what was looked for, if no label was chosen.
        chosen: the label that the user chose.

    Returns:
        The chosen label; else the one whose name, or words, are those that were looked for or are
        contained in them; else the control's first one; empty if it has none.
    """
    if chosen is not None:
        return chosen
    names = output.names
    if words is not None:
        told = _plain(words)
        known = [
            (len(plain), each.name)
            for each in output.labels
            for plain in map(_plain, (each.name, *each.words))
            if plain.strip() and plain in told
        ]
        if known:
            return max(known, key=lambda pair: pair[0])[1]
    return names[0] if names else ""


def _plain(text: str) -> str:
    """The words of a text in lower case, each between spaces."""
    return f" {' '.join(_WORD.findall(text.lower()))} "


def _corners(value: LabelStudioValue, size: Size) -> NDArray[np.float32]:
    """The (x0, y0, x1, y1) in pixels of a rectangle, or around one that is turned."""
    height, width = size
    scale = np.array([width, height]) / 100
    corner = np.array([value.x or 0.0, value.y or 0.0]) * scale
    w, h = np.array([value.width or 0.0, value.height or 0.0]) * scale
    angle = np.deg2rad(value.rotation)
    across = np.array([np.cos(angle), np.sin(angle)]) * w
    down = np.array([-np.sin(angle), np.cos(angle)]) * h
    corners = corner + np.array([0 * across, across, down, across + down])
    return np.array([*corners.min(axis=0), *corners.max(axis=0)], np.float32)
