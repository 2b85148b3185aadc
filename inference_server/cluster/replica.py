"""A replica of an engine: a segmenter of one family of models, behind Ray."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import ray

from inference_server.api.app import Registry
from inference_server.cluster.messages import Family, Method, Reply, SentImage
from inference_server.cluster.metrics import ExportedReadings
from inference_server.engines.registry import ModelRegistry
from inference_server.errors import (
    DeadlineError,
    InferenceServerError,
    MemoryShortageError,
    ModelUnavailableError,
)
from inference_server.observability.logging import configure_logging
from inference_server.observability.metrics import Metrics, Timings
from inference_server.segmentation.image_loader import fetcher_of
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.segmentation.types import (
    Checkpoint,
    ImageRef,
    SegmentationResult,
    StoredImage,
    VisualOptions,
)
from inference_server.settings import Settings

logger = logging.getLogger(__name__)


class EngineReplica:
    """Answers what an ingress asks about images, all of whose requests come here.

    Errors that a client is to see are answered, not raised: Ray would wrap them, and log each as a
    failure of the replica.

    Args:
        settings: of the server.
        family: of the models that are asked for here.
        cpus: that Ray keeps for this replica.
        registry: makes its models.
    """

    async def __init__(  # type: ignore[misc]  # Serve waits for it
        self,
        settings: Settings,
        family: Family,
        cpus: float,
        registry: Registry = ModelRegistry,
    ) -> None:
        configure_logging(settings)
        threads = settings.threads or max(1, int(cpus))
        settings = settings.model_copy(update={"threads": threads})
        metrics = Metrics()
        models = registry(settings)
        models.wanted = [wanted for wanted in models.wanted if wanted[0] == family]
        self._family = family
        self._limit = settings.request_timeout
        self._segmenter = LocalSegmentationService(settings, models, fetcher_of(settings), metrics)
        self._failure = ""
        exported = ExportedReadings(self._segmenter.readings)
        self._exporting = asyncio.create_task(exported.run())
        await self._segmenter.start()
        try:
            await self._segmenter.load()
        except ModelUnavailableError as error:
            # As a server in one process: it is up, and tells each client what is wrong.
            self._failure = error.message

    async def ask(
        self, method: Method, tenant: str, image: SentImage, arguments: dict[str, Any]
    ) -> Reply | InferenceServerError:
        """Answer a request.

        Args:
            method: of the segmenter.
            tenant: owner of the image.
            image: the image.
            arguments: further keyword arguments of the method.

        Returns:
            What was found, or what a client is to be told.
        """
        timings = Timings()
        try:
            async with asyncio.timeout(self._limit):
                answer = getattr(self._segmenter, method)
                named = await self._named(image)
                done = await answer(tenant=tenant, image=named, timings=timings, **arguments)
        except InferenceServerError as error:
            return error
        except TimeoutError:
            return DeadlineError("The engine took too long. Try again when it is less busy.")
        except MemoryError:
            logger.exception("A request ran out of memory")
            await self._segmenter.evict_half()
            return MemoryShortageError.of_request()
        if not isinstance(done, SegmentationResult):
            done = SegmentationResult(done, [])
        asked = arguments.get("options")
        wanted = isinstance(asked, VisualOptions) and asked.logits
        return Reply.of(done.image, done.instances, timings.seconds, logits=wanted)

    async def file(self, tenant: str, image_id: str) -> StoredImage | None:
        """The file of an image that was named here, for an engine that does not know it yet."""
        return self._segmenter.image_loader.images.get(tenant, image_id)

    async def checkpoints(self) -> tuple[list[Checkpoint], str]:
        """What can be asked for here, and why the configured models could not be loaded."""
        if self._failure and self._segmenter.has_loaded():
            self._failure = ""
        known = await self._segmenter.checkpoints()
        return [each for each in known if each.family == self._family], self._failure

    async def clear(self) -> None:
        """Unload the models and forget every image."""
        await self._segmenter.clear()

    async def _named(self, image: SentImage) -> ImageRef:
        if image.data is None:
            return ImageRef(url=image.url, image_id=image.image_id, digest=image.digest)
        data = await image.data if isinstance(image.data, ray.ObjectRef) else image.data
        if image.digest is None:
            raise ValueError("an image is sent with its digest")
        return ImageRef(file=StoredImage(data, image.digest), image_id=image.image_id)
