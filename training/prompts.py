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

_MAX_BOXES = 3

_KINDS = {
    "positive": 0.24,
    "positives": 0.1,
    "positive and negative": 0.12,
    "negatives": 0.1,
    "text and positive": 0.16,
    "text and negative": 0.22,
    "text and both": 0.06,
}
"""Kinds of exemplar prompts, with their shares of the training prompts."""


@dataclass
class BoxPrompt:
    """A prompt with its ground truth.

    Attributes:
        text: text of the prompt.
        wanted: objects that match, `bool[K]`.
        boxes: `float32[3, 4]`: centre x, centre y, width, height as shares. Default: no boxes.
        labels: `int64[3]`: 1 positive, 0 negative, `BOX_PADDING` padding. Default: no boxes.
        objects: `int64[3]`: object in each box; -1 for none. Default: no boxes.
    """

    text: str
    wanted: NDArray[np.bool_]
    boxes: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    objects: NDArray[np.int64] | None = None


def sample_text_prompt(
    rng: np.random.Generator, colors: NDArray[np.int64], shapes: NDArray[np.int64]
) -> BoxPrompt:
    """Draw a text prompt for a scene.

    Args:
        rng: source of randomness.
        colors: colour index of each object, `int64[K]`; -1 for no object.
        shapes: shape index of each object, `int64[K]`; -1 for no object.
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

    Positive boxes alone (text `visual`) ask for objects of their kind: same colour and shape.
    Negative boxes alone ask for nothing. With text, the text's objects are wanted: a positive box
    lies on one of them, and a negative box excludes its kind.

    Args:
        rng: source of randomness.
        colors: colour index of each object, `int64[K]`; -1 for no object.
        shapes: shape index of each object, `int64[K]`; -1 for no object.
        boxes: `float32[K, 4]`: x0, y0, x1, y1 as shares of the side.
    """
    exists = shapes >= 0
    present = np.flatnonzero(exists)
    if not len(present):
        empty = np.zeros((_MAX_BOXES, 4), np.float32)
        empty[0] = (*rng.uniform(0.2, 0.8, 2), *rng.uniform(0.1, 0.4, 2))
        labels = np.full(_MAX_BOXES, BOX_PADDING, np.int64)
        labels[0] = 1
        objects = np.full(_MAX_BOXES, -1, np.int64)
        return BoxPrompt(VISUAL_TEXT, ~exists & False, empty, labels, objects)
    one = int(rng.choice(present))
    color, shape = int(colors[one]), int(shapes[one])
    alike = (colors == color) & (shapes == shape)
    kind = str(rng.choice(list(_KINDS), p=list(_KINDS.values())))
    kinds = [Concept(color, shape), Concept(color=color), Concept(shape=shape), Concept()]
    text, wanted, chosen = VISUAL_TEXT, alike, [(one, 1)]
    if kind == "positives":
        chosen += [(int(rng.choice(np.flatnonzero(alike))), 1)]
    elif kind == "positive and negative":
        others = np.flatnonzero(exists & ~alike)
        chosen += [(int(i), 0) for i in rng.permutation(others)[: int(rng.integers(1, 3))]]
    elif kind == "negatives":
        wanted = alike & False
        chosen = [(int(i), 0) for i in rng.permutation(present)[: int(rng.integers(1, 4))]]
    elif kind == "text and positive":
        concept = kinds[int(rng.choice(4, p=[0.4, 0.25, 0.25, 0.1]))]
        text, wanted = phrase(concept, rng), concept.select(colors, shapes)
        if rng.random() < 0.25:
            chosen += [(int(rng.choice(np.flatnonzero(wanted))), 1)]
    elif kind != "positive":
        concept = kinds[int(rng.choice(4, p=[0.14, 0.28, 0.28, 0.3]))]
        meant = concept.select(colors, shapes)
        if rng.random() < 0.12:  # the text's concept may have nothing to do with the box
            one = int(rng.choice(present))
        excluded = (colors == colors[one]) & (shapes == shapes[one])
        text, wanted = phrase(concept, rng), meant & ~excluded
        chosen = [(one, 0)]
        if kind == "text and both" and wanted.any():
            chosen += [(int(rng.choice(np.flatnonzero(wanted))), 1)]
    chosen = [chosen[int(i)] for i in rng.permutation(len(chosen))]
    given = np.zeros((_MAX_BOXES, 4), np.float32)
    labels = np.full(_MAX_BOXES, BOX_PADDING, np.int64)
    objects = np.full(_MAX_BOXES, -1, np.int64)
    for row, (item, label) in enumerate(chosen):
        given[row], labels[row], objects[row] = _jittered(rng, boxes[item]), label, item
    return BoxPrompt(text, wanted, given, labels, objects)
