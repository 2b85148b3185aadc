"""The heart: an image and prompts become masks.

The only place where the caches, the engines and the masks meet. It knows nothing of HTTP or of any
contract; every contract's routes call the same methods.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from inference_server.automatic import AutomaticMasks, AutomaticOptions
from inference_server.embeddings import EmbeddingCache, ImageKey
from inference_server.engines.base import (
    Candidates,
    ConceptPrompt,
    Embedding,
    Prepared,
    VisualPrompt,
    queries,
)
from inference_server.engines.registry import ConceptModel, ModelRegistry, VisualModel
from inference_server.engines.worker import BACKGROUND, Done, be_nice
from inference_server.errors import ImageError, ImageTooLargeError, UnknownImageError
from inference_server.host_tier import CachedEmbedding, HostTier
from inference_server.images import ImageFetcher, decode_base64, decode_picture
from inference_server.images.store import ImageStore, StoredImage
from inference_server.instances import Instance, instances_of, suppressed
from inference_server.logits import LogitsCache
from inference_server.metrics import Metrics, Timings
from inference_server.settings import MiB, Settings

T = TypeVar("T")
_LEAST_PART = 8
"""Prompts whose masks are not worth a second thread."""

_DEFAULT_CACHE_MB = {"cpu": 2048, "mps": 2048, "cuda": 8192}


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


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The answer to a request: instances in prompt order, best first within a prompt.

    Of `Segmenter.automatic` they come best first.
    """

    image: Encoded
    instances: list[Instance]


class Segmenter:
    """Images and prompts to masks, over one set of models and caches.

    Args:
        settings: bounds and sizes.
        models: the models.
        fetcher: fetches images by URL.
        metrics: where durations go.
    """

    def __init__(
        self, settings: Settings, models: ModelRegistry, fetcher: ImageFetcher, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._fetcher = fetcher
        self._metrics = metrics
        self.models = models
        room = settings.embedding_cache_mb or _DEFAULT_CACHE_MB.get(
            models.compute.device.type, 2048
        )
        self.embeddings = EmbeddingCache(room * MiB, self._host_tier())
        self.images = ImageStore(settings.image_cache_mb * MiB)
        self.logits = LogitsCache(settings.logits_cache_mb * MiB)
        self._threads = workers = settings.cpu_workers or max(2, os.cpu_count() or 1)
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="cpu")
        # Images are read in the background, as encoding them is: masks of others need not wait.
        self._readers = ThreadPoolExecutor(
            workers, thread_name_prefix="images", initializer=be_nice, initargs=(BACKGROUND,)
        )

    def _host_tier(self) -> HostTier | None:
        """The cache's second tier, where the first one is not in host memory itself."""
        device = self.models.compute.device
        if device.type == "cpu":
            return None
        room = self._settings.host_cache_mb * MiB or _quarter_of_memory()

        async def to_host(embedding: Embedding) -> Embedding:
            return await self._in_background(lambda: embedding.to("cpu"))

        async def to_device(embedding: Embedding) -> Embedding:
            return await self.in_thread(lambda: embedding.to(device))

        return HostTier(room, to_host=to_host, to_device=to_device)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run CPU work in a worker thread, away from the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)

    async def _in_background(self, work: Callable[[], T]) -> T:
        """Run CPU work on an image in a thread that lets others go first."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def _masks(self, size: tuple[int, int], answers: Sequence[Candidates]) -> list[Instance]:
        """Make the masks of answers; of many, in several threads at a time."""
        numbered = list(enumerate(answers))
        step = max(_LEAST_PART, -(-len(numbered) // self._threads))
        parts = [numbered[start : start + step] for start in range(0, len(numbered), step)]
        done = await asyncio.gather(
            *(self.in_thread(partial(instances_of, size, part)) for part in parts)
        )
        return [instance for part in done for instance in part]

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
                data = await self._fetcher.fetch(image.url)
            stored = await self.in_thread(partial(StoredImage.of, data))
        else:
            raise UnknownImageError(
                "No image is cached under this image_id (it was never sent with this API key, or "
                "has been dropped for room). Send the image along with the id."
            )
        return stored, False

    async def _decode_base64(self, text: str) -> StoredImage:
        limit = self._settings.max_image_mb * MiB
        return await self.in_thread(lambda: StoredImage.of(decode_base64(text, max_bytes=limit)))

    async def _encode_bytes(
        self, model: ConceptModel | VisualModel, image: StoredImage, timings: Timings
    ) -> CachedEmbedding:
        limit = self._settings.max_image_pixels

        def prepare() -> Prepared:
            picture = decode_picture(image.data, max_pixels=limit, side=model.side)
            return model.prepare(picture.pixels, picture.size, picture.extent)

        with timings.measure("decode"):
            prepared = await self._in_background(prepare)
        done = await model.encode(prepared)
        timings.add("queue", done.queued)
        timings.add("encode", done.worked)
        self._batches(f"{model.family} encode", done)
        return CachedEmbedding(done.value, image.digest)

    async def concept(
        self,
        tenant: str,
        image: ImageRef,
        prompts: Sequence[ConceptPrompt],
        *,
        nms_iou_threshold: float | None,
        timings: Timings,
    ) -> Segmentation:
        """Find every instance of each concept.

        Args:
            tenant: owner of the image.
            image: the image.
            prompts: the concepts.
            nms_iou_threshold: drop an instance whose mask overlaps a more confident one, of any
                prompt, by more than this IoU; None keeps all.
            timings: of the request.

        Returns:
            The instances.
        """
        model = await self.models.concept()
        encoded = await self.encode(tenant, model, image, timings)
        done = await model.decode(queries(encoded.embedding, prompts))
        self._decoded(model.family, done, timings)
        with timings.measure("masks"):
            instances = await self._masks(encoded.embedding.size, done.value)
            if nms_iou_threshold is not None:
                suppress = partial(suppressed, instances, nms_iou_threshold)
                instances = await self.in_thread(suppress)
        return Segmentation(encoded, instances)

    async def visual(
        self,
        tenant: str,
        version: str,
        image: ImageRef,
        prompts: Sequence[VisualPrompt],
        *,
        multimask: bool,
        best: bool = True,
        save_logits: bool = False,
        load_logits: bool = False,
        timings: Timings,
    ) -> Segmentation:
        """Segment one object a prompt.

        Args:
            tenant: owner of the image.
            version: SAM 2 size.
            image: the image.
            prompts: the objects.
            multimask: have three candidates a prompt, otherwise one.
            best: choose the best of the three.
            save_logits: keep the answers for later prompts on this image.
            load_logits: start from the best earlier answer that a prompt refines.
            timings: of the request.

        Returns:
            One instance a prompt, in their order; three where it is not the best alone.
        """
        model = await self.models.visual(version)
        encoded = await self.encode(tenant, model, image, timings)
        # By the image's bytes: an id that was dropped may be given to another image.
        key = replace(encoded.key, image=f"sha256:{encoded.digest}")
        asked = list(prompts)
        if load_logits:
            asked = [replace(prompt, mask_input=self.logits.find(key, prompt)) for prompt in asked]
        done = await model.decode(queries(encoded.embedding, asked, multimask=multimask, best=best))
        self._decoded(model.family, done, timings)
        with timings.measure("masks"):
            instances = await self._masks(encoded.embedding.size, done.value)
        if save_logits:
            for instance in instances:
                if instance.logits is not None:
                    self.logits.save(key, prompts[instance.prompt], instance.logits)
        return Segmentation(encoded, instances)

    async def automatic(
        self,
        tenant: str,
        version: str,
        image: ImageRef,
        options: AutomaticOptions,
        *,
        timings: Timings,
    ) -> Segmentation:
        """Segment everything.

        Args:
            tenant: owner of the image.
            version: SAM 2 size.
            image: the image.
            options: what to look for.
            timings: of the request; masks are made while others are decoded, which is one step.

        Returns:
            The instances by descending predicted IoU; `prompt` is the index of a grid point.
        """
        model = await self.models.visual(version)
        encoded = await self.encode(tenant, model, image, timings)
        masks = AutomaticMasks(model, encoded.embedding, options, self.in_thread)
        with timings.measure("decode-prompts"):
            await masks.search(partial(self._batches, f"{model.family} decode"))
        with timings.measure("masks"):
            instances = await masks.finish()
        return Segmentation(encoded, instances)

    def _batches(self, lane: str, done: Done[T]) -> None:
        """Count each forward once: with the request whose item was its first."""
        for size in done.led:
            self._metrics.batches.labels(lane).observe(size)

    def _decoded(self, family: str, done: Done[list[Candidates]], timings: Timings) -> None:
        timings.add("queue", done.queued)
        timings.add("decode-prompts", done.worked)
        self._batches(f"{family} decode", done)

    def close(self) -> None:
        """Stop the worker threads and unload the models."""
        self.models.close()
        for pool in (self._workers, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)


def _quarter_of_memory() -> int:
    """Bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
