"""Low-resolution logits of earlier results, so that a second click refines the first."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from inference_server.engines.base import VisualPrompt
from inference_server.segmentation.types import ImageKey


@dataclass(frozen=True, slots=True)
class _Result:
    """The logits of a result, and the prompt that yielded them.

    Attributes:
        box: x0, y0, x1, y1 in pixels; None if the prompt had no box.
        points: (x, y, label) of each point, x and y in pixels; their order does not matter.
        logits: `float32[h, w]` low-resolution logits.
    """

    box: tuple[float, ...] | None
    points: frozenset[tuple[float, float, int]]
    logits: NDArray[np.float32]


def _box_of(prompt: VisualPrompt) -> tuple[float, ...] | None:
    return None if prompt.box is None else tuple(float(edge) for edge in prompt.box)


def _points_of(prompt: VisualPrompt) -> frozenset[tuple[float, float, int]]:
    pairs = zip(prompt.points, prompt.labels, strict=True)
    return frozenset((float(x), float(y), int(label)) for (x, y), label in pairs)


class MaskInputCache:
    """Logits by image: LRU over images, bounded in bytes. Used from the event loop only.

    Args:
        max_bytes: maximum bytes of cached logits.
        max_per_image: maximum results cached per image; the oldest are removed first. Default: 64.
    """

    def __init__(self, max_bytes: int, max_per_image: int = 64) -> None:
        self._max_per_image = max_per_image
        self._entries: LRUCache[ImageKey, tuple[_Result, ...]] = LRUCache(
            max_bytes, getsizeof=lambda results: sum(r.logits.nbytes for r in results)
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the cached logits."""
        return int(self._entries.currsize)

    def save(self, key: ImageKey, prompt: VisualPrompt, logits: NDArray[np.float32]) -> None:
        """Cache the logits of a result.

        Args:
            key: the image's key.
            prompt: prompt that yielded the result.
            logits: `float32[h, w]` low-resolution logits of the best mask.
        """
        result = _Result(_box_of(prompt), _points_of(prompt), logits)
        others = tuple(
            r
            for r in self._entries.get(key, ())
            if (r.box, r.points) != (result.box, result.points)
        )
        results = (*others, result)[-self._max_per_image :]
        while sum(r.logits.nbytes for r in results) > self._entries.maxsize:
            results = results[1:]
        # Removed first, because an update would count the bytes of the old and the new value.
        self._entries.pop(key, None)
        if results:
            self._entries[key] = results

    def find(self, key: ImageKey, prompt: VisualPrompt) -> NDArray[np.float32] | None:
        """Find the cached result that a prompt refines best.

        Args:
            key: the image's key.
            prompt: the new prompt.

        Returns:
            `float32[h, w]` logits of the result whose box is the same and whose points are a
            proper subset of the prompt's: the one with the most points, and of several the latest.
            None if there is none.
        """
        box, points = _box_of(prompt), _points_of(prompt)
        earlier = [r for r in self._entries.get(key, ()) if r.box == box and r.points < points]
        if not earlier:
            return None
        return max(reversed(earlier), key=lambda r: len(r.points)).logits

    def discard(self, tenant: str, digests: Collection[str]) -> None:
        """Remove the logits of some images.

        Args:
            tenant: owner of the images.
            digests: SHA-256 of the files in hexadecimal.
        """
        names = {f"sha256:{digest}" for digest in digests}
        for key in [k for k in self._entries if k.tenant == tenant and k.image in names]:
            del self._entries[key]

    def clear(self) -> None:
        """Remove all logits."""
        self._entries.clear()
