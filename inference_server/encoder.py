"""Images become embeddings: fetched, decoded and encoded, each only where it is not known yet."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from inference_server.embeddings import EmbeddingCache, ImageKey
from inference_server.engines.base import Embedding, Prepared
from inference_server.engines.registry import ConceptModel, VisualModel
from inference_server.errors import (
    ImageError,
    ImageTooLargeError,
    InferenceServerError,
    MemoryShortageError,
    UnknownImageError,
)
from inference_server.host_tier import CachedEmbedding, HostTier
from inference_server.images import ImageFetcher, decode_base64, decode_image, decode_picture
from inference_server.images.store import ImageStore, StoredImage
from inference_server.metrics import Metrics, Timings
from inference_server.settings import MiB, Settings
from inference_server.threads import Threads

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")

_DEFAULT_CACHE_MB = {"cpu": 2048, "mps": 2048, "cuda": 8192}
_MOST_IN_FULL = 2
"""Images that are decoded in full at a time: one of 50 million pixels and a drawing over it take
half a GB."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image as a request names it; at least one of the four is given.

    Attributes:
        url: to fetch it from.
        base64: its encoded bytes as base64.
        file: its encoded bytes, with their digest.
        image_id: the client's name for it.
    """

    url: str | None = None
    base64: str | None = None
    file: StoredImage | None = None
    image_id: str | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image that is ready for prompts, and how it came to be so.

    Attributes:
        key: in the embedding cache.
        embedding: of the image.
        model: label of the checkpoint.
        hit: the embedding was there already.
        digest: SHA-256 of the image's bytes.
        mismatch: bytes were sent that differ from those cached under the id.
    """

    key: ImageKey
    embedding: Embedding
    model: str
    hit: bool
    digest: str
    mismatch: bool = False

    @classmethod
    def joined(cls, images: Sequence[Encoded]) -> Encoded:
        """What several models made of one image, told as one; the last one's embedding."""
        return replace(
            images[-1],
            model=", ".join(image.model for image in images),
            hit=all(image.hit for image in images),
            mismatch=any(image.mismatch for image in images),
        )


class Encoder:
    """Makes images ready for prompts, behind the caches of embeddings and of images.

    Args:
        settings: bounds and sizes.
        device: that the models compute on.
        fetcher: fetches images by URL.
        metrics: where durations go.
        threads: for work on images.

    Attributes:
        embeddings: of images.
        images: the files of those that have an id.
    """

    def __init__(
        self,
        settings: Settings,
        device: torch.device,
        fetcher: ImageFetcher,
        metrics: Metrics,
        threads: Threads,
    ) -> None:
        self._settings = settings
        self._fetcher = fetcher
        self._metrics = metrics
        self._threads = threads
        room = settings.embedding_cache_mb or _DEFAULT_CACHE_MB.get(device.type, 2048)
        self.embeddings = EmbeddingCache(room * MiB, self._host_tier(device))
        self.images = ImageStore(settings.image_cache_mb * MiB)
        self._in_full = asyncio.Semaphore(_MOST_IN_FULL)
        self._relief: asyncio.Future[None] | None = None

    def _host_tier(self, device: torch.device) -> HostTier | None:
        """The cache's second tier, where the first one is not in host memory itself."""
        if device.type == "cpu":
            return None
        room = self._settings.host_cache_mb * MiB or _quarter_of_memory()

        async def to_host(embedding: Embedding) -> Embedding:
            return await self._threads.run_in_background(lambda: embedding.to("cpu"))

        async def to_device(embedding: Embedding) -> Embedding:
            try:
                return await self._threads.run(lambda: _moved(embedding, device))
            except MemoryShortageError:
                await self.relieve()
            return await self._threads.run(lambda: _moved(embedding, device))

        return HostTier(room, to_host=to_host, to_device=to_device)

    async def encode(
        self,
        tenant: str,
        model: ConceptModel | VisualModel,
        image: ImageRef,
        timings: Timings,
        *,
        keep: bool = False,
    ) -> Encoded:
        """Make an image ready for prompts, from the cache where possible.

        With a cached `image_id`, an image that is sent along is neither fetched nor decoded.

        Args:
            tenant: owner of the image.
            model: that will answer.
            image: the image.
            timings: of the request.
            keep: let the digest of an image without an id be its id in later requests.

        Returns:
            The encoded image.

        Raises:
            ImageError: it cannot be fetched or decoded.
            UnknownImageError: there is only an id, and it is not cached.
        """
        if image.image_id is not None:
            key = ImageKey(tenant, model.label, f"id:{image.image_id}")
            known = await self.embeddings.find(key)
            if known is not None:
                sent = await self._sent_digest(image)
                mismatch = sent not in (None, known.digest)
                return Encoded(key, known.embedding, model.label, True, known.digest, mismatch)
        stored, mismatch = await self._load(tenant, image, timings)
        by_digest = image.image_id in (None, stored.digest)
        name = f"sha256:{stored.digest}" if by_digest else f"id:{image.image_id}"
        key = ImageKey(tenant, model.label, name)
        entry, hit = await self.embeddings.get_or_create(
            key, partial(self._encode_bytes, model, stored, timings)
        )
        if entry.digest != stored.digest:  # another image came first under this id
            mismatch = True
        elif keep or image.image_id is not None:
            # Not before: an image that cannot be decoded must not hold on to the id.
            self.images.put(tenant, image.image_id or stored.digest, stored)
        return Encoded(key, entry.embedding, model.label, hit, entry.digest, mismatch)

    async def read(self, tenant: str, image: ImageRef, timings: Timings) -> StoredImage:
        """The file of an image, for who needs more of it than its embedding.

        As `ImageRef(file=...)` it goes to the engines without being fetched again.

        Args:
            tenant: owner of the image.
            image: the image.
            timings: of the request.

        Raises:
            ImageError: it cannot be fetched.
            ImageTooLargeError: it is over a limit.
            UnknownImageError: there is only an id, and it is not cached.
        """
        stored, _ = await self._load(tenant, image, timings)
        return stored

    async def on_pixels(
        self, image: StoredImage, work: Callable[[NDArray[np.uint8]], T], timings: Timings
    ) -> T:
        """Decode an image in full, and do something with its pixels; the engines need less of it.

        Both in one thread, and of few images at a time: pixels that wait are memory.

        Args:
            image: the image.
            work: takes `uint8[H, W, 3]`, RGB.
            timings: of the request.

        Raises:
            ImageError: it cannot be decoded.
            ImageTooLargeError: it has too many pixels.
        """
        limit = self._settings.max_image_pixels

        def run() -> T:
            with timings.measure("decode"):
                pixels = decode_image(image.data, max_pixels=limit)
            return work(pixels)

        async with self._in_full:
            return await self._threads.run_in_background(run)

    async def relieve(self) -> None:
        """Make room where memory ran out: half of the embeddings go.

        Those who ask meanwhile wait for the same, so that many failures at once cost one half.
        """
        if self._relief is None or self._relief.done():
            self._relief = asyncio.ensure_future(self._make_room())
        await asyncio.shield(self._relief)

    async def _make_room(self) -> None:
        from inference_server.engines.device import release_memory

        before = self.embeddings.nbytes
        await self.embeddings.shrink()
        await asyncio.to_thread(release_memory)
        logger.warning(
            "Memory ran out: of %d MiB of embeddings %d MiB are kept, and no more than %d MiB "
            "until DELETE /models",
            before // MiB,
            self.embeddings.nbytes // MiB,
            self.embeddings.max_bytes // MiB,
        )

    def forget(self) -> None:
        """Forget every image."""
        self.embeddings.clear()
        self.images.clear()

    async def _sent_digest(self, image: ImageRef) -> str | None:
        """Digest of the bytes that were sent; None if none were, "" if they cannot be read."""
        if image.file is not None:
            return image.file.digest
        if image.base64 is None:
            return None
        try:
            return (await self._decode_base64(image.base64)).digest
        except (ImageError, ImageTooLargeError):
            return ""

    async def _load(
        self, tenant: str, image: ImageRef, timings: Timings
    ) -> tuple[StoredImage, bool]:
        """The image's bytes, by its id if they are kept, and whether others were sent with it."""
        kept = None
        if image.image_id is not None:
            kept = self.images.get(tenant, image.image_id)
        if kept is not None:
            sent = await self._sent_digest(image)
            return kept, sent not in (None, kept.digest)
        if image.file is not None:
            stored = image.file
        elif image.base64 is not None:
            with timings.measure("decode"):
                stored = await self._decode_base64(image.base64)
        elif image.url is not None:
            with timings.measure("fetch"):
                data = await self._fetch(image.url)
            stored = await self._threads.run(partial(StoredImage.of, data))
        else:
            raise UnknownImageError(
                "No image is cached under this image_id (it was never sent with this API key, or "
                "has been dropped for room). Send the image along with the id."
            )
        return stored, False

    async def _fetch(self, url: str) -> bytes:
        """Fetch an image, and count how that went."""
        outcome = "failed"
        try:
            data = await self._fetcher.fetch(url)
            outcome = "done"
        except InferenceServerError as error:
            outcome = error.reason
            raise
        finally:
            self._metrics.fetches.labels(outcome).inc()
        return data

    async def _decode_base64(self, text: str) -> StoredImage:
        limit = self._settings.max_image_mb * MiB
        return await self._threads.run(lambda: StoredImage.of(decode_base64(text, max_bytes=limit)))

    async def _encode_bytes(
        self, model: ConceptModel | VisualModel, image: StoredImage, timings: Timings
    ) -> CachedEmbedding:
        limit = self._settings.max_image_pixels

        def prepare() -> Prepared:
            picture = decode_picture(image.data, max_pixels=limit, side=model.side)
            return model.prepare(picture.pixels, picture.size, picture.extent)

        with timings.measure("decode"):
            prepared = await self._threads.run_in_background(prepare)
        done = await model.encode(prepared)
        timings.add("queue", done.queued, before=done.worked)
        timings.add("encode", done.worked)
        self._metrics.count_batches(f"{model.family} encode", done)
        return CachedEmbedding(done.value, image.digest)


def _moved(embedding: Embedding, device: torch.device) -> Embedding:
    """The embedding on another device, or `MemoryShortageError`."""
    from inference_server.engines.memory import sparingly

    return sparingly("embedding", lambda: embedding.to(device))


def _quarter_of_memory() -> int:
    """Bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
