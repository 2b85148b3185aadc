"""Concept prompts for a scene: words, or exemplar boxes with or without words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.vocabulary import Concept, phrase, sample_concept, stranger

BOX_PADDING = -10
"""Label of a box that is not there, as in SAM 3's processor."""

VISUAL_TEXT = "visual"
"""The text of a prompt that has boxes only, as in SAM 3's processor."""

_MAX_BOXES = 2


@dataclass
class BoxPrompt:
    """A prompt and its truth.

    Attributes:
        text: the words.
        wanted: `bool[8]`, the objects that it means.
        boxes: `float32[2, 4]` centre x, centre y, width, height in shares; None without boxes.
        labels: `int64[2]`, 1 alike, 0 unlike, `BOX_PADDING` for no box; None without boxes.
    """

    text: str
    wanted: NDArray[np.bool_]
    boxes: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None


def sample_text_prompt(
    rng: np.random.Generator, colors: NDArray[np.int64], shapes: NDArray[np.int64]
) -> BoxPrompt:
    """Draw a text prompt for a scene with these objects."""
    concept = sample_concept(rng, colors, shapes)
    text = stranger(rng) if concept.nothing else phrase(concept, rng)
    return BoxPrompt(text, concept.select(colors, shapes))


def _jittered(rng: np.random.Generator, box: NDArray[np.float32]) -> NDArray[np.float32]:
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    shift = rng.normal(0, 0.04, 4)
    x0, x1 = x0 + shift[0] * width, x1 + shift[1] * width
    y0, y1 = y0 + shift[2] * height, y1 + shift[3] * height
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], np.float32)


def sample_box_prompt(
    rng: np.random.Generator,
    colors: NDArray[np.int64],
    shapes: NDArray[np.int64],
    boxes: NDArray[np.float32],
) -> BoxPrompt:
    """Draw a prompt with exemplar boxes.

    Two in three mean "all that look like this" (same colour and shape, text `visual`), some of them
    with a box around something unlike; the others refine words by a box, or cut the box's kind out
    of what the words mean.
    """
    given = np.zeros((_MAX_BOXES, 4), np.float32)
    labels = np.full(_MAX_BOXES, BOX_PADDING, np.int64)
    present = np.flatnonzero(shapes >= 0)
    if not len(present):
        given[0] = (*rng.uniform(0.2, 0.8, 2), *rng.uniform(0.1, 0.4, 2))
        labels[0] = 1
        return BoxPrompt(VISUAL_TEXT, np.zeros(len(shapes), bool), given, labels)
    one = int(rng.choice(present))
    alike = (colors == colors[one]) & (shapes == shapes[one])
    given[0] = _jittered(rng, boxes[one])
    luck = rng.random()
    if luck < 0.66:
        labels[0] = 1
        others = np.flatnonzero(alike) if luck < 0.2 else np.flatnonzero((shapes >= 0) & ~alike)
        if luck < 0.32 and len(others):
            given[1] = _jittered(rng, boxes[int(rng.choice(others))])
            labels[1] = int(luck < 0.2)
        return BoxPrompt(VISUAL_TEXT, alike, given, labels)
    color, shape = int(colors[one]), int(shapes[one])
    kinds = [Concept(color=color), Concept(shape=shape), Concept(), Concept(color, shape)]
    if luck < 0.8:
        concept = kinds[int(rng.choice([0, 1, 3]))]
        labels[0] = 1
        return BoxPrompt(phrase(concept, rng), concept.select(colors, shapes), given, labels)
    concept = kinds[int(rng.integers(3))]
    labels[0] = 0
    wanted = concept.select(colors, shapes) & ~alike
    return BoxPrompt(phrase(concept, rng), wanted, given, labels)
