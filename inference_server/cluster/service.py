"""The segmentation service of an ingress: calls the replica that owns an image's embedding."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cachetools import LRUCache
from prometheus_client import Metric
from ray.serve.handle import DeploymentHandle

from inference_server.cluster.caller import Caller
from inference_server.cluster.client import ask_all, session_of, tell_all
from inference_server.cluster.messages import (
    Family,
    Method,
    Reply,
    SentFile,
    SentImage,
    deployed_in,
)
from inference_server.engines.catalog import Catalog, ModelKey
from inference_server.errors import (
    ImageError,
    ImageTooLargeError,
    InferenceServerError,
    ModelUnavailableError,
    TransientError,
    UnknownImageError,
)
from inference_server.executor import Threads
from inference_server.observability.metrics import Metrics, Timings
from inference_server.segmentation.image_loader import ImageLoader, fetcher_of
from inference_server.segmentation.metrics import cache_counts
from inference_server.segmentation.service import SegmentationService
from inference_server.segmentation.types import (
    AutomaticOptions,
    Checkpoint,
    ConceptOptions,
    ConceptPrompt,
    EmbeddingTarget,
    EncodedImage,
    ImageRef,
    SegmentationResult,
    StoredImage,
    VisualOptions,
    VisualPrompt,
)
from inference_server.settings import Settings

_REMEMBERED = 100_000
"""Maximum images of which an ingress remembers that it sent them to an engine."""


class ClusterSegmentationService(SegmentationService):
    """Forwards requests to replicas of engines.

    Args:
        settings: the server's settings.
        metrics: metrics that record durations.
        handles: handle of each engine deployment; see `deployed_in`.
        describe_timeout: seconds to wait for an engine's checkpoints before the last known ones
            are used. Default: 5.
        clear_timeout: seconds to wait until all replicas have unloaded their models or cleared
            their caches. Default: 60.
        ingresses: returns the handle of the ingresses, which keep files of images with an id.
            Default: this is the only one.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        handles: Mapping[Family, DeploymentHandle[Any]],
        *,
        describe_timeout: float = 5.0,
        clear_timeout: float = 60.0,
        ingresses: Callable[[], DeploymentHandle[Any]] | None = None,
    ) -> None:
        threads = Threads(settings.cpu_workers, settings.slow_workers)
        loader = ImageLoader(settings, fetcher_of(settings), metrics, threads)
        super().__init__(threads, loader, Catalog(settings))
        self._handles = handles
        self._patience = settings.cluster_patience
        self._describe_timeout = describe_timeout
        self._clear_timeout = clear_timeout
        self._request_timeout = settings.request_timeout
        self._ingresses = ingresses
        self._known: dict[Family, list[Checkpoint]] = {}
        self._loaded = False
        self._hits = self._misses = 0
        self._sent: LRUCache[tuple[Family, str], bool] = LRUCache(_REMEMBERED)
        self._callers = {family: Caller(handle, settings) for family, handle in handles.items()}

    async def concept(
        self,
        tenant: str,
        image: ImageRef,
        prompts: Sequence[ConceptPrompt],
        options: ConceptOptions,
        *,
        timings: Timings,
        model: ModelKey | None = None,
    ) -> SegmentationResult:
        """See `SegmentationService`."""
        key = self.catalog.concept(model)
        arguments = {"model": key, "prompts": prompts, "options": options}
        return await self._segment(
            self._deployment_of(key), "concept", tenant, image, arguments, timings
        )

    async def visual(
        self,
        tenant: str,
        image: ImageRef,
        prompts: Sequence[VisualPrompt],
        options: VisualOptions,
        *,
        timings: Timings,
        model: ModelKey | None = None,
    ) -> SegmentationResult:
        """See `SegmentationService`."""
        key = self.catalog.visual(model)
        arguments = {"model": key, "prompts": prompts, "options": options}
        return await self._segment(
            self._deployment_of(key), "visual", tenant, image, arguments, timings
        )

    async def automatic(
        self,
        tenant: str,
        image: ImageRef,
        options: AutomaticOptions,
        *,
        timings: Timings,
        model: ModelKey | None = None,
    ) -> SegmentationResult:
        """See `SegmentationService`."""
        key = self.catalog.visual(model)
        arguments = {"model": key, "options": options}
        return await self._segment(
            self._deployment_of(key), "automatic", tenant, image, arguments, timings
        )

    async def embed(
        self,
        tenant: str,
        image: ImageRef,
        targets: Sequence[EmbeddingTarget],
        timings: Timings,
        *,
        overwrite: bool = False,
    ) -> EncodedImage:
        """See `SegmentationService`."""
        images, begin = self.image_loader.images, self.image_loader.images.moment
        name = image.image_id if overwrite else None
        if name is not None:
            sent = replace(image, image_id=None)
            stored, _ = await self.image_loader.load(tenant, sent, timings)
            image = ImageRef(file=stored, image_id=name)
        done: list[EncodedImage] = []
        try:
            for family, targeted in self._by_deployment(targets).items():
                options = {"targets": targeted, "overwrite": overwrite}
                found = await self._segment(family, "embed", tenant, image, options, timings)
                done.append(found.image)
        except BaseException:
            if name is not None and done:
                # One engine has the new image and another the old one: the id names neither.
                await asyncio.shield(self.forget_image(tenant, name))
            raise
        encoded = EncodedImage.joined(done)
        if name is not None:
            # Other replicas, to which requests spilled over, and other ingresses.
            await self.forget_image(tenant, name, encoded.digest)
        elif images.was_forgotten(tenant, image.image_id or encoded.digest, begin):
            # Engines that were asked after that have cached it again.
            await self.forget_image(tenant, image.image_id or encoded.digest)
        return encoded

    def _deployment_of(self, key: ModelKey) -> Family:
        """Return the deployment of a model; raises `ModelUnavailableError` if there is none."""
        self.catalog.checkpoint(key)  # without the weights of a family, it has no deployment
        return deployed_in(key)

    def _by_deployment(
        self, targets: Sequence[EmbeddingTarget]
    ) -> dict[Family, list[EmbeddingTarget]]:
        """Group targets by the deployment that encodes for them, with their models resolved."""
        grouped: dict[Family, list[EmbeddingTarget]] = {}
        for target in targets:
            choose = self.catalog.concept if target.prompts == "concept" else self.catalog.visual
            key = choose(target.model)
            grouped.setdefault(self._deployment_of(key), []).append(replace(target, model=key))
        return grouped

    async def forget_image(self, tenant: str, image_id: str, keep: str | None = None) -> bool:
        """See `SegmentationService`."""
        found = self.forget_file(tenant, image_id, keep)
        handles = [*self._handles.values(), *([self._ingresses()] if self._ingresses else [])]
        asked = (tenant, image_id, keep)
        try:
            answers = await asyncio.gather(
                *(ask_all(each, "forget_image", self._clear_timeout, *asked) for each in handles)
            )
        except TimeoutError:
            raise TransientError(
                f"Not all replicas have forgotten the image within {self._clear_timeout:g} "
                "seconds. Try again."
            ) from None
        return found or any(any(answer) for answer in answers)

    def forget_file(self, tenant: str, image_id: str, keep: str | None) -> bool:
        """Remove an image's file from this ingress; see `forget_image`."""
        return self.image_loader.images.forget(tenant, image_id, keep) is not None

    async def read(self, tenant: str, image: ImageRef, timings: Timings) -> StoredImage:
        """See `SegmentationService`."""
        try:
            stored, _ = await self.image_loader.load(tenant, image, timings)
        except UnknownImageError:
            found = await self._file(tenant, image.image_id, tuple(self._handles))
            if found is None:
                raise
            return found
        return stored

    def close(self) -> None:
        """Close the connections to replicas, and what every service has."""
        for caller in self._callers.values():
            caller.close()
        super().close()

    async def start(self) -> None:
        """Do nothing; each replica logs its device and settings."""

    async def load(self) -> None:
        """Wait until each engine has a replica; replicas load the models when they start."""
        failures = []
        for family in self._handles:
            # A cluster that is starting has no replicas yet; that is not a failure.
            known, failure = await self._callers[family].describe(patience=None)
            self._known[family] = known
            failures += [failure] if failure else []
        if failures:
            raise ModelUnavailableError(" ".join(failures))
        self._loaded = True

    def has_loaded(self) -> bool:
        """Return whether each engine has reported once that its models are loaded."""
        return self._loaded

    async def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints of one replica per engine, or the last known ones on timeout."""
        for family in self._handles:
            try:
                async with asyncio.timeout(self._describe_timeout):
                    self._known[family], _ = await self._callers[family].describe(self._patience)
            except (TimeoutError, TransientError, ModelUnavailableError):
                known = self._known.get(family, [])
                self._known[family] = [replace(each, loaded=False) for each in known]
        return [each for known in self._known.values() for each in known]

    async def load_model(self, key: ModelKey) -> None:
        """See `SegmentationService`; all replicas that can answer with the model load it."""
        handle = self._handles[self._deployment_of(key)]
        await tell_all(handle, "load_model", self._request_timeout, key)

    async def unload_model(self, key: ModelKey) -> None:
        """See `SegmentationService`; all replicas unload the model."""
        handle = self._handles[self._deployment_of(key)]
        await tell_all(handle, "unload_model", self._clear_timeout, key)

    async def clear(self) -> None:
        """See `SegmentationService`."""
        self.image_loader.images.clear()
        self._sent.clear()
        for handle in self._handles.values():
            await ask_all(handle, "clear", self._clear_timeout)

    async def evict_half(self) -> None:
        """Drop the image files; an ingress has no embeddings."""
        self.image_loader.images.clear()

    def readings(self) -> Iterable[Metric]:
        """Return the cache hits and misses of this ingress's requests.

        `cluster.metrics` exports the caches and queues of the replicas.
        """
        return cache_counts(self._hits, self._misses)

    async def _segment(
        self,
        family: Family,
        method: Method,
        tenant: str,
        image: ImageRef,
        options: dict[str, Any],
        timings: Timings,
    ) -> SegmentationResult:
        """Call an engine; include the file if the replica was never sent it or has evicted it.

        If a request has the bytes and the id of a known image, the bytes are only compared with
        the known image, so they are decoded while the engine works.
        """
        reading: asyncio.Task[SentFile] | None = None
        if image.base64 is not None:
            reading = asyncio.create_task(self._read_sent(tenant, image, timings))
        try:
            return await self._ask(family, method, tenant, image, options, timings, reading)
        finally:
            if reading is not None:
                reading.cancel()

    async def _ask(
        self,
        family: Family,
        method: Method,
        tenant: str,
        image: ImageRef,
        options: dict[str, Any],
        timings: Timings,
        reading: asyncio.Task[SentFile] | None,
    ) -> SegmentationResult:
        """Implement `_segment`; `reading` is the task that decodes the bytes in the request."""
        images, begin = self.image_loader.images, self.image_loader.images.moment
        session = session_of(tenant, image.image_id or image.digest)
        # `embed` also stores the file for later requests, so it sends the file every time.
        known = method != "embed" and (family, session) in self._sent
        if reading is not None and known:
            sent, file = SentImage(image.image_id), SentFile()
        else:
            file = await self._file_of(tenant, image, timings) if reading is None else await reading
            if file.error is not None and image.image_id is None:
                raise file.error
            digest = "" if file.error else file.stored.digest if file.stored else image.digest
            url = None if file.stored else image.url
            sent = SentImage(image.image_id, url, digest, pinned=image.pinned, window=image.window)
            session = session_of(tenant, image.image_id or digest)
            known = method != "embed" and (family, session) in self._sent

        async def answer(stored: StoredImage | None) -> Reply:
            asked = sent
            if stored is not None:
                asked = replace(sent, data=stored.data, digest=stored.digest)
            reply: Reply | InferenceServerError = await self._call(
                family, "ask", session, method, tenant, asked, options
            )
            if isinstance(reply, InferenceServerError):
                raise reply
            return reply

        first = None if known else file.stored
        try:
            reply = await answer(first)
        except UnknownImageError:
            if reading is not None:
                file = await reading
            if file.error is not None:
                raise file.error from None
            others: tuple[Family, ...] = tuple(each for each in self._handles if each != family)
            again = file.stored or await self._file(tenant, image.image_id, others)
            if first is not None or again is None:
                raise
            reply = await answer(again)
        found = reply.image
        if reading is not None:
            file = await reading
            differs = file.stored is None or file.stored.digest != found.digest
            found = replace(found, mismatch=differs)
        self._sent[family, session] = True
        name = None if image.pinned else image.image_id
        if file.stored is not None and name is not None and not found.mismatch:
            images.put(tenant, name, file.stored, since=begin)
        self._count(reply, timings)
        return SegmentationResult(found, reply.instances, reply.exemplars)

    async def _read_sent(self, tenant: str, image: ImageRef, timings: Timings) -> SentFile:
        """Decode and hash the bytes in a request; the caller decides whether an error matters."""
        try:
            return await self._file_of(tenant, replace(image, image_id=None), timings)
        except (ImageError, ImageTooLargeError) as error:
            return SentFile(error=error)

    async def _file_of(self, tenant: str, image: ImageRef, timings: Timings) -> SentFile:
        """Return the file in a request; load an image without an id, for its digest."""
        if image.image_id is not None:
            return SentFile(image.file)
        stored, _ = await self.image_loader.load(tenant, image, timings)
        return SentFile(stored)

    async def _file(
        self, tenant: str, image_id: str | None, families: Sequence[Family]
    ) -> StoredImage | None:
        """Find the file of an image by its id: in this ingress, or in the owning replicas."""
        if image_id is None:
            return None
        kept = self.image_loader.images.get(tenant, image_id)
        for family in families:
            if kept is None:
                session = session_of(tenant, image_id)
                kept = await self._call(family, "file", session, tenant, image_id)
        return kept

    async def _call(self, family: Family, method: str, session: str, *arguments: Any) -> Any:
        return await self._callers[family].call(method, session, *arguments)

    def _count(self, reply: Reply, timings: Timings) -> None:
        for stage, seconds in reply.seconds.items():
            timings.add(stage, seconds)
        if reply.image.hit:
            self._hits += 1
        else:
            self._misses += 1
