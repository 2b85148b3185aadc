"""The heart: an image and prompts become masks.

The only place where the caches, the engines and the masks meet. It knows nothing of HTTP or of any
contract; every contract's routes call the same methods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from inference_server.automatic import AutomaticMasks, AutomaticOptions
from inference_server.encoder import Encoded, Encoder, ImageRef
from inference_server.engines.base import Candidates, ConceptPrompt, VisualPrompt, queries
from inference_server.engines.registry import ModelRegistry
from inference_server.engines.worker import Done
from inference_server.images import ImageFetcher
from inference_server.instances import Instance, instances_of, suppressed
from inference_server.logits import LogitsCache
from inference_server.metrics import Metrics, Timings
from inference_server.places import refuse_outside
from inference_server.settings import MiB, Settings
from inference_server.threads import Threads

T = TypeVar("T")
_LEAST_PART = 8
"""Prompts whose masks are not worth a second thread."""


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
        self._metrics = metrics
        self._threads = Threads(settings.cpu_workers)
        self.models = models
        self.encoder = Encoder(settings, models.compute.device, fetcher, metrics, self._threads)
        self.logits = LogitsCache(settings.logits_cache_mb * MiB)
        models.relieve = self.encoder.relieve

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run CPU work in a worker thread, away from the event loop."""
        return await self._threads.run(work)

    async def _masks(self, size: tuple[int, int], answers: Sequence[Candidates]) -> list[Instance]:
        """Make the masks of answers; of many, in several threads at a time."""
        numbered = list(enumerate(answers))
        step = max(_LEAST_PART, -(-len(numbered) // self._threads.count))
        parts = [numbered[start : start + step] for start in range(0, len(numbered), step)]
        done = await asyncio.gather(
            *(self.in_thread(partial(instances_of, size, part)) for part in parts)
        )
        return [instance for part in done for instance in part]

    async def concept(
        self,
        tenant: str,
        image: ImageRef,
        prompts: Sequence[ConceptPrompt],
        *,
        nms_iou_threshold: float | None,
        within: bool = False,
        timings: Timings,
    ) -> Segmentation:
        """Find every instance of each concept.

        Args:
            tenant: owner of the image.
            image: the image.
            prompts: the concepts.
            nms_iou_threshold: drop an instance whose mask overlaps a more confident one, of any
                prompt, by more than this IoU; None keeps all.
            within: refuse prompts that lie outside of the image.
            timings: of the request.

        Returns:
            The instances.

        Raises:
            RequestError: a prompt lies outside, `within` given.
        """
        model = await self.models.concept()
        encoded = await self.encoder.encode(tenant, model, image, timings)
        if within:
            refuse_outside(encoded.embedding.size, prompts)
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
        within: bool = False,
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
            within: refuse prompts that lie outside of the image.
            timings: of the request.

        Returns:
            One instance a prompt, in their order; three where it is not the best alone.

        Raises:
            RequestError: a prompt lies outside, `within` given.
        """
        model = await self.models.visual(version)
        encoded = await self.encoder.encode(tenant, model, image, timings)
        if within:
            refuse_outside(encoded.embedding.size, prompts)
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
        encoded = await self.encoder.encode(tenant, model, image, timings)
        masks = AutomaticMasks(model, encoded.embedding, options, self.in_thread)
        with timings.measure("decode-prompts"):
            await masks.search(partial(self._metrics.count_batches, f"{model.family} decode"))
        with timings.measure("masks"):
            instances = await masks.finish()
        return Segmentation(encoded, instances)

    def _decoded(self, family: str, done: Done[list[Candidates]], timings: Timings) -> None:
        timings.add("queue", done.queued, before=done.worked)
        timings.add("decode-prompts", done.worked)
        self._metrics.count_batches(f"{family} decode", done)

    def forget(self) -> None:
        """Forget every image and every answer."""
        self.encoder.forget()
        self.logits.clear()

    def close(self) -> None:
        """Stop the worker threads and unload the models."""
        self.models.close()
        self._threads.close()
