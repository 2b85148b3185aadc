"""A replica of an engine: the segmentation service of one model family, as a Ray Serve class."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from ray import serve

from inference_server.api.app import Registry
from inference_server.cluster.listener import ReplicaListener
from inference_server.cluster.loopback import keep_serve_local, node_address
from inference_server.cluster.messages import Family, Method, Reply, SentImage, deployed_in
from inference_server.cluster.metrics import INTERVAL, ExportedReadings
from inference_server.cluster.scaling import ONGOING
from inference_server.engines.catalog import ModelKey
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
from inference_server.supervisor import Supervisor

logger = logging.getLogger(__name__)


class EngineReplica:
    """Processes the requests for the images that the router assigns to this replica.

    Errors for the client are returned, not raised: Ray would wrap a raised error and log it as a
    failure of the replica.

    Args:
        settings: the server's settings.
        family: deployment that this replica belongs to.
        cpus: CPUs that Ray reserves for this replica; also its number of threads, unless
            `settings.threads` is set.
        registry: factory of its `ModelRegistry`. Default: `ModelRegistry`.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
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
        models.wanted = [key for key in models.wanted if deployed_in(key) == family]
        self._family = family
        self._limit = settings.request_timeout
        self._segmenter = LocalSegmentationService(settings, models, fetcher_of(settings), metrics)
        self._failure = ""
        self._listener = ReplicaListener(
            self._answer, settings.cluster_handshakes, settings.cluster_message_mb << 20
        )
        self._shutdown_timeout = settings.shutdown_timeout
        exported = ExportedReadings(self.readings)
        self._supervisor = Supervisor()
        self._supervisor.repeat("metrics export", lambda _: exported.export(), INTERVAL)
        await self._segmenter.start()
        try:
            await self._segmenter.load()
        except ModelUnavailableError as error:
            # Like a server in one process, the replica runs and returns the reason to each client.
            self._failure = error.message

    async def record_replica_metadata(self) -> dict[str, Any]:
        """Start to listen for ingresses, and publish the address.

        Ray Serve calls this once, before the replica counts as ready. If Ray encrypts its own
        connections, requests have to go through Serve's handles, so there is no address.
        """
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return {}
        keep_serve_local()
        address = await self._listener.start(node_address())
        # Serve awaits this when it stops the replica. On the class, Python would call it as well.
        setattr(self, "__del__", self.stop)  # noqa: B010
        return address.published()

    async def stop(self) -> None:
        """Finish the requests in progress."""
        await self._listener.drain(self._shutdown_timeout)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the number of requests in progress and waiting."""
        return {ONGOING: float(self._listener.load)}

    async def ongoing(self) -> tuple[str, int]:
        """Return this replica's unique id, and its number of requests in progress."""
        return serve.get_replica_context().replica_id.unique_id, self._listener.ongoing

    def readings(self) -> Iterable[Metric]:
        """Return the gauges and counters of this replica."""
        yield from self._segmenter.readings()
        yield GaugeMetricFamily(
            "inference_replica_requests",
            "Requests in progress at this replica of an engine.",
            self._listener.ongoing,
        )

    async def _answer(self, method: str, *arguments: Any) -> Any:
        """Answer a request that came in directly."""
        if method == "ask":
            return await self.ask(*arguments)
        if method == "file":
            return await self.file(*arguments)
        raise ValueError(f"unknown method {method!r}")

    async def ask(
        self, method: Method, tenant: str, image: SentImage, arguments: dict[str, Any]
    ) -> Reply | InferenceServerError:
        """Process a request.

        Args:
            method: method of `SegmentationService` to call.
            tenant: owner of the image.
            image: the image, or a reference to it.
            arguments: further keyword arguments of the method.

        Returns:
            The result, or the error for the client.
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
            return DeadlineError(
                f"The engine took longer than {self._limit:g} seconds. Try again when it is less "
                "busy, or raise INFERENCE_REQUEST_TIMEOUT."
            )
        except MemoryError:
            logger.exception("Out of memory during a request; evicting half of the embeddings")
            await self._segmenter.evict_half()
            return MemoryShortageError.of_request()
        if not isinstance(done, SegmentationResult):
            done = SegmentationResult(done, [])
        asked = arguments.get("options")
        wanted = isinstance(asked, VisualOptions) and asked.logits
        return Reply.of(
            done.image,
            done.instances,
            timings.seconds,
            logits=wanted,
            exemplars=done.exemplars,
        )

    async def file(self, tenant: str, image_id: str) -> StoredImage | None:
        """Return the file of an image with an id, for another engine that does not have it.

        Args:
            tenant: owner of the image.
            image_id: id of the image.

        Returns:
            The file; None if this replica does not have it.
        """
        return self._segmenter.image_loader.images.get(tenant, image_id)

    async def checkpoints(self) -> tuple[list[Checkpoint], str]:
        """Return the checkpoints of this family, and why configured models failed to load.

        Returns:
            The checkpoints, and the reason; the reason is empty if loading did not fail.
        """
        if self._failure and self._segmenter.has_loaded():
            self._failure = ""
        known = await self._segmenter.checkpoints()
        own = [each for each in known if deployed_in(each.key) == self._family]
        return own, self._failure

    async def forget_image(self, tenant: str, image_id: str, keep: str | None) -> bool:
        """Remove an image from this replica's caches; see `SegmentationService.forget_image`."""
        return await self._segmenter.forget_image(tenant, image_id, keep)

    async def load_model(self, key: ModelKey) -> InferenceServerError | None:
        """Load a model; return the error for the client if that fails."""
        try:
            await self._segmenter.load_model(key)
        except InferenceServerError as error:
            return error
        return None

    async def unload_model(self, key: ModelKey) -> None:
        """Unload a model; its embeddings stay cached."""
        await self._segmenter.unload_model(key)

    async def clear(self) -> None:
        """Unload the models and clear the caches."""
        await self._segmenter.clear()

    async def _named(self, image: SentImage) -> ImageRef:
        if image.data is None:
            return ImageRef(
                url=image.url,
                image_id=image.image_id,
                digest=image.digest,
                pinned=image.pinned,
                window=image.window,
            )
        if image.digest is None:
            raise ValueError("SentImage has data but no digest")
        file = StoredImage(image.data, image.digest)
        return ImageRef(
            file=file, image_id=image.image_id, pinned=image.pinned, window=image.window
        )
