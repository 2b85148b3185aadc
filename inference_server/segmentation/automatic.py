"""Automatic mask generation: find every object of an image from a grid of clicks.

The results are those of the reference, `sam2.automatic_mask_generator.SAM2AutomaticMaskGenerator`,
with the same options. Clicks and filters are the same, in the same order: predicted IoU, stability,
non-maximum suppression by box. One more step, suppression by mask, removes duplicates of an object
whose box is enlarged by a stray pixel.

The reference upsamples three planes per click and reads each pixel several times. Here a candidate
with a low predicted IoU gets no plane, stability is decided on the low-resolution plane where
possible, and only the remaining candidates are upsampled.
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
from inference_server.engines.imports import importing
from inference_server.errors import CapacityError
from inference_server.masks import upsample_mask
from inference_server.segmentation.postprocess import suppress_overlaps
from inference_server.segmentation.types import AutomaticOptions, Instance

CHUNK = 32
"""Clicks per submission to the decode queue: as many as its largest batch, and at most 25 MB of
planes at 256 x 256."""

CONCURRENT_CHUNKS = 3
"""Chunks in progress at a time. While the masks of one chunk are made, another is decoded and a
third waits, so the decode threads are never idle, and other clients' clicks do not wait long."""

MAX_CANDIDATE_BYTES = 256 << 20
"""Default limit of the candidates' masks in bytes. Beyond it, duplicates are suppressed before all
candidates are known. Only then can results differ from the reference's: a mask may suppress others
and be suppressed itself later."""

_CLICKS_PER_THREAD = 8
"""Clicks whose masks are made in one worker-thread call."""

_MARGIN = 4.0
"""Margin within which the stability of a low-resolution plane does not decide.

The stabilities of the plane and of the upsampled mask differ by at most this, divided by the number
of the mask's cells to the power of 3/4. The bound follows from the pixels on an outline as long as
the square root of the area. Of 1,600 generated masks at seven image sizes, 1 in 100 exceeded 2, and
none exceeded 3 unless the image was narrower than the plane.
"""


class Decoder(Protocol):
    """A model with a decode queue."""

    async def decode(self, queries: Sequence[Query[VisualPrompt]]) -> BatchResult[list[Candidates]]:
        """Decode prompts as one submission; see `LoadedModel.decode`."""
        ...


InThread = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs CPU work in a worker thread and returns its result."""


class AutomaticMasks:
    """Finds every object of one image.

    Args:
        model: decodes the clicks.
        embedding: the encoded image.
        options: prompt grid and filters.
        in_thread: runs upsampling and suppression in a worker thread.
        max_candidate_bytes: bytes of candidates' masks above which duplicates are suppressed before
            all candidates are known; default 256 MiB.
    """

    def __init__(
        self,
        model: Decoder,
        embedding: Embedding,
        options: AutomaticOptions,
        in_thread: InThread,
        *,
        max_candidate_bytes: int = MAX_CANDIDATE_BYTES,
    ) -> None:
        self._model = model
        self._embedding = embedding
        self._options = options
        self._in_thread = in_thread
        self._candidates: list[Instance] = []
        self._nbytes = 0
        self._max_candidate_bytes = max_candidate_bytes
        self._limit = max_candidate_bytes
        self._accepted = 0

    async def search(self, decoded: Callable[[BatchResult[list[Candidates]]], None]) -> None:
        """Decode a click at every point of the grid, and collect the candidates.

        If the caller is cancelled, only forward passes that have begun are finished.

        Args:
            decoded: called with the result of each chunk, for metrics.

        Raises:
            CapacityError: the decode queue is full. Once it has accepted a chunk, later chunks wait
                and retry instead.
        """
        points = point_grid(self._options.points_per_side) * self._embedding.size[::-1]
        chunks = iter(range(0, len(points), CHUNK))
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(CONCURRENT_CHUNKS):
                    tasks.create_task(self._work(points.astype(np.float32), chunks, decoded))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def finish(self) -> list[Instance]:
        """Suppress duplicates among the candidates.

        Returns:
            The masks by descending predicted IoU; `prompt` is the index of a grid point.
        """
        # Chunks finish in any order, and suppression breaks ties by order.
        self._candidates.sort(key=lambda instance: instance.prompt)
        kept: list[Instance] = await self._in_thread(partial(self._suppress, self._candidates))
        return kept

    async def _work(
        self,
        points: NDArray[np.float32],
        chunks: Iterator[int],
        decoded: Callable[[BatchResult[list[Candidates]]], None],
    ) -> None:
        """Process chunks until none is left; `chunks` is shared with the other tasks."""
        label = np.ones(1, np.int64)
        threshold = self._options.pred_iou_threshold
        for start in chunks:
            prompts = [
                VisualPrompt(point[None], label, threshold=threshold)
                for point in points[start : start + CHUNK]
            ]
            done = await self._decode(queries(self._embedding, prompts, logits=False))
            decoded(done)
            results = list(enumerate(done.value, start))
            del done  # planes are large, so they are freed as soon as possible
            parts = [
                results[first : first + _CLICKS_PER_THREAD]
                for first in range(0, len(results), _CLICKS_PER_THREAD)
            ]
            del results
            for instances in await asyncio.gather(
                *(self._in_thread(partial(self._masks, part)) for part in parts)
            ):
                self._candidates += instances
                self._nbytes += _nbytes(instances)
            if self._nbytes > self._limit:
                await self._suppress_early()

    async def _decode(self, batch: list[Query[VisualPrompt]]) -> BatchResult[list[Candidates]]:
        """Decode a chunk; wait while the queue is full, unless it has accepted none so far."""
        while True:
            try:
                self._accepted += 1
                return await self._model.decode(batch)
            except CapacityError as full:
                self._accepted -= 1
                if not self._accepted:
                    raise
                await asyncio.sleep(min(1.0, full.retry_after))

    def _masks(self, results: Sequence[tuple[int, Candidates]]) -> list[Instance]:
        """Upsample the stable candidates; empty masks are dropped."""
        size, options = self._embedding.size, self._options
        instances = []
        for index, result in results:
            for plane, score in zip(result.planes, result.scores, strict=True):
                if is_stable(
                    plane, size, options.stability_threshold, offset=options.stability_offset
                ):
                    mask = upsample_mask(plane, size, result.threshold)
                    if not mask.is_empty:
                        instances.append(Instance(index, float(score), mask))
        return instances

    async def _suppress_early(self) -> None:
        """Suppress duplicates among the candidates so far, to free memory."""
        candidates, self._candidates, self._nbytes = self._candidates, [], 0
        kept = await self._in_thread(partial(self._suppress, candidates))
        self._candidates += kept
        left = _nbytes(kept)
        self._nbytes += left
        # Doubled, so that masks which cannot be suppressed are not compared after every chunk.
        self._limit = max(self._max_candidate_bytes, 2 * left)

    def _suppress(self, found: list[Instance]) -> list[Instance]:
        """Non-maximum suppression by box, then by mask; by descending predicted IoU."""
        with importing():
            from inference_server.engines.nms import box_nms

        if not found:
            return []
        boxes = np.array([instance.mask.box for instance in found], np.float32)
        boxes[:, 2:] -= 1  # the reference's boxes include (x1, y1)
        scores = np.array([instance.score for instance in found], np.float32)
        found = [found[i] for i in box_nms(boxes, scores, self._options.box_nms_threshold)]
        if self._options.mask_nms_threshold == 1:
            return found
        return suppress_overlaps(found, self._options.mask_nms_threshold)


def point_grid(points_per_side: int) -> NDArray[np.float64]:
    """The centres of a square grid's cells, row by row, as `sam2.utils.amg.build_point_grid`.

    Args:
        points_per_side: cells along each side.

    Returns:
        `float64[points_per_side ** 2, 2]`, x, y as fractions of the image's sides, 0 to 1.
    """
    half = 1 / (2 * points_per_side)
    axis = np.linspace(half, 1 - half, points_per_side)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def is_stable(
    plane: NDArray[np.float32], size: tuple[int, int], threshold: float, *, offset: float
) -> bool:
    """Whether a mask hardly depends on the level at which its logits are thresholded.

    The stability of a mask is its area at `offset` above the mask threshold, divided by its area at
    `offset` below: the IoU of both, because one contains the other. The reference counts pixels of
    the image. Counting cells of the plane gives nearly the same, and decides unless the result is
    close to the threshold.

    Args:
        plane: `float32[h, w]` low-resolution logits.
        size: (height, width) of the image in pixels.
        threshold: minimum stability, 0 to 1; at 0 every mask is stable.
        offset: distance from the mask threshold to both levels, in logits.
    """
    if threshold <= 0:
        return True
    above, below = np.count_nonzero(plane > offset), np.count_nonzero(plane > -offset)
    if not below:
        return False
    # Along an axis where the image has fewer pixels than the plane has cells, pixels count.
    cells = below * min(1.0, size[0] / plane.shape[0]) * min(1.0, size[1] / plane.shape[1])
    if abs(above / below - threshold) > _MARGIN * cells**-0.75:
        return above / below >= threshold
    return stability(plane, size, offset) >= threshold


def stability(plane: NDArray[np.float32], size: tuple[int, int], offset: float) -> float:
    """The stability of a mask in pixels of the image, as the reference defines it.

    Args:
        plane: `float32[h, w]` low-resolution logits.
        size: (height, width) of the image in pixels.
        offset: distance from the mask threshold to both levels, in logits.

    Returns:
        0 to 1; 0 for an empty mask.
    """
    below = upsample_mask(plane, size, -offset).area
    return upsample_mask(plane, size, offset).area / below if below else 0.0


def _nbytes(instances: Sequence[Instance]) -> int:
    return sum(instance.mask.runs.nbytes for instance in instances)
