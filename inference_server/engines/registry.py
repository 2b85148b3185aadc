"""Load models on demand, once each, and keep them until they are unloaded."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from inference_server.engines.base import ConceptPrompt, Engine, VisualPrompt
from inference_server.engines.model import (
    ConceptModel,
    Effort,
    EvictHalf,
    LoadedModel,
    VisualModel,
)
from inference_server.engines.weights import (
    SAM3_NAME,
    Sam2Checkpoint,
    find_sam2,
    largest,
    preloaded,
    sam3_source,
)
from inference_server.errors import ModelUnavailableError
from inference_server.settings import Settings

# PyTorch and the models' libraries take seconds to import. They are imported where they are first
# needed, in the thread that loads a model, so the server can answer meanwhile and the command line
# does not wait for what it does not use.

logger = logging.getLogger(__name__)

PromptT = TypeVar("PromptT")
T = TypeVar("T")
ModelT = TypeVar("ModelT", ConceptModel, VisualModel)


def _loaded(models: dict[str, asyncio.Task[ModelT]]) -> list[ModelT]:
    """The models whose loading succeeded."""
    done = (task for task in models.values() if task.done() and not task.cancelled())
    return [task.result() for task in done if task.exception() is None]


class ModelRegistry:
    """Loads models once, on demand, and keeps them until they are unloaded.

    Args:
        settings: Where the weights are, which models to preload and what to compute on.

    Attributes:
        compute: Device and dtypes.
        effort: Threads and batch sizes.
        wanted: Models to load before the server is ready, as (family, version).
        evict_half: Frees memory when it runs out; set by the owner of the caches.

    Raises:
        ModelUnavailableError: A setting names an unknown model, weights that do not exist or an
            unusable device.
    """

    def __init__(self, settings: Settings) -> None:
        from inference_server.engines.device import choose_compute, keep_freed_memory

        self._settings = settings
        self.compute = choose_compute(settings.device, settings.dtype, settings.embedding_dtype)
        self.effort = Effort.of(settings, self.compute)
        keep_freed_memory()
        self._sam2: dict[str, Sam2Checkpoint] = find_sam2(settings.sam2_weights)
        self._sam3, self._sam3_name = sam3_source(settings.sam3_weights)
        self.wanted = preloaded(settings.preload, settings.sam2_weights, self._sam2)
        self.evict_half: EvictHalf | None = None
        self._concept: dict[str, asyncio.Task[ConceptModel]] = {}
        self._visual: dict[str, asyncio.Task[VisualModel]] = {}

    @property
    def versions(self) -> dict[str, str]:
        """Available SAM 2 versions, and the names of their weights."""
        return {version: checkpoint.name for version, checkpoint in self._sam2.items()}

    @property
    def concept_name(self) -> str:
        """Name of the SAM 3 weights."""
        return self._sam3_name

    @property
    def default_version(self) -> str:
        """The largest available SAM 2 version."""
        return largest(self._sam2)

    def loaded(self) -> list[ConceptModel | VisualModel]:
        """The models in memory."""
        return [*_loaded(self._concept), *_loaded(self._visual)]

    async def concept(self) -> ConceptModel:
        """The SAM 3 model.

        Raises:
            ModelUnavailableError: Its weights cannot be loaded.
        """
        return await self._single_flight(self._concept, self._sam3_name, self._load_concept)

    async def visual(self, version: str) -> VisualModel:
        """The SAM 2 model of a version.

        Args:
            version: One of `SAM2_VERSIONS`.

        Raises:
            ModelUnavailableError: It has no weights, or they cannot be loaded.
        """
        checkpoint = self._sam2.get(version)
        if checkpoint is None:
            raise ModelUnavailableError(
                f"sam2_version_id {version}: this server has no weights for it "
                f"(INFERENCE_SAM2_WEIGHTS={self._settings.sam2_weights} provides "
                f"{', '.join(self._sam2)}). Use one of those, or add "
                f"sam2.1_{version.replace('b_plus', 'base_plus')}.pt to the directory."
            )
        return await self._single_flight(
            self._visual, checkpoint.name, lambda: self._load_visual(checkpoint)
        )

    async def load_configured(self) -> None:
        """Load the wanted models, so that the first requests do not wait for them.

        Raises:
            ModelUnavailableError: Some models cannot be loaded; the others are loaded.
        """
        failures = []
        for family, version in self.wanted:
            try:
                await (self.concept() if family == "sam3" else self.visual(version))
            except ModelUnavailableError as error:
                failures.append(error.message)
        if failures:
            raise ModelUnavailableError(" ".join(failures))

    def has_configured(self) -> bool:
        """Whether all wanted models are in memory."""
        sources = {**self.versions, SAM3_NAME: self._sam3_name}
        wanted = {f"{family}/{sources[name]}" for family, name in self.wanted}
        return wanted <= {model.label for model in self.loaded()}

    async def _single_flight(
        self,
        models: dict[str, asyncio.Task[ModelT]],
        name: str,
        load: Callable[[], Awaitable[ModelT]],
    ) -> ModelT:
        """Load a model once for all who wait for it; after a failure the next caller retries."""
        task = models.get(name)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = models[name] = asyncio.ensure_future(load())
        return await asyncio.shield(task)

    def concept_engine(self) -> Engine[ConceptPrompt]:
        """Create the SAM 3 engine. Runs in a thread; a subclass may create another engine.

        Raises:
            ModelUnavailableError: The weights cannot be loaded.
        """
        from inference_server.engines.load_weights import load_sam3
        from inference_server.engines.sam3.engine import ConceptEngine

        model, processor = load_sam3(self._sam3, self._sam3_name, self.compute)
        return ConceptEngine(
            model,
            processor,
            self._sam3_name,
            self.compute,
            text_cache=self._settings.text_cache_entries,
        )

    def visual_engine(self, checkpoint: Sam2Checkpoint) -> Engine[VisualPrompt]:
        """Create a SAM 2 engine. Runs in a thread; a subclass may create another engine.

        Args:
            checkpoint: The weights to load.

        Raises:
            ModelUnavailableError: The weights cannot be loaded.
        """
        from inference_server.engines.load_weights import load_sam2
        from inference_server.engines.sam2.engine import VisualEngine

        model = load_sam2(checkpoint, self.compute)
        return VisualEngine(model, checkpoint.name, self.compute)

    async def _load_concept(self) -> ConceptModel:
        engine = await self._load("sam3", self.concept_engine)
        # SAM 3's operations are large enough to use all cores, and each thread takes much memory.
        return LoadedModel(
            "sam3", engine, self.compute, self._settings, workers=2, evict_half=self.evict_half
        )

    async def _load_visual(self, checkpoint: Sam2Checkpoint) -> VisualModel:
        engine = await self._load("sam2", partial(self.visual_engine, checkpoint))
        return LoadedModel(
            "sam2", engine, self.compute, self._settings, workers=16, evict_half=self.evict_half
        )

    async def _load(self, family: str, load: Callable[[], Engine[PromptT]]) -> Engine[PromptT]:
        """Create an engine in a thread and log how long it took."""
        begin = time.perf_counter()
        try:
            engine = await asyncio.to_thread(self._load_or_raise_oom, family, load)
        except ModelUnavailableError as error:
            logger.error("Cannot load %s: %s", family, error.message)
            raise
        name = engine.checkpoint
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
        return engine

    @staticmethod
    def _load_or_raise_oom(family: str, load: Callable[[], T]) -> T:
        from inference_server.engines.oom import raise_on_oom

        return raise_on_oom(f"weights of {family}", load)

    def close(self) -> None:
        """Stop all models at shutdown."""
        for model in self.loaded():
            model.close()
        self._concept.clear()
        self._visual.clear()

    def unload(self, on_freed: Callable[[], None]) -> None:
        """Unload the models in memory; the next request loads them again.

        Requests in progress finish with the model that they started with. A model that is still
        loading is kept, because a request waits for it.

        Args:
            on_freed: Called in the event loop each time that a model which was still in use has
                been freed.
        """
        unloaded = [weakref.ref(model) for model in self.loaded()]
        for name in [name for name, task in self._concept.items() if task.done()]:
            del self._concept[name]
        for name in [name for name, task in self._visual.items() if task.done()]:
            del self._visual[name]
        loop = asyncio.get_running_loop()

        def freed() -> None:  # called in any thread, perhaps after the loop has closed
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(on_freed)

        for reference in unloaded:
            model = reference()
            if model is not None:
                weakref.finalize(model, freed).atexit = False
