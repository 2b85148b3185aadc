"""Measures encoding, clicks, boxes, concepts, and the throughput of concurrent clicks.

The workloads use the server's code, queues and threads, from the image file to full-size masks.
HTTP and JSON are excluded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from itertools import count

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.bench.timing import Timing
from inference_server.demo.scenes import make_scene
from inference_server.engines.base import ConceptPrompt, VisualPrompt
from inference_server.engines.catalog import DEFAULT_SAM3, ModelKey
from inference_server.engines.model import ConceptModel, VisualModel
from inference_server.observability.metrics import Timings
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.segmentation.types import (
    ConceptOptions,
    EncodedImage,
    ImageRef,
    StoredImage,
    VisualOptions,
)

CLIENTS = 16
"""Number of concurrent clients in the throughput workload."""

BOXES = 16

_LEAST_ROUNDS, _MOST_ROUNDS = 3, 200
_TENANT = ""
_CONCEPTS = ("red circle", "star", "blue shape", "green cross")


@dataclass(frozen=True, slots=True)
class Figure:
    """The measurement of one workload.

    Attributes:
        name: name of the workload.
        model: label of the weights, such as `sam2/demo`.
        timing: duration of each round.
        rate: rounds per second, of all clients together.
        dtype: precision of the models, `float32` or `bfloat16`.
    """

    name: str
    model: str
    timing: Timing
    rate: float
    dtype: str

    def values(self) -> dict[str, str | float | int]:
        """Return the measurement as JSON values, with times in ms."""
        return {
            "name": self.name,
            "model": self.model,
            "dtype": self.dtype,
            "median_ms": round(self.timing.median * 1e3, 3),
            "p90_ms": round(self.timing.percentile(0.9) * 1e3, 3),
            "best_ms": round(self.timing.best * 1e3, 3),
            "per_second": round(self.rate, 3),
            "rounds": len(self.timing.seconds),
        }


class Bench:
    """Measures a segmentation service.

    Args:
        segmenter: the service; its models are loaded if necessary.
        version: SAM 2 size to measure. None: the model that answers points and boxes, or the
            largest SAM 2 if it is measured alone.
        size: (width, height) of the generated image in pixels.
        seconds: duration of each workload in seconds; each one runs at least three times.
    """

    def __init__(
        self,
        segmenter: LocalSegmentationService,
        version: str | None,
        size: tuple[int, int],
        seconds: float,
    ) -> None:
        self._segmenter = segmenter
        self._dtype = segmenter.models.compute.dtype_name
        self._sam2 = None if version is None else ModelKey("sam2", version)
        self._seconds = seconds
        scene = make_scene(7, size, count=(6, 6))
        self._size = size
        self._clicks = [item.click() for item in scene.objects]
        self._file = _jpeg(scene.image)
        self._numbers = count()

    async def run(self, *, sam2: bool = True, sam3: bool = True) -> AsyncIterator[Figure]:
        """Measure the workloads one after the other.

        Args:
            sam2: measure SAM 2 if it answers points and boxes, if it has a size, or if SAM 3 is
                not measured. Default: True.
            sam3: measure SAM 3: encoding, concepts, and clicks and boxes if it answers them.
                Default: True.

        Yields:
            The figure of each workload when it is done.

        Raises:
            ModelUnavailableError: the weights cannot be loaded.
        """
        models, catalog = self._segmenter.models, self._segmenter.catalog
        chosen = self._sam2
        if chosen is None and not (sam3 and catalog.uses_head(DEFAULT_SAM3)):
            chosen = catalog.largest("sam2") if sam2 else None
        if sam2 and chosen is not None:
            visual = await models.visual(chosen)
            yield await self._measured("encode", visual, self._encode_with(visual))
            async for figure in self._points(visual, self._image(), chosen):
                yield figure
        if sam3:
            concept = await models.concept()
            yield await self._measured("encode", concept, self._encode_with(concept))
            image = self._image()
            yield await self._measured("concept", concept, lambda i: self._concept(image, i))
            if catalog.uses_head(DEFAULT_SAM3):
                # On the same image: it is not encoded again.
                visual = await models.visual()
                async for figure in self._points(visual, image, None):
                    yield figure

    async def _points(
        self, visual: VisualModel, image: ImageRef, key: ModelKey | None
    ) -> AsyncIterator[Figure]:
        """Measure clicks and boxes on an image."""
        boxes = [self._box(i) for i in range(BOXES)]
        yield await self._measured("click", visual, lambda i: self._click(image, i, key))
        yield await self._measured(f"{BOXES} boxes", visual, lambda _: self._ask(image, boxes, key))
        yield await self._throughput(visual, image, key)

    async def _measured(
        self,
        name: str,
        model: ConceptModel | VisualModel,
        work: Callable[[int], Awaitable[object]],
    ) -> Figure:
        """Run a workload for the configured duration, after one round of warm-up."""
        await work(0)
        taken: list[float] = []
        begin = time.perf_counter()
        while len(taken) < _LEAST_ROUNDS or (
            time.perf_counter() - begin < self._seconds and len(taken) < _MOST_ROUNDS
        ):
            start = time.perf_counter()
            await work(len(taken) + 1)
            taken.append(time.perf_counter() - start)
        return Figure(name, model.label, Timing.of(taken), len(taken) / sum(taken), self._dtype)

    async def _throughput(
        self, model: VisualModel, image: ImageRef, key: ModelKey | None
    ) -> Figure:
        """Measure clients that each click again as soon as they have a mask."""
        taken: list[float] = []
        begin = time.perf_counter()

        async def click_on(client: int) -> None:
            rounds = 0
            while rounds < _LEAST_ROUNDS or time.perf_counter() - begin < self._seconds:
                start = time.perf_counter()
                await self._click(image, client + rounds, key)
                taken.append(time.perf_counter() - start)
                rounds += 1

        await asyncio.gather(*map(click_on, range(CLIENTS)))
        seconds = time.perf_counter() - begin
        return Figure(
            f"clicks, {CLIENTS} at once",
            model.label,
            Timing.of(taken),
            len(taken) / seconds,
            self._dtype,
        )

    def _image(self) -> ImageRef:
        """Return the image with a new digest, so that it is not in the embedding cache."""
        return ImageRef(file=StoredImage(self._file, f"bench {next(self._numbers)}"))

    def _encode_with(
        self, model: ConceptModel | VisualModel
    ) -> Callable[[int], Awaitable[EncodedImage]]:
        encode = self._segmenter.encoder.encode
        return lambda _: encode(_TENANT, model, self._image(), Timings())

    def _box(self, index: int) -> VisualPrompt:
        """Return a box of a 4 x 4 grid."""
        width, height = self._size
        x, y = index % 4 * width / 4, index // 4 * height / 4
        box = np.array([x, y, x + width / 4, y + height / 4], np.float32)
        return VisualPrompt(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), box=box)

    async def _click(self, image: ImageRef, index: int, key: ModelKey | None) -> object:
        point = np.array([self._clicks[index % len(self._clicks)]], np.float32)
        return await self._ask(image, [VisualPrompt(point, np.ones(1, np.int64))], key)

    async def _ask(
        self, image: ImageRef, prompts: list[VisualPrompt], key: ModelKey | None
    ) -> object:
        return await self._segmenter.visual(
            _TENANT,
            image,
            prompts,
            VisualOptions(multimask=True),
            timings=Timings(),
            model=key,
        )

    async def _concept(self, image: ImageRef, index: int) -> object:
        words = _CONCEPTS[index % len(_CONCEPTS)]
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        return await self._segmenter.concept(
            _TENANT,
            image,
            [ConceptPrompt(words, *nothing)],
            ConceptOptions(),
            timings=Timings(),
        )


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"cannot encode an image of shape {image.shape} as JPEG")
    return data.tobytes()
