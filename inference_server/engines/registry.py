"""Load models on demand, once each, and keep them until they are unloaded."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from inference_server.engines.base import Engine, VisualPrompt
from inference_server.engines.catalog import Catalog, ModelKey, SomeCheckpoint
from inference_server.engines.imports import importing
from inference_server.engines.loaded_weights import LoadedWeights, QueueAssembly, Sam3Engines
from inference_server.engines.model import (
    ConceptModel,
    Effort,
    EvictHalf,
    LoadedEncoder,
    VisualModel,
)
from inference_server.engines.sam1.weights import Sam1Checkpoint
from inference_server.engines.warm_up import warm_up
from inference_server.engines.weights import Sam2Checkpoint, Sam3Checkpoint
from inference_server.errors import CapacityError, ModelUnavailableError
from inference_server.settings import MiB, Settings

logger = logging.getLogger(__name__)

_RETRY_AFTER = 2.0
"""Value of the `Retry-After` header in seconds while all models in memory are in use."""

EnginesT = TypeVar("EnginesT", Engine[VisualPrompt], Sam3Engines)
T = TypeVar("T")


class ModelRegistry:
    """Loads models once, on demand, and keeps them until they are unloaded.

    Args:
        settings: Where the weights are, which models to preload, what to compute on, and the
            memory for weights.

    Attributes:
        catalog: The configured models.
        compute: Device and dtypes.
        effort: Threads and batch sizes.
        wanted: Models to load before the server is ready.
        evict_half: Frees memory when it runs out; set by the owner of the caches.

    Raises:
        ModelUnavailableError: A setting names an unknown model, weights that do not exist or an
            unusable device.
    """

    def __init__(self, settings: Settings) -> None:
        with importing():
            from inference_server.engines.device import (
                choose_compute,
                configure_gpu,
                keep_freed_memory,
            )

        self._settings = settings
        self.catalog = Catalog(settings)
        self.compute = choose_compute(
            settings.device,
            settings.dtype,
            settings.embedding_dtype,
            graphs=settings.cuda_graphs,
            masks_from=settings.device_masks,
        )
        configure_gpu(self.compute, settings.matmul_precision)
        self.effort = Effort.of(settings, self.compute)
        keep_freed_memory()
        self.wanted = self.catalog.preloaded
        self.evict_half: EvictHalf | None = None
        self._queued = QueueAssembly(self.compute, settings)
        self._tasks: dict[SomeCheckpoint, asyncio.Task[LoadedWeights]] = {}
        self._awaited: Counter[SomeCheckpoint] = Counter()
        self._measured: dict[SomeCheckpoint, int] = {}
        self._loading: set[SomeCheckpoint] = set()

    def in_memory(self) -> list[LoadedWeights]:
        """The weights in memory, in the order of loading."""
        return [task.result() for task in self._tasks.values() if _succeeded(task)]

    def loaded(self) -> list[LoadedEncoder]:
        """The models in memory."""
        return [model for weights in self.in_memory() for model in weights.models]

    def find(self, key: ModelKey) -> LoadedWeights | None:
        """The weights of a model if they are in memory.

        Args:
            key: One of the catalog's models.
        """
        task = self._tasks.get(self.catalog.checkpoint(key))
        return task.result() if task is not None and _succeeded(task) else None

    def is_loaded(self, key: ModelKey) -> bool:
        """Whether a model is in memory.

        Args:
            key: One of the catalog's models.
        """
        return self.find(key) is not None

    async def concept(self, key: ModelKey | None = None) -> ConceptModel:
        """The model that answers words and exemplars.

        Args:
            key: A SAM 3; None (the default) for the one of `sam3_weights`.

        Raises:
            ModelUnavailableError: Its weights cannot be loaded.
        """
        model = (await self.load(self.catalog.concept(key))).concept
        if model is None:
            raise ModelUnavailableError(f"{key} answers no words. Select a SAM 3.")
        return model

    async def visual(self, key: ModelKey | None = None) -> VisualModel:
        """The model that answers points and boxes.

        Args:
            key: A SAM 2, or a SAM 3 whose visual head is used if it has one; None (the default)
                for the one that the settings choose.

        Raises:
            ModelUnavailableError: It has no weights, or they cannot be loaded.
        """
        chosen = self.catalog.visual(key)
        weights = await self.load(chosen)
        if weights.visual is None:  # its repository was assumed to have the head
            self.catalog.lose_head(chosen)
            return await self.visual(key)
        return weights.visual

    async def load(self, key: ModelKey) -> LoadedWeights:
        """Load a model once for all who wait for it; after a failure the next caller retries.

        Args:
            key: The model.

        Raises:
            ModelUnavailableError: It has no weights, or they cannot be loaded.
            CapacityError: There is no room for it beside the models in use.
        """
        checkpoint = self.catalog.checkpoint(key)
        task = self._tasks.get(checkpoint)
        if task is None or (task.done() and not _succeeded(task)):
            task = asyncio.ensure_future(self._load_weights(key, checkpoint))
            self._tasks[checkpoint] = task
        # From the end of the load to `in_use`, the weights are not idle.
        self._awaited[checkpoint] += 1
        try:
            weights = await asyncio.shield(task)
        finally:
            self._awaited[checkpoint] -= 1
        weights.usage.last_used = time.time()
        return weights

    async def load_configured(self) -> None:
        """Load the wanted models, so that the first requests do not wait for them.

        Raises:
            ModelUnavailableError: Some models cannot be loaded; the others are loaded.
        """
        failures = []
        for key in self.wanted:
            try:
                await self.load(key)
            except ModelUnavailableError as error:
                failures.append(error.message)
        if failures:
            raise ModelUnavailableError(" ".join(failures))

    def has_configured(self) -> bool:
        """Whether all wanted models are in memory."""
        return all(self.is_loaded(key) for key in self.wanted)

    def sam3_engines(self, key: ModelKey, checkpoint: Sam3Checkpoint) -> Sam3Engines:
        """Create the engines of a SAM 3. Runs in a thread; a subclass may create other engines.

        Args:
            key: The model.
            checkpoint: The weights to load.

        Raises:
            ModelUnavailableError: The weights cannot be loaded.
        """
        with importing():
            from inference_server.engines.load_weights import load_sam3, load_sam3_head
            from inference_server.engines.sam3.engine import ConceptEngine
            from inference_server.engines.sam3.trunk import TrunkEngine
            from inference_server.engines.sam3.visual_engine import Sam3VisualEngine

        name, compute = checkpoint.name, self.compute
        model, processor = load_sam3(checkpoint.source, name, compute)
        texts = self._settings.text_cache_entries
        trunk = TrunkEngine(model, processor, name, compute, release=True)
        concept = ConceptEngine(
            model, processor, name, compute, text_cache=texts, trunk=trunk, owned=True
        )
        if not self.catalog.uses_head(key):
            return Sam3Engines(concept)
        head = load_sam3_head(checkpoint.source, name, compute)
        if head is None:
            return Sam3Engines(concept)
        return Sam3Engines(concept, Sam3VisualEngine(head, name, compute, owned=True), trunk)

    def visual_engine(self, checkpoint: Sam1Checkpoint | Sam2Checkpoint) -> Engine[VisualPrompt]:
        """Create an engine of SAM 1 or 2. Runs in a thread; a subclass may create another engine.

        Args:
            checkpoint: The weights to load.

        Raises:
            ModelUnavailableError: The weights cannot be loaded.
        """
        if isinstance(checkpoint, Sam1Checkpoint):
            with importing():
                from inference_server.engines.load_weights import load_sam1
                from inference_server.engines.sam1.engine import Sam1Engine

            loaded = load_sam1(checkpoint, self.compute)
            return Sam1Engine(*loaded, checkpoint.name, self.compute, owned=True)
        with importing():
            from inference_server.engines.load_weights import load_sam2
            from inference_server.engines.sam2.engine import VisualEngine

        return VisualEngine(load_sam2(checkpoint, self.compute), checkpoint.name, self.compute)

    async def _load_weights(self, key: ModelKey, checkpoint: SomeCheckpoint) -> LoadedWeights:
        self._make_room(key, checkpoint, self._expected_bytes(checkpoint))
        self._loading.add(checkpoint)
        try:
            weights = await self._with_queues(key, checkpoint)
            # Only now known for weights from Hugging Face.
            self._measured[checkpoint] = weights.nbytes
            self._make_room(key, checkpoint, weights.nbytes)
        finally:
            self._loading.discard(checkpoint)
        return weights

    def _expected_bytes(self, checkpoint: SomeCheckpoint) -> int:
        """Memory that weights will take; 0 if it is unknown until they are loaded."""
        try:
            return self._measured.get(checkpoint) or checkpoint.nbytes
        except OSError:  # a file is gone; loading it says which
            return 0

    def _make_room(self, key: ModelKey, checkpoint: SomeCheckpoint, nbytes: int) -> None:
        """Unload the least recently used models that nobody uses, until another one fits."""
        budget = self._settings.model_memory_mb * MiB
        if not budget:
            return
        if nbytes > budget:
            raise ModelUnavailableError(
                f"{key} needs {nbytes // MiB} MiB; INFERENCE_MODEL_MEMORY_MB is "
                f"{self._settings.model_memory_mb}."
            )
        others = {each: task.result() for each, task in self._tasks.items() if _succeeded(task)}
        idle = sorted(
            (
                each
                for each, weights in others.items()
                if not (weights.usage.users or self._awaited[each])
            ),
            key=lambda each: others[each].usage.last_used,
        )
        loading = [self._expected_bytes(each) for each in self._loading if each != checkpoint]
        taken = nbytes + sum(loading)
        # Weights of unknown size are loaded alone, because they may take all.
        begins = checkpoint not in self._loading
        is_unclear = begins and bool(loading) and not all((nbytes, *loading))
        while is_unclear or taken + sum(weights.nbytes for weights in others.values()) > budget:
            if is_unclear or not idle:
                raise CapacityError(
                    f"There is no memory for {key} beside the models in use "
                    "(INFERENCE_MODEL_MEMORY_MB). Try again shortly.",
                    _RETRY_AFTER,
                    full="model_memory",
                )
            oldest = idle.pop(0)
            logger.info("Unloading %s to make room for %s", others.pop(oldest).label, key)
            del self._tasks[oldest]

    async def _with_queues(self, key: ModelKey, checkpoint: SomeCheckpoint) -> LoadedWeights:
        """Create the engines of a model, with queues before them."""
        if not isinstance(checkpoint, Sam3Checkpoint):
            load = partial(self.visual_engine, checkpoint)
            engine = await self._load(key.family, checkpoint.name, load)
            return self._queued.visual(key.family, engine, self.evict_half)
        engines = await self._load(
            "sam3", checkpoint.name, partial(self.sam3_engines, key, checkpoint)
        )
        return self._queued.sam3(engines, self.evict_half)

    async def _load(self, family: str, name: str, load: Callable[[], EnginesT]) -> EnginesT:
        """Create engines in a thread, warm them on a GPU, and log how long it took."""
        begin = time.perf_counter()
        try:
            engines = await asyncio.to_thread(self._load_or_raise_oom, family, load)
            if self.compute.device.type == "cuda":
                await asyncio.to_thread(warm_up, engines)
        except ModelUnavailableError as error:
            logger.error("Cannot load %s: %s", family, error.message)
            raise
        note = " (demo weights: they recognise generated shapes only)" if name == "demo" else ""
        logger.info(
            "Loaded %s/%s%s on %s in %s, %.1f s",
            family,
            name,
            note,
            self.compute.device,
            self.compute.dtype_name,
            time.perf_counter() - begin,
        )
        return engines

    @staticmethod
    def _load_or_raise_oom(family: str, load: Callable[[], T]) -> T:
        from inference_server.engines.oom import raise_on_oom

        return raise_on_oom(f"weights of {family}", load)

    def close(self) -> None:
        """Stop all models at shutdown."""
        for model in self.loaded():
            model.close()
        self._tasks.clear()

    def unload(self, on_freed: Callable[[], None], key: ModelKey | None = None) -> None:
        """Unload models in memory; the next request loads them again.

        Requests in progress finish with the model that they started with. A model that is still
        loading is kept, because a request waits for it.

        Args:
            on_freed: Called in the event loop each time that a model which was still in use has
                been freed.
            key: The model to unload; None (the default) for all.
        """
        chosen = set(self._tasks) if key is None else {self.catalog.checkpoint(key)}
        unloaded = [
            weakref.ref(model)
            for checkpoint, task in self._tasks.items()
            if checkpoint in chosen and _succeeded(task)
            for model in task.result().models
        ]
        for checkpoint in [each for each in chosen if each in self._tasks]:
            if self._tasks[checkpoint].done():
                del self._tasks[checkpoint]
        loop = asyncio.get_running_loop()

        def freed() -> None:  # called in any thread, perhaps after the loop has closed
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(on_freed)

        for reference in unloaded:
            model = reference()
            if model is not None:
                weakref.finalize(model, freed).atexit = False


def _succeeded(task: asyncio.Task[LoadedWeights]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
