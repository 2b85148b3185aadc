"""Encode images behind the embedding cache."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from inference_server.engines.base import Embedding, Prepared
from inference_server.engines.batch_queue import BatchResult
from inference_server.engines.model import (
    ConceptModel,
    LoadedEncoder,
    SharedEncoder,
    VisualModel,
)
from inference_server.errors import MemoryShortageError
from inference_server.executor import Threads, stop_if_cancelled
from inference_server.images import Header, decode_picture, is_slow, read_header
from inference_server.observability.metrics import Metrics, Timings
from inference_server.segmentation.cache.embeddings import EmbeddingCache
from inference_server.segmentation.cache.host_tier import HostTier
from inference_server.segmentation.image_loader import ImageLoader
from inference_server.segmentation.pending_image import PendingImage
from inference_server.segmentation.types import (
    CachedEmbedding,
    EncodedImage,
    ImageKey,
    ImageRef,
    StoredImage,
)
from inference_server.settings import MiB, Settings

logger = logging.getLogger(__name__)

_DEFAULT_CACHE_MB = {"cpu": 2048, "mps": 2048, "cuda": 8192}
"""Default size of the embedding cache in MiB, by type of device."""


class Encoder:
    """Encodes images, behind the embedding cache.

    Args:
        settings: limits and cache sizes.
        device: the `torch.device` that the models run on.
        image_loader: loads image files.
        metrics: counts encode batches.
        threads: worker threads for decoding images.

    Attributes:
        embeddings: the embedding cache.
    """

    def __init__(
        self,
        settings: Settings,
        device: Any,
        image_loader: ImageLoader,
        metrics: Metrics,
        threads: Threads,
    ) -> None:
        self._settings = settings
        self._image_loader = image_loader
        self._metrics = metrics
        self._threads = threads
        cache_mb = settings.embedding_cache_mb or _DEFAULT_CACHE_MB.get(device.type, 2048)
        self.embeddings = EmbeddingCache(
            cache_mb * MiB, self._host_tier(device), window_percent=settings.tile_cache_percent
        )
        self._eviction: asyncio.Future[None] | None = None

    def _host_tier(self, device: Any) -> HostTier | None:
        """The cache's second tier; None on a CPU, where the first tier is in host memory."""
        if device.type == "cpu":
            return None
        max_bytes = self._settings.host_cache_mb * MiB or _quarter_of_memory()

        async def to_host(embedding: Embedding) -> Embedding:
            return await self._threads.run_in_background(lambda: embedding.to("cpu"))

        async def to_device(embedding: Embedding) -> Embedding:
            try:
                return await self._threads.run(lambda: _copy_to(embedding, device))
            except MemoryShortageError:
                await self.evict_half()
            return await self._threads.run(lambda: _copy_to(embedding, device))

        return HostTier(max_bytes, to_host=to_host, to_device=to_device)

    async def encode(
        self,
        tenant: str,
        model: ConceptModel | VisualModel,
        image: ImageRef,
        timings: Timings,
        *,
        keep: bool = False,
        since: int | None = None,
    ) -> EncodedImage:
        """Encode an image, or take it from the cache.

        With a cached `image_id`, an image sent along is neither fetched nor encoded; it is hashed
        to report whether it differs.

        Args:
            tenant: owner of the image.
            model: model that will answer the prompts.
            image: image to encode.
            timings: receives the duration of each step.
            keep: let the digest of an image without an id name it in later requests.
            since: `ImageStore.moment` at the begin of the request; an image that was forgotten
                after it is not cached again. Default: now.

        Returns:
            The encoded image.

        Raises:
            ImageError: the image cannot be fetched or decoded.
            UnknownImageError: only an id or a digest was given, and it is not cached.
        """
        async with self.encoding(tenant, model, image, timings, keep=keep, since=since) as pending:
            return await pending.checked()

    @asynccontextmanager
    async def encoding(
        self,
        tenant: str,
        model: ConceptModel | VisualModel,
        image: ImageRef,
        timings: Timings,
        *,
        keep: bool = False,
        since: int | None = None,
    ) -> AsyncIterator[PendingImage]:
        """Encode an image without waiting until a redundant image has been compared.

        Prompts are decoded inside the context while the comparison runs; `PendingImage.checked`
        waits for it. Leaving the context cancels it.

        Args:
            tenant: see `encode`.
            model: see `encode`.
            image: see `encode`.
            timings: see `encode`.
            keep: see `encode`.
            since: see `encode`.

        Yields:
            The encoded image.

        Raises:
            ImageError: see `encode`.
            UnknownImageError: see `encode`.
        """
        begin = self._image_loader.images.moment if since is None else since
        pending = await self._pending(tenant, model, image, timings, keep=keep, begin=begin)
        try:
            yield pending
        finally:
            if pending.check is not None:
                pending.check.cancel()

    async def _pending(
        self,
        tenant: str,
        model: ConceptModel | VisualModel,
        image: ImageRef,
        timings: Timings,
        *,
        keep: bool,
        begin: int,
    ) -> PendingImage:
        """Find or make the embedding; start the comparison if bytes came with a cached id."""
        images = self._image_loader.images
        if image.pinned:
            digest = image.digest if image.file is None else image.file.digest
            key = ImageKey(tenant, model.cache_label, f"id:{image.image_id}", image.window)
            named = await self._find(model, key, timings)
            if named is not None and named.digest == digest:
                return PendingImage(
                    EncodedImage(key, named.embedding, model.label, True, named.digest)
                )
            image = replace(image, image_id=None, pinned=False)
        if image.image_id is not None or image.digest is not None:
            by_name = f"sha256:{image.digest}" if image.image_id is None else f"id:{image.image_id}"
            key = ImageKey(tenant, model.cache_label, by_name, image.window)
            known = await self._find(model, key, timings)
            if known is not None:
                encoded = EncodedImage(key, known.embedding, model.label, True, known.digest)
                return await self._compared(encoded, image)
        stored, cached = await self._image_loader.load(tenant, image, timings)
        name = image.image_id or stored.digest
        if not cached and images.was_forgotten(tenant, name, begin):
            key = ImageKey(tenant, model.cache_label, f"id:{image.image_id}", image.window)
            if image.image_id and (key in self.embeddings or images.get(tenant, name) is not None):
                # The id was given to another image meanwhile.
                return await self._pending(tenant, model, image, timings, keep=keep, begin=begin)
            # It is answered, but nothing of it is cached again.
            key = ImageKey(tenant, model.cache_label, f"sha256:{stored.digest}", image.window)
            made = await self._uncached(model, stored, timings)
            return PendingImage(EncodedImage(key, made.embedding, model.label, False, made.digest))
        by_digest = image.image_id in (None, stored.digest)
        by_name = f"sha256:{stored.digest}" if by_digest else f"id:{image.image_id}"
        key = ImageKey(tenant, model.cache_label, by_name, image.window)
        entry, hit = await self._find_or_create(model, key, stored, timings)
        # False if a concurrent request used the id for another image.
        same = entry.digest == stored.digest
        if same and (keep or image.image_id is not None):
            # Only now, because an image that cannot be decoded must not occupy the id.
            images.put(tenant, name, stored, since=begin)
        encoded = EncodedImage(key, entry.embedding, model.label, hit, entry.digest, not same)
        return await self._compared(encoded, image) if cached else PendingImage(encoded)

    async def _find(
        self, model: ConceptModel | VisualModel, key: ImageKey, timings: Timings
    ) -> CachedEmbedding | None:
        """Find an embedding, or make it from the cached output of a shared image encoder."""
        found = await self.embeddings.find(key)
        if found is not None or model.shared is None:
            return found
        encoded = await self.embeddings.find(
            replace(key, checkpoint=model.shared.encoder.cache_label)
        )
        if encoded is None:
            return None
        finish = partial(self._finish, model, model.shared, key, encoded, timings)
        entry, _ = await self.embeddings.get_or_create(key, finish, counted=False)
        return entry

    async def _find_or_create(
        self,
        model: ConceptModel | VisualModel,
        key: ImageKey,
        image: StoredImage,
        timings: Timings,
    ) -> tuple[CachedEmbedding, bool]:
        """Find an embedding or encode the image; also tell whether no image had to be encoded."""
        if model.shared is not None:
            found = await self._find(model, key, timings)
            if found is not None:
                return found, True
        create = partial(self._create, model, key, image, timings)
        return await self.embeddings.get_or_create(key, create)

    async def _create(
        self,
        model: ConceptModel | VisualModel,
        key: ImageKey,
        image: StoredImage,
        timings: Timings,
    ) -> CachedEmbedding:
        """Encode an image; with a shared image encoder, once for all sides of the model."""
        shared = model.shared
        if shared is None:
            return await self._encode_bytes(model, image, timings)
        encoded, _ = await self.embeddings.get_or_create(
            replace(key, checkpoint=shared.encoder.cache_label),
            partial(self._encode_bytes, shared.encoder, image, timings),
            counted=False,
        )
        return await self._finish(model, shared, key, encoded, timings)

    async def _finish(
        self,
        model: ConceptModel | VisualModel,
        shared: SharedEncoder,
        key: ImageKey,
        encoded: CachedEmbedding,
        timings: Timings,
    ) -> CachedEmbedding:
        """Make an embedding from a shared image encoder's output, and free that if possible."""
        made = await self._from_output(model, encoded, timings)
        others = (replace(key, checkpoint=label) for label in shared.cache_labels)
        if all(other == key or other in self.embeddings for other in others):
            # No other side of the model needs the output any more.
            source = replace(key, checkpoint=shared.encoder.cache_label)
            self.embeddings.discard(lambda each: each == source)
        return made

    async def _from_output(
        self, model: ConceptModel | VisualModel, encoded: CachedEmbedding, timings: Timings
    ) -> CachedEmbedding:
        """Make an embedding from the output of a shared image encoder."""
        image = Prepared(encoded.embedding.features, encoded.embedding.size)
        done = await model.encode(image)
        self._record_encode(model, done, timings)
        return CachedEmbedding(done.value, encoded.digest)

    async def _uncached(
        self, model: ConceptModel | VisualModel, image: StoredImage, timings: Timings
    ) -> CachedEmbedding:
        """Encode an image without keeping anything of it."""
        if model.shared is None:
            return await self._encode_bytes(model, image, timings)
        encoded = await self._encode_bytes(model.shared.encoder, image, timings)
        return await self._from_output(model, encoded, timings)

    def forget(self, tenant: str, image_id: str, keep: str | None = None) -> set[str]:
        """Remove an image's file and embeddings; requests in progress do not cache them again.

        Args:
            tenant: owner of the image.
            image_id: its id: the client's, or the digest that names an image without one.
            keep: digest of a file that the id keeps. Default: none.

        Returns:
            Digests of the removed files and embeddings.
        """
        names = {f"id:{image_id}", f"sha256:{image_id}"}
        digests = self.embeddings.discard(
            lambda key: key.tenant == tenant and key.image in names, keep
        )
        stored = self._image_loader.images.forget(tenant, image_id, keep)
        return digests if stored is None else digests | {stored.digest}

    def rename(self, encoded: EncodedImage, image_id: str) -> None:
        """Let an id name an embedding that was computed under the digest of its file.

        Args:
            encoded: the image; its embedding stays cached under the digest if it was a hit.
            image_id: the client's id for the image.
        """
        key, name = encoded.key, f"id:{image_id}"
        if key.image == name:
            return
        if not encoded.hit:
            self.embeddings.discard(lambda each: each == key)
        self.embeddings.put(
            replace(key, image=name), CachedEmbedding(encoded.embedding, encoded.digest)
        )

    async def _compared(self, encoded: EncodedImage, image: ImageRef) -> PendingImage:
        """Compare the image that a request sent with the cached one that is used instead."""
        differs = self._differs(image, encoded.digest)
        if image.file is None and image.base64 is not None:
            return PendingImage(encoded, asyncio.create_task(differs))
        # Nothing to decode or hash, so a click by id does not pay for a task.
        return PendingImage(replace(encoded, mismatch=await differs))

    async def _differs(self, image: ImageRef, digest: str) -> bool:
        """Whether the request sent an image whose digest differs from this one."""
        return await self._image_loader.sent_digest(image) not in (None, digest)

    async def evict_half(self) -> None:
        """Evict half of the cached embeddings, after memory ran out.

        Concurrent callers share one eviction, so many failures at once evict only one half.
        """
        if self._eviction is None or self._eviction.done():
            self._eviction = asyncio.ensure_future(self._evict_half())
        await asyncio.shield(self._eviction)

    async def _evict_half(self) -> None:
        from inference_server.engines.device import release_memory

        before = self.embeddings.nbytes
        await self.embeddings.shrink()
        await asyncio.to_thread(release_memory)
        logger.warning(
            "Out of memory: reduced the cached embeddings from %d MiB to %d MiB; the limit is %d "
            "MiB until DELETE /models",
            before // MiB,
            self.embeddings.nbytes // MiB,
            self.embeddings.max_bytes // MiB,
        )

    async def _encode_bytes(
        self, model: LoadedEncoder, image: StoredImage, timings: Timings
    ) -> CachedEmbedding:
        """Decode an image file and encode it."""
        settings = self._settings

        def prepare(header: Header) -> Prepared:
            picture = decode_picture(
                image.data,
                max_pixels=settings.max_image_pixels,
                max_side=settings.max_image_side,
                max_metadata_items=settings.max_tiff_metadata_items,
                side=model.side,
                header=header,
            )
            stop_if_cancelled()
            return model.prepare(picture.pixels, picture.size, picture.extent)

        def prepare_if_quick() -> Prepared | Header:
            header = read_header(image.data)
            slow = is_slow(header, max_pixels=settings.slow_image_pixels, side=model.side)
            return header if slow else prepare(header)

        with timings.measure("decode"):
            prepared = await self._threads.run_in_background(prepare_if_quick)
            if isinstance(prepared, Header):  # a slow image must not delay the quick ones
                prepared = await self._threads.run_slow(partial(prepare, prepared))
        done = await model.encode(prepared)
        self._record_encode(model, done, timings)
        return CachedEmbedding(done.value, image.digest)

    def _record_encode(
        self, model: LoadedEncoder, done: BatchResult[Embedding], timings: Timings
    ) -> None:
        timings.add("queue", done.queued, before=done.worked)
        timings.add("encode", done.worked)
        self._metrics.count_batches(model.encode_name, done.led)


def _copy_to(embedding: Embedding, device: Any) -> Embedding:
    """Copy an embedding to a device; raises `MemoryShortageError` if memory runs out."""
    from inference_server.engines.oom import raise_on_oom

    return raise_on_oom("embedding", lambda: embedding.to(device))


def _quarter_of_memory() -> int:
    """A quarter of the machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
