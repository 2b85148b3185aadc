"""Automatic masks: every object of an image, from a grid of clicks.

The results are those of `sam2.automatic_mask_generator.SAM2AutomaticMaskGenerator` with the same
options, which decodes the same clicks and filters in the same order: predicted IoU, stability,
non-maximum suppression by box. One more such step, by mask, drops the copies of an object whose box
a stray pixel has stretched. The reference enlarges the three planes of each click, and looks at
every pixel of them several times. Here candidates of too low a predicted IoU get no plane,
stability is decided on the low-resolution plane where that can tell, and only what survives is
enlarged, to runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inference_server.engines.base import Candidates, Embedding, Query, VisualPrompt, queries
from inference_server.engines.batch_queue import BatchResult
from inference_server.errors import CapacityError
from inference_server.masks import upsample_mask
from inference_server.segmentation.postprocess import suppress_overlaps
from inference_server.segmentation.types import AutomaticOptions, Instance

CHUNK = 32
"""Clicks that go to the lane as one job: as large as its largest batch, and at 256 x 256 no more
than 25 MB of planes."""

IN_FLIGHT = 3
"""Chunks under way: while the masks of one are made, another is decoded and one waits, so that the
decode threads are never idle and never far behind other clients' clicks."""

KEPT_BYTES = 256 << 20
"""Bytes of candidates' masks at which they are suppressed among each other before all of them are
known. Only then may results differ from the reference's, which knows all: a mask may suppress
others and turn out to be suppressed itself."""

_PART = 8
"""Clicks whose masks are made in one thread."""

_MARGIN = 4.0
"""How far the stability of a plane may be from that of the enlarged mask, times the three quarters'
power of its cells: what pixels on an outline that is as long as the root of the area leave open. On
1,600 generated masks at seven sizes of image, 1 in 100 was over 2, and none over 3 unless the image
was narrower than the plane."""


class Decoder(Protocol):
    """A model's decode lane."""

    async def decode(self, queries: Sequence[Query[VisualPrompt]]) -> BatchResult[list[Candidates]]:
        """Answer prompts as one job."""
        ...


InThread = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs work in a worker thread."""


class AutomaticMasks:
    """Looks for everything in one image.

    Args:
        model: that answers clicks.
        embedding: of the image.
        options: what to look for.
        in_thread: for masks and suppression.
    """

    def __init__(
        self, model: Decoder, embedding: Embedding, options: AutomaticOptions, in_thread: InThread
    ) -> None:
        self._model = model
        self._embedding = embedding
        self._options = options
        self._in_thread = in_thread
        self._found: list[Instance] = []
        self._nbytes = 0
        self._room = KEPT_BYTES
        self._accepted = 0

    async def search(self, decoded: Callable[[BatchResult[list[Candidates]]], None]) -> None:
        """Click on every point of the grid.

        A caller that is cancelled leaves nothing behind but forwards that have begun.

        Args:
            decoded: is told of each chunk.

        Raises:
            CapacityError: the lane is full. Once it has taken a chunk, others wait for their place.
        """
        points = point_grid(self._options.points_per_side) * self._embedding.size[::-1]
        chunks = iter(range(0, len(points), CHUNK))
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(IN_FLIGHT):
                    tasks.create_task(self._work(points.astype(np.float32), chunks, decoded))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def finish(self) -> list[Instance]:
        """Suppress duplicates.

        Returns:
            The masks by descending predicted IoU; `prompt` is the index of a grid point.
        """
        # Chunks end in any order.
        self._found.sort(key=lambda instance: instance.prompt)
        kept: list[Instance] = await self._in_thread(partial(self._distinct, self._found))
        return kept

    async def _work(
        self,
        points: NDArray[np.float32],
        chunks: Iterator[int],
        decoded: Callable[[BatchResult[list[Candidates]]], None],
    ) -> None:
        """One chunk after another, until there are no more."""
        label = np.ones(1, np.int64)
        least = self._options.pred_iou_threshold
        for start in chunks:
            prompts = [
                VisualPrompt(point[None], label, threshold=least)
                for point in points[start : start + CHUNK]
            ]
            done = await self._decode(queries(self._embedding, prompts, logits=False))
            decoded(done)
            answers = list(enumerate(done.value, start))
            del done
            parts = [answers[first : first + _PART] for first in range(0, len(answers), _PART)]
            del answers
            for found in await asyncio.gather(
                *(self._in_thread(partial(self._masks, part)) for part in parts)
            ):
                self._found += found
                self._nbytes += _nbytes(found)
            if self._nbytes > self._room:
                await self._make_room()

    async def _decode(self, asked: list[Query[VisualPrompt]]) -> BatchResult[list[Candidates]]:
        while True:
            try:
                self._accepted += 1
                return await self._model.decode(asked)
            except CapacityError as full:
                self._accepted -= 1
                if not self._accepted:
                    raise
                await asyncio.sleep(min(1.0, full.retry_after))

    def _masks(self, answers: Sequence[tuple[int, Candidates]]) -> list[Instance]:
        """The stable masks that have a pixel."""
        size, options = self._embedding.size, self._options
        found = []
        for index, answer in answers:
            for plane, score in zip(answer.planes, answer.scores, strict=True):
                if is_stable(
                    plane, size, options.stability_threshold, offset=options.stability_offset
                ):
                    mask = upsample_mask(plane, size, answer.threshold)
                    if not mask.is_empty:
                        found.append(Instance(index, float(score), mask))
        return found

    async def _make_room(self) -> None:
        found, self._found, self._nbytes = self._found, [], 0
        kept = await self._in_thread(partial(self._distinct, found))
        self._found += kept
        left = _nbytes(kept)
        self._nbytes += left
        # What cannot be dropped is the answer; do not look through it again after every chunk.
        self._room = max(KEPT_BYTES, 2 * left)

    def _distinct(self, found: list[Instance]) -> list[Instance]:
        from inference_server.engines.nms import box_nms  # imports torch

        if not found:
            return []
        boxes = np.array([instance.mask.box for instance in found], np.float32)
        boxes[:, 2:] -= 1  # the reference's boxes end at the last pixel, not after it
        scores = np.array([instance.score for instance in found], np.float32)
        found = [found[i] for i in box_nms(boxes, scores, self._options.box_nms_threshold)]
        if self._options.mask_nms_threshold == 1:
            return found
        return suppress_overlaps(found, self._options.mask_nms_threshold)


def point_grid(points_per_side: int) -> NDArray[np.float64]:
    """Points in the middles of as many squares, row by row; the grid of `build_point_grid`.

    Returns:
        `float64[points_per_side ** 2, 2]`, x, y in shares of the image's sides.
    """
    half = 1 / (2 * points_per_side)
    axis = np.linspace(half, 1 - half, points_per_side)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def is_stable(
    plane: NDArray[np.float32], size: tuple[int, int], threshold: float, *, offset: float
) -> bool:
    """Whether a mask stays much the same if it is cut at another level.

    Its stability is its area at `offset` above the level over that at `offset` below: the IoU of
    the two, of which one holds the other. The reference counts pixels of the image. Cells of the
    plane tell nearly the same, and decide where the threshold is not near.

    Args:
        plane: `float32[h, w]` low-resolution logits.
        size: (height, width) of the image in pixels.
        threshold: least stability; at 0 everything is stable.
        offset: in logits.
    """
    if threshold <= 0:
        return True
    above, below = np.count_nonzero(plane > offset), np.count_nonzero(plane > -offset)
    if not below:
        return False
    # Or pixels, along an axis where these are larger.
    cells = below * min(1.0, size[0] / plane.shape[0]) * min(1.0, size[1] / plane.shape[1])
    if abs(above / below - threshold) > _MARGIN * cells**-0.75:
        return above / below >= threshold
    return stability(plane, size, offset) >= threshold


def stability(plane: NDArray[np.float32], size: tuple[int, int], offset: float) -> float:
    """Stability in the image's own pixels, as the reference has it; 0 for an empty mask."""
    below = upsample_mask(plane, size, -offset).area
    return upsample_mask(plane, size, offset).area / below if below else 0.0


def _nbytes(found: Sequence[Instance]) -> int:
    return sum(instance.mask.runs.nbytes for instance in found)
