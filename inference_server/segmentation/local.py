"""The segmentation service that runs the models in this process.

It combines the caches, the engines and the masks, and is independent of HTTP and of any vendor's
API.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from prometheus_client import Metric

from inference_server.engines.base import Candidates, queries
from inference_server.engines.batch_queue import BatchResult
from inference_server.engines.catalog import ModelKey
from inference_server.engines.model import ConceptModel, VisualModel
from inference_server.engines.registry import ModelRegistry
from inference_server.executor import Threads
from inference_server.images import ImageFetcher
from inference_server.observability.metrics import Metrics, Timings
from inference_server.segmentation.automatic import AutomaticMasks
from inference_server.segmentation.cache.mask_inputs import MaskInputCache
from inference_server.segmentation.encoder import Encoder
from inference_server.segmentation.image_loader import ImageLoader, fetcher_of
from inference_server.segmentation.metrics import readings_of
from inference_server.segmentation.model_access import ModelAccess
from inference_server.segmentation.pending_image import PendingImage
from inference_server.segmentation.postprocess import suppress_overlaps, to_instances
from inference_server.segmentation.prompts import cut_to_image
from inference_server.segmentation.service import SegmentationService
from inference_server.segmentation.types import (
    AutomaticOptions,
    Checkpoint,
    ConceptOptions,
    ConceptPrompt,
    EmbeddingTarget,
    EncodedImage,
    ImageRef,
    Instance,
    SegmentationResult,
    StoredImage,
    VisualOptions,
    VisualPrompt,
)
from inference_server.settings import MiB, Settings

logger = logging.getLogger(__name__)

_MIN_PER_THREAD = 8
"""Minimum prompts per thread when masks are made; for fewer, a thread costs more than it saves."""

_FILES_CACHE_MB = 1024
"""Embedding cache of `for_files` in MiB: a run uses each embedding once or twice, at once."""


class LocalSegmentationService(SegmentationService):
    """A `SegmentationService` with one set of models and caches, in this process.

    Args:
        settings: limits, cache sizes and the number of worker threads.
        models: loads the models on demand.
        fetcher: fetches images by URL.
        metrics: counts fetches and batch sizes.

    Attributes:
        models: the models.
        encoder: encodes images behind the embedding cache.
        logits: low-resolution logits of earlier results.
    """

    def __init__(
        self, settings: Settings, models: ModelRegistry, fetcher: ImageFetcher, metrics: Metrics
    ) -> None:
        threads = Threads(settings.cpu_workers, settings.slow_workers)
        loader = ImageLoader(settings, fetcher, metrics, threads)
        super().__init__(threads, loader, models.catalog)
        self._settings = settings
        self._metrics = metrics
        self.models = models
        self.encoder = Encoder(settings, models.compute.device, self.image_loader, metrics, threads)
        self.logits = MaskInputCache(settings.logits_cache_mb * MiB, settings.logits_per_image)
        models.evict_half = self.encoder.evict_half
        self._access = ModelAccess(models)

    @classmethod
    def for_files(cls, settings: Settings) -> LocalSegmentationService:
        """Create a service for a command that segments files without a server.

        Its embedding cache is small. Models are loaded on demand; the caller closes the service.

        Args:
            settings: settings, as for a server; those of HTTP, keys and jobs have no effect.

        Returns:
            The service.

        Raises:
            ModelUnavailableError: the configured weights or device do not exist.
        """
        size = settings.embedding_cache_mb or _FILES_CACHE_MB
        # The host tier never pays off for files; 1 MiB is too small for any embedding.
        settings = settings.model_copy(update={"embedding_cache_mb": size, "host_cache_mb": 1})
        return cls(settings, ModelRegistry(settings), fetcher_of(settings), Metrics())

    async def _masks(self, size: tuple[int, int], results: Sequence[Candidates]) -> list[Instance]:
        """Make the masks of all results, in several threads if there are many."""
        numbered = list(enumerate(results))
        step = max(_MIN_PER_THREAD, -(-len(numbered) // self._threads.count))
        parts = [numbered[start : start + step] for start in range(0, len(numbered), step)]
        done = await asyncio.gather(
            *(self.in_thread(partial(to_instances, size, part)) for part in parts)
        )
        return [instance for part in done for instance in part]

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
        loaded, key = await self._access.concept(model, timings)
        async with self._encoding(tenant, loaded, image, timings) as pending:
            encoded = pending.image
            prompts = cut_to_image(encoded.embedding.size, prompts, refuse=options.within)
            done = await loaded.decode(
                queries(encoded.embedding, prompts, tenant=tenant, masks=True)
            )
            self._record_decode(loaded.decode_name, done, timings)
            with timings.measure("masks"):
                instances = await self._masks(encoded.embedding.size, done.value)
                if options.nms_iou_threshold is not None:
                    suppress = partial(suppress_overlaps, instances, options.nms_iou_threshold)
                    instances = await self.in_thread(suppress)
            used = replace(await pending.checked(), answered_by=(key,))
            kept = any(prompt.keep_exemplars for prompt in prompts)
            exemplars = tuple(each.exemplars for each in done.value) if kept else ()
            return SegmentationResult(used, instances, exemplars)

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
        loaded, selected = await self._access.visual(model, timings)
        async with self._encoding(tenant, loaded, image, timings) as pending:
            encoded = pending.image
            prompts = cut_to_image(encoded.embedding.size, prompts, refuse=options.within)
            # Keyed by digest, because an evicted id may be reused for another image.
            key = replace(encoded.key, image=f"sha256:{encoded.digest}")
            inputs = list(prompts)
            if options.load_logits:
                inputs = [
                    replace(prompt, mask_input=self.logits.find(key, prompt)) for prompt in inputs
                ]
            done = await loaded.decode(
                queries(
                    encoded.embedding,
                    inputs,
                    multimask=options.multimask,
                    best=options.best,
                    logits=options.save_logits or options.logits,
                    masks=True,
                )
            )
            self._record_decode(loaded.decode_name, done, timings)
            with timings.measure("masks"):
                instances = await self._masks(encoded.embedding.size, done.value)
            if options.save_logits:
                for instance in instances:
                    if instance.logits is not None:
                        self.logits.save(key, prompts[instance.prompt], instance.logits)
            used = replace(await pending.checked(), answered_by=(selected,))
            return SegmentationResult(used, instances)

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
        loaded, key = await self._access.visual(model, timings)
        async with self._encoding(tenant, loaded, image, timings) as pending:
            encoded = pending.image
            masks = AutomaticMasks(
                loaded,
                encoded.embedding,
                options,
                self.in_thread,
                max_candidate_bytes=self._settings.automatic_memory_mb * MiB,
            )
            with timings.measure("decode-prompts"):
                await masks.search(
                    lambda done: self._metrics.count_batches(loaded.decode_name, done.led)
                )
            with timings.measure("masks"):
                instances = await masks.finish()
            used = replace(await pending.checked(), answered_by=(key,))
            return SegmentationResult(used, instances)

    @asynccontextmanager
    async def _encoding(
        self, tenant: str, model: ConceptModel | VisualModel, image: ImageRef, timings: Timings
    ) -> AsyncIterator[PendingImage]:
        """Encode an image, and keep its model from being unloaded meanwhile."""
        with model.in_use():
            async with self.encoder.encoding(tenant, model, image, timings) as pending:
                yield pending

    def _record_decode(
        self, queue: str, done: BatchResult[list[Candidates]], timings: Timings
    ) -> None:
        timings.add("queue", done.queued, before=done.worked)
        timings.add("decode-prompts", done.worked)
        self._metrics.count_batches(queue, done.led)

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
        since = self.image_loader.images.moment
        name, sent = image.image_id, image
        stored: StoredImage | None = None
        if overwrite and name is not None:
            stored, _ = await self.image_loader.load(tenant, replace(image, image_id=None), timings)
            # Under its digest, so that the id names the earlier image until all have encoded this.
            sent = ImageRef(file=stored, image_id=name, pinned=True)
        done: list[EncodedImage] = []
        keys: list[ModelKey] = []
        # One model after the other: the memory for weights may be enough for one of them only.
        for target in targets:
            model, key = await self._access.of_target(target, timings)
            with model.in_use():
                done.append(
                    await self.encoder.encode(
                        *(tenant, model, sent, timings),
                        keep=stored is None,
                        since=since if stored is None else None,
                    )
                )
            keys.append(key)
            if stored is None:
                # With an id, the next engine finds the stored file: a URL is fetched only once.
                sent = replace(sent, image_id=name or done[-1].digest)
        if stored is not None and name is not None:
            self._forget_image(tenant, name, stored.digest)
            self.image_loader.images.put(tenant, name, stored)
            for encoded in done:
                self.encoder.rename(encoded, name)
        return replace(EncodedImage.joined(done), answered_by=tuple(dict.fromkeys(keys)))

    async def forget_image(self, tenant: str, image_id: str, keep: str | None = None) -> bool:
        """See `SegmentationService`."""
        return self._forget_image(tenant, image_id, keep)

    def _forget_image(self, tenant: str, image_id: str, keep: str | None) -> bool:
        digests = self.encoder.forget(tenant, image_id, keep)
        self.logits.discard(tenant, digests)
        return bool(digests)

    async def read(self, tenant: str, image: ImageRef, timings: Timings) -> StoredImage:
        """See `SegmentationService`."""
        stored, _ = await self.image_loader.load(tenant, image, timings)
        return stored

    async def start(self) -> None:
        """Log the device, dtypes and sizes that the settings resolve to on this machine."""
        compute, effort, cache = self.models.compute, self.models.effort, self.encoder.embeddings
        logger.info(
            "Computing on %s in %s; %d CPU threads; encode batch %d, decode batch %d; embedding "
            "cache in %s: %d MiB%s",
            compute.device,
            compute.dtype_name,
            effort.threads,
            effort.encode_batch,
            effort.decode_batch,
            compute.cache_dtype_name,
            cache.max_bytes // MiB,
            f" and {cache.host_max_bytes // MiB} MiB in host memory"
            if cache.host_max_bytes
            else "",
        )

    async def load(self) -> None:
        """See `SegmentationService`."""
        await self.models.load_configured()

    def has_loaded(self) -> bool:
        """See `SegmentationService`."""
        return self.models.has_configured()

    async def checkpoints(self) -> list[Checkpoint]:
        """See `SegmentationService`."""
        return self._access.checkpoints()

    async def load_model(self, key: ModelKey) -> None:
        """See `SegmentationService`."""
        await self.models.load(key)

    async def unload_model(self, key: ModelKey) -> None:
        """See `SegmentationService`."""
        await self._access.unload(key)

    async def clear(self) -> None:
        """See `SegmentationService`."""
        await self._access.unload(then=self.forget)

    def forget(self) -> None:
        """Empty all caches; the models stay loaded."""
        self.encoder.embeddings.clear()
        self.image_loader.images.clear()
        self.logits.clear()

    async def evict_half(self) -> None:
        """See `SegmentationService`."""
        await self.encoder.evict_half()

    def readings(self) -> Iterable[Metric]:
        """See `SegmentationService`."""
        return readings_of(
            self.models,
            self.encoder.embeddings,
            self.image_loader.images,
            self.logits,
            self._settings,
        )

    def close(self) -> None:
        """Stop the worker threads and unload the models."""
        self.models.close()
        super().close()
