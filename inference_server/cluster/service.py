"""The segmentation service of an ingress: calls the replica that owns an image's embedding."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
from cachetools import LRUCache
from prometheus_client import Metric
from ray.exceptions import ObjectStoreFullError, OutOfDiskError
from ray.serve.handle import DeploymentHandle

from inference_server.cluster.client import ask, ask_all
from inference_server.cluster.messages import Family, Method, Reply, SentImage
from inference_server.errors import (
    CapacityError,
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
    EncodedImage,
    ImageRef,
    SegmentationResult,
    StoredImage,
    VisualOptions,
    VisualPrompt,
)
from inference_server.settings import MiB, Settings

logger = logging.getLogger(__name__)

INLINE_BYTES = 100_000
"""Maximum bytes of a file inside a message. Larger files are put into Ray's object store once, for
both engines and for a retry."""

_STORE_BYTES = 64 * MiB
"""Maximum bytes of files that an ingress keeps in Ray's object store."""

_REMEMBERED = 100_000
"""Maximum images of which an ingress remembers that it sent them to an engine."""

DESCRIBE_TIMEOUT = 5.0
"""Seconds to wait for an engine's checkpoints before the last known ones are used."""

CLEAR_TIMEOUT = 60.0
"""Seconds to wait until all replicas have unloaded their models and cleared their caches."""


@dataclass(frozen=True, slots=True)
class _SentFile:
    """The image file in a request.

    Attributes:
        stored: the file; None if the request has only an id, a digest, or an id and a URL.
        error: why the bytes cannot be decoded; ignored if the request has the id of a known image.
    """

    stored: StoredImage | None = None
    error: ImageError | ImageTooLargeError | None = None


class ClusterSegmentationService(SegmentationService):
    """Forwards requests to replicas of engines.

    Args:
        settings: the server's settings.
        metrics: metrics that record durations.
        handles: handle of each engine's deployment, by model family.
        inline_bytes: maximum bytes of a file inside a message; larger files go through Ray's
            object store. Default: 100 000.
        describe_timeout: seconds to wait for an engine's checkpoints before the last known ones
            are used. Default: 5.
        clear_timeout: seconds to wait until all replicas are cleared. Default: 60.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        handles: Mapping[Family, DeploymentHandle[Any]],
        *,
        inline_bytes: int = INLINE_BYTES,
        describe_timeout: float = DESCRIBE_TIMEOUT,
        clear_timeout: float = CLEAR_TIMEOUT,
    ) -> None:
        threads = Threads(settings.cpu_workers)
        super().__init__(threads, ImageLoader(settings, fetcher_of(settings), metrics, threads))
        self._handles = handles
        self._patience = settings.cluster_patience
        self._inline_bytes = inline_bytes
        self._describe_timeout = describe_timeout
        self._clear_timeout = clear_timeout
        self._known: dict[Family, list[Checkpoint]] = {}
        self._loaded = False
        self._hits = self._misses = 0
        self._sent: LRUCache[tuple[Family, str], bool] = LRUCache(_REMEMBERED)
        self._stored: LRUCache[str, tuple[Any, int]] = LRUCache(
            _STORE_BYTES, getsizeof=lambda kept: kept[1]
        )

    async def concept(
        self,
        tenant: str,
        image: ImageRef,
        prompts: Sequence[ConceptPrompt],
        options: ConceptOptions,
        *,
        timings: Timings,
    ) -> SegmentationResult:
        """See `SegmentationService`."""
        arguments = {"prompts": prompts, "options": options}
        return await self._segment("sam3", "concept", tenant, image, arguments, timings)

    async def visual(
        self,
        tenant: str,
        version: str | None,
        image: ImageRef,
        prompts: Sequence[VisualPrompt],
        options: VisualOptions,
        *,
        timings: Timings,
    ) -> SegmentationResult:
        """See `SegmentationService`."""
        arguments = {"version": version, "prompts": prompts, "options": options}
        return await self._segment("sam2", "visual", tenant, image, arguments, timings)

    async def automatic(
        self,
        tenant: str,
        version: str | None,
        image: ImageRef,
        options: AutomaticOptions,
        *,
        timings: Timings,
    ) -> SegmentationResult:
        """See `SegmentationService`."""
        arguments = {"version": version, "options": options}
        return await self._segment("sam2", "automatic", tenant, image, arguments, timings)

    async def embed(
        self, tenant: str, image: ImageRef, models: Sequence[tuple[str, str]], timings: Timings
    ) -> EncodedImage:
        """See `SegmentationService`."""
        done = []
        for family, version in models:
            engine: Family = "sam3" if family == "sam3" else "sam2"
            options = {"models": [(family, version)]}
            found = await self._segment(engine, "embed", tenant, image, options, timings)
            done.append(found.image)
        return EncodedImage.joined(done)

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

    async def start(self) -> None:
        """Do nothing; each replica logs its device and settings."""

    async def load(self) -> None:
        """Wait until each engine has a replica; replicas load the models when they start."""
        failures = []
        for family in self._handles:
            # A cluster that is starting has no replicas yet; that is not a failure.
            known, failure = await self._describe(family, patience=None)
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
                    self._known[family], _ = await self._describe(family, self._patience)
            except (TimeoutError, TransientError, ModelUnavailableError):
                known = self._known.get(family, [])
                self._known[family] = [replace(each, loaded=False) for each in known]
        return [each for known in self._known.values() for each in known]

    async def clear(self) -> None:
        """See `SegmentationService`."""
        self.image_loader.images.clear()
        self._sent.clear()
        self._stored.clear()
        for handle in self._handles.values():
            await ask_all(handle, "clear", self._clear_timeout)

    async def evict_half(self) -> None:
        """Drop the image files; an ingress has no embeddings."""
        self.image_loader.images.clear()
        self._stored.clear()

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
        reading: asyncio.Task[_SentFile] | None = None
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
        reading: asyncio.Task[_SentFile] | None,
    ) -> SegmentationResult:
        """Implement `_segment`; `reading` is the task that decodes the bytes in the request."""
        session = session_of(tenant, image.image_id or image.digest)
        # `embed` also stores the file for later requests, so it sends the file every time.
        known = method != "embed" and (family, session) in self._sent
        if reading is not None and known:
            sent, file = SentImage(image.image_id), _SentFile()
        else:
            file = await self._file_of(tenant, image, timings) if reading is None else await reading
            if file.error is not None and image.image_id is None:
                raise file.error
            digest = "" if file.error else file.stored.digest if file.stored else image.digest
            url = None if file.stored else image.url
            sent = SentImage(image.image_id, url, digest, pinned=image.pinned)
            session = session_of(tenant, image.image_id or digest)
            known = method != "embed" and (family, session) in self._sent

        async def answer(stored: StoredImage | None) -> Reply:
            asked = sent if stored is None else await self._with_file(sent, stored)
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
        named = image.image_id if not image.pinned and not found.mismatch else None
        if file.stored is not None and named is not None:
            self.image_loader.images.put(tenant, named, file.stored)
        self._count(reply, timings)
        return SegmentationResult(found, reply.instances)

    async def _read_sent(self, tenant: str, image: ImageRef, timings: Timings) -> _SentFile:
        """Decode and hash the bytes in a request; the caller decides whether an error matters."""
        try:
            return await self._file_of(tenant, replace(image, image_id=None), timings)
        except (ImageError, ImageTooLargeError) as error:
            return _SentFile(error=error)

    async def _file_of(self, tenant: str, image: ImageRef, timings: Timings) -> _SentFile:
        """Return the file in a request; load an image without an id, for its digest."""
        if image.image_id is not None:
            return _SentFile(image.file)
        stored, _ = await self.image_loader.load(tenant, image, timings)
        return _SentFile(stored)

    async def _with_file(self, sent: SentImage, file: StoredImage) -> SentImage:
        """Add the file, or a reference to it in Ray's object store."""
        data: Any = file.data
        if len(file.data) > self._inline_bytes:
            kept = self._stored.get(file.digest)
            if kept is None:
                try:
                    reference = await self.in_thread(partial(ray.put, file.data))
                except (ObjectStoreFullError, OutOfDiskError):
                    raise CapacityError(
                        "The object store that passes images to the engines is full. Try again "
                        "shortly.",
                        full="store",
                    ) from None
                kept = (reference, len(file.data))
                if kept[1] <= self._stored.maxsize:
                    self._stored[file.digest] = kept
            data = kept[0]
        return replace(sent, data=data, digest=file.digest)

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

    async def _describe(
        self, family: Family, patience: float | None
    ) -> tuple[list[Checkpoint], str]:
        described: tuple[list[Checkpoint], str] = await ask(
            self._handles[family], "checkpoints", "checkpoints", patience=patience
        )
        return described

    async def _call(self, family: Family, method: str, session: str, *arguments: Any) -> Any:
        handle = self._handles[family]
        return await ask(handle, method, session, *arguments, patience=self._patience)

    def _count(self, reply: Reply, timings: Timings) -> None:
        for stage, seconds in reply.seconds.items():
            timings.add(stage, seconds)
        if reply.image.hit:
            self._hits += 1
        else:
            self._misses += 1


def session_of(tenant: str, name: str | None) -> str:
    """Return the session id that a router hashes; all requests about an image share it.

    Args:
        tenant: owner of the image.
        name: id of the image, or its SHA-256 digest if it has no id.

    Returns:
        SHA-256 in hex.
    """
    return hashlib.sha256(f"{tenant}\0{name}".encode()).hexdigest()
