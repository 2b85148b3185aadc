"""Concept prompts for a scene: text, or exemplar boxes with or without text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.vocabulary import Concept, phrase, sample_concept, stranger

BOX_PADDING = -10
"""Label of a padding box, as in SAM 3's processor."""

VISUAL_TEXT = "visual"
"""Text of a prompt with boxes only, as in SAM 3's processor."""

_MAX_BOXES = 2


@dataclass
class BoxPrompt:
    """A prompt with its ground truth.

    Attributes:
        text: text of the prompt.
        wanted: objects that match, `bool[8]`.
        boxes: `float32[2, 4]`: centre x, centre y, width, height as shares. Default: no boxes.
        labels: `int64[2]`: 1 positive, 0 negative, `BOX_PADDING` padding. Default: no boxes.
    """

    text: str
    wanted: NDArray[np.bool_]
    boxes: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None


def sample_text_prompt(
    rng: np.random.Generator, colors: NDArray[np.int64], shapes: NDArray[np.int64]
) -> BoxPrompt:
    """Draw a text prompt for a scene.

    Args:
        rng: source of randomness.
        colors: colour index of each object, `int64[8]`; -1 for no object.
        shapes: shape index of each object, `int64[8]`; -1 for no object.
    """
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

    Two in three ask for similar objects (same colour and shape, text `visual`), some with a
    negative box. The others combine text with a positive box, or exclude a box's kind from the
    text.

    Args:
        rng: source of randomness.
        colors: colour index of each object, `int64[8]`; -1 for no object.
        shapes: shape index of each object, `int64[8]`; -1 for no object.
        boxes: `float32[8, 4]`: x0, y0, x1, y1 as shares of the side.
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
