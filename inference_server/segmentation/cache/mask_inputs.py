"""Low-resolution logits of earlier answers, so that a second click refines the first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from inference_server.engines.base import VisualPrompt
from inference_server.segmentation.types import ImageKey

_MOST_AN_IMAGE = 64


@dataclass(frozen=True, slots=True)
class _Answer:
    box: tuple[float, ...] | None
    points: frozenset[tuple[float, float, int]]
    logits: NDArray[np.float32]


def _box_of(prompt: VisualPrompt) -> tuple[float, ...] | None:
    return None if prompt.box is None else tuple(float(edge) for edge in prompt.box)


def _points_of(prompt: VisualPrompt) -> frozenset[tuple[float, float, int]]:
    pairs = zip(prompt.points, prompt.labels, strict=True)
    return frozenset((float(x), float(y), int(label)) for (x, y), label in pairs)


class MaskInputCache:
    """Answers by image, least recently used image first out. Used from the event loop only.

    Args:
        max_bytes: room for logits.
    """

    def __init__(self, max_bytes: int) -> None:
        self._kept: LRUCache[ImageKey, tuple[_Answer, ...]] = LRUCache(
            max_bytes, getsizeof=lambda answers: sum(a.logits.nbytes for a in answers)
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the logits kept."""
        return int(self._kept.currsize)

    def save(self, key: ImageKey, prompt: VisualPrompt, logits: NDArray[np.float32]) -> None:
        """Remember the answer to a prompt.

        Args:
            key: of the image.
            prompt: what was asked.
            logits: `float32[h, w]` of the best mask.
        """
        answer = _Answer(_box_of(prompt), _points_of(prompt), logits)
        others = tuple(
            a for a in self._kept.get(key, ()) if (a.box, a.points) != (answer.box, answer.points)
        )
        answers = (*others, answer)[-_MOST_AN_IMAGE:]
        while sum(a.logits.nbytes for a in answers) > self._kept.maxsize:
            answers = answers[1:]
        self._kept.pop(key, None)  # or what it took so far would count once more
        if answers:
            self._kept[key] = answers

    def find(self, key: ImageKey, prompt: VisualPrompt) -> NDArray[np.float32] | None:
        """The best earlier answer that a prompt refines.

        Args:
            key: of the image.
            prompt: what is asked now.

        Returns:
            `float32[h, w]` of the answer with the same box and the most points, all of them among
            this prompt's and fewer than them; the latest of several; None if there is none.
        """
        box, points = _box_of(prompt), _points_of(prompt)
        earlier = [a for a in self._kept.get(key, ()) if a.box == box and a.points < points]
        if not earlier:
            return None
        return max(reversed(earlier), key=lambda a: len(a.points)).logits

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
