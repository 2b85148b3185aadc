"""This server on the GPU, in the benchmark's process: service, queues and threads without HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_peers import EagerSam3, Planes, wait_for
from benchmarks.requests import Picture
from benchmarks.sam2_models import Sam2
from inference_server.bench.timing import Timing
from inference_server.engines.base import (
    Candidates,
    ConceptPrompt,
    Embedding,
    VisualPrompt,
    queries,
)
from inference_server.engines.catalog import ModelKey
from inference_server.engines.loaded_weights import Sam3Engines
from inference_server.engines.registry import ModelRegistry
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.engines.sam3.trunk import TrunkEngine
from inference_server.engines.weights import Sam3Checkpoint
from inference_server.observability.metrics import Metrics, Timings
from inference_server.segmentation.image_loader import fetcher_of
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.segmentation.types import (
    AutomaticOptions,
    ImageRef,
    Instance,
    StoredImage,
    VisualOptions,
)
from inference_server.settings import Settings

_TENANT = ""
_NO_BOXES = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)


class _Registry(ModelRegistry):
    """Loads SAM 2 as a server does, and takes a SAM 3 that is in memory already."""

    sam3: EagerSam3 | None = None

    def sam3_engines(self, key: ModelKey, checkpoint: Sam3Checkpoint) -> Sam3Engines:
        """Engines on the model; its weights are converted and not usable otherwise afterwards."""
        assert self.sam3 is not None  # noqa: S101 - set before it is asked for
        sam3, compute = self.sam3.sam3, self.compute
        trunk = TrunkEngine(sam3.model, sam3.processor, sam3.name, compute, release=True)
        concept = ConceptEngine(
            sam3.model, sam3.processor, sam3.name, compute, trunk=trunk, owned=True
        )
        return Sam3Engines(concept)


@dataclass(frozen=True, slots=True)
class Throughput:
    """Requests of several clients.

    Attributes:
        rate: requests per second of all together.
        timing: duration of each request.
    """

    rate: float
    timing: Timing


class Service:
    """A segmentation service with its models; an asynchronous context manager.

    Args:
        sam2: weights of SAM 2.
        sam3: a SAM 3, which is not usable otherwise afterwards; None for none.
        settings: settings by name, besides those of the models.
    """

    def __init__(self, sam2: Sam2, sam3: EagerSam3 | None, **settings: Any) -> None:
        chosen = Settings(
            sam2_weights=sam2.weights,
            sam1_weights="none",
            sam3_weights="demo",
            visual_model="sam2",
            queue_size=256,
            **settings,
        )
        self._registry = _Registry(chosen)
        self._registry.sam3 = sam3
        self._service = LocalSegmentationService(
            chosen, self._registry, fetcher_of(chosen), Metrics()
        )
        self._key = ModelKey("sam2", sam2.version)
        self._numbers = count()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._service.close()

    @property
    def arithmetic(self) -> str:
        """Device and dtype."""
        compute = self._registry.compute
        return f"{compute.device} in {compute.dtype_name}"

    async def load(self) -> float:
        """Load SAM 2, and warm it on a GPU; returns the seconds that it took."""
        begin = time.perf_counter()
        await self._registry.visual(self._key)
        return time.perf_counter() - begin

    def image(self, picture: Picture) -> ImageRef:
        """An image that is not in the cache.

        Args:
            picture: the file; its digest is made unique.
        """
        return ImageRef(file=StoredImage(picture.jpeg, f"gpu {next(self._numbers)}"))

    async def click(self, image: ImageRef, point: tuple[float, float]) -> list[Instance]:
        """The best of three masks at a point.

        Args:
            image: the image.
            point: x, y in pixels.
        """
        prompt = VisualPrompt(np.array([point], np.float32), np.ones(1, np.int64))
        return await self._ask(image, [prompt], multimask=True)

    async def boxes(self, image: ImageRef, boxes: NDArray[np.float32]) -> list[Instance]:
        """A mask for each box.

        Args:
            image: the image.
            boxes: `float32[N, 4]`, x0, y0, x1, y1 in pixels.
        """
        none = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
        return await self._ask(image, [VisualPrompt(*none, box) for box in boxes], multimask=False)

    async def _ask(
        self, image: ImageRef, prompts: Sequence[VisualPrompt], *, multimask: bool
    ) -> list[Instance]:
        options = VisualOptions(multimask=multimask)
        done = await self._service.visual(
            _TENANT, image, prompts, options, timings=Timings(), model=self._key
        )
        return done.instances

    async def automatic(self, image: ImageRef, options: AutomaticOptions) -> int:
        """Find everything; returns the number of masks.

        Args:
            image: the image.
            options: grid and thresholds.
        """
        done = await self._service.automatic(
            _TENANT, image, options, timings=Timings(), model=self._key
        )
        return len(done.instances)

    async def encode_together(self, picture: Picture, images: int) -> None:
        """Encode new images of as many requests at a time.

        Args:
            picture: the file.
            images: number of requests.
        """
        model = await self._registry.visual(self._key)
        encode = self._service.encoder.encode
        await asyncio.gather(
            *(encode(_TENANT, model, self.image(picture), Timings()) for _ in range(images))
        )
        wait_for(self._registry.compute.device)

    async def embedding(self, picture: Picture) -> Embedding:
        """SAM 3's embedding of a new image.

        Args:
            picture: the file.
        """
        model = await self._registry.concept()
        done = await self._service.encoder.encode(_TENANT, model, self.image(picture), Timings())
        return done.embedding

    async def encode_concepts(self, picture: Picture, images: int) -> None:
        """Encode new images for SAM 3, as many at a time.

        Args:
            picture: the file.
            images: number of requests.
        """
        await asyncio.gather(*(self.embedding(picture) for _ in range(images)))
        wait_for(self._registry.compute.device)

    async def concepts(
        self, embedding: Embedding, texts: Sequence[tuple[str, float]]
    ) -> list[Candidates]:
        """Decode texts on an encoded image, to low-resolution masks on the host.

        Args:
            embedding: the image.
            texts: each text with the least score of its masks.
        """
        model = await self._registry.concept()
        prompts = [ConceptPrompt(text, *_NO_BOXES, least) for text, least in texts]
        done = await model.decode(queries(embedding, prompts, tenant=_TENANT))
        return done.value


async def measured(
    work: Callable[[], Awaitable[object]], seconds: float, *, least: int, warm: int
) -> Timing:
    """Time repetitions of a request.

    Args:
        work: the request.
        seconds: duration of the measurement.
        least: minimum repetitions.
        warm: repetitions before, which are not timed; a graph is recorded at the second one.
    """
    for _ in range(warm):
        await work()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < least or time.perf_counter() < end:
        begin = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - begin)
    return Timing.of(taken)


async def clients(
    work: Callable[[int], Awaitable[object]], number: int, seconds: float
) -> Throughput:
    """Measure clients that each send a request as soon as they have the previous response.

    Args:
        work: the request of a client, by its number.
        number: number of clients.
        seconds: duration of the measurement.
    """
    taken: list[float] = []
    begin = time.perf_counter()

    async def run(client: int) -> None:
        while time.perf_counter() < begin + seconds:
            start = time.perf_counter()
            await work(client)
            taken.append(time.perf_counter() - start)

    await asyncio.gather(*map(run, range(number)))
    return Throughput(len(taken) / (time.perf_counter() - begin), Timing.of(taken))


def planes_of(found: Sequence[Instance]) -> list[Planes]:
    """Masks as planes.

    Args:
        found: instances.
    """
    return [instance.mask.to_plane() for instance in found]
