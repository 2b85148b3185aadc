"""The models of a server: which there are, which are in memory, and their lanes."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from inference_server.engines.base import (
    Candidates,
    ConceptPrompt,
    Embedding,
    Engine,
    Prepared,
    Query,
    VisualPrompt,
)
from inference_server.engines.batch_queue import BatchQueue, BatchResult
from inference_server.engines.weights import (
    SAM3_NAME,
    Sam2Checkpoint,
    find_sam2,
    largest,
    preloaded,
    sam3_source,
)
from inference_server.errors import MemoryShortageError, ModelUnavailableError
from inference_server.executor import BACKGROUND
from inference_server.settings import Settings

if TYPE_CHECKING:
    from inference_server.engines.device import Compute

# PyTorch, and the libraries of the models, take seconds to import. They are imported where they are
# first needed, in the thread that loads a model, so that the server answers meanwhile and the
# command line does not wait for what it does not use.

logger = logging.getLogger(__name__)

PromptT = TypeVar("PromptT")
T = TypeVar("T")

EvictHalf = Callable[[], Awaitable[None]]
"""Makes room in memory."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What the models may take of the machine, after `auto` and 0 have been resolved.

    Attributes:
        threads: of the CPU.
        encode_batch: most images in one forward.
        decode_batch: most prompts in one forward.
    """

    threads: int
    encode_batch: int
    decode_batch: int

    @classmethod
    def of(cls, settings: Settings, compute: Compute) -> Effort:
        """The settings' meaning on a device."""
        from inference_server.engines.device import available_threads

        on_cpu = compute.device.type == "cpu"
        return cls(
            settings.threads or available_threads(),
            settings.encode_batch or (1 if on_cpu else 8),
            settings.decode_batch or (1 if on_cpu else 32),
        )


class Model(Generic[PromptT]):
    """An engine with its two lanes.

    Whoever holds a model can use it, also when the registry no longer does: a model that is
    unloaded goes, threads and all, when the last request that has begun with it lets go of it.

    On a CPU, prompts are decoded one at a time in as many threads as there are cores: a batch gains
    nothing there (measured: 16 prompts in one forward cost 16 times one), and two threads with a
    prompt each do a quarter more than two threads with half a prompt each. A thread that is alone
    takes all cores. Encoding stays in the background of that. On a GPU there is one thread a lane,
    and prompts that wait together are decoded together.

    Args:
        family: see below.
        engine: to use.
        compute: see below.
        settings: of the server.
        workers: most threads that decode on a CPU.
        evict_half: makes room where memory runs out.

    Attributes:
        family: `sam2` or `sam3`.
        name: of the weights, for people: `demo`, a file's name, or a Hugging Face id.
        compute: device and dtypes.
        side: of the square in pixels that images are resized to.
        prepare: resizes an image; for worker threads.
    """

    def __init__(
        self,
        family: str,
        engine: Engine[PromptT],
        compute: Compute,
        settings: Settings,
        *,
        workers: int = 1,
        evict_half: EvictHalf | None = None,
    ) -> None:
        from inference_server.engines.device import use_threads
        from inference_server.engines.oom import split_batch_on_oom

        self.family = family
        self.name = engine.checkpoint
        self.compute = compute
        effort = Effort.of(settings, compute)
        cores = effort.threads
        on_cpu = compute.device.type == "cpu"
        self.side = engine.side
        self.prepare = engine.prepare
        self._evict_half = evict_half
        self._encode: BatchQueue[Prepared, Embedding] = BatchQueue(
            f"{family} encode",
            split_batch_on_oom(f"{family} encode", engine.encode),
            max_batch=effort.encode_batch,
            capacity=settings.queue_size,
            niceness=BACKGROUND,
            enter=lambda busy: use_threads(cores),
        )
        self._decode: BatchQueue[Query[PromptT], Candidates] = BatchQueue(
            f"{family} decode",
            split_batch_on_oom(f"{family} decode", engine.decode),
            max_batch=effort.decode_batch,
            capacity=settings.queue_size,
            workers=min(workers, cores) if on_cpu else 1,
            enter=lambda busy: use_threads(max(1, cores // busy)),
        )

    @property
    def label(self) -> str:
        """What the response header `x-model` says."""
        return f"{self.family}/{self.name}"

    @property
    def lanes(
        self,
    ) -> tuple[BatchQueue[Prepared, Embedding], BatchQueue[Query[PromptT], Candidates]]:
        """The encode lane and the decode lane."""
        return self._encode, self._decode

    async def encode(self, image: Prepared) -> BatchResult[Embedding]:
        """Encode a prepared image in the encode lane."""
        return await self._patiently(lambda: self._encode.submit(image))

    async def decode(self, queries: Sequence[Query[PromptT]]) -> BatchResult[list[Candidates]]:
        """Answer prompts in the decode lane, as one request."""
        return await self._patiently(lambda: self._decode.submit_all(queries))

    async def _patiently(self, submit: Callable[[], Awaitable[T]]) -> T:
        """Where memory ran out, make room and try once more."""
        try:
            return await submit()
        except MemoryShortageError:
            if self._evict_half is None:
                raise
        await self._evict_half()
        return await submit()

    def close(self) -> None:
        """Stop both lanes, and refuse what waits in them."""
        self._encode.close()
        self._decode.close()


ConceptModel = Model[ConceptPrompt]
VisualModel = Model[VisualPrompt]
ModelT = TypeVar("ModelT", ConceptModel, VisualModel)


def _finished(models: dict[str, asyncio.Task[ModelT]]) -> list[ModelT]:
    """Of the models that were asked for, those that were loaded."""
    done = (task for task in models.values() if task.done() and not task.cancelled())
    return [task.result() for task in done if task.exception() is None]


class ModelRegistry:
    """Loads models once, on demand, and keeps them until they are unloaded.

    Args:
        settings: where the weights are and what to compute on.

    Attributes:
        compute: device and dtypes.
        effort: threads and batches.
        wanted: the models that the server loads before it is ready.
        evict_half: makes room where memory runs out; set by who holds the caches.

    Raises:
        ModelUnavailableError: a setting names a model, weights or a device that do not exist.
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
        """The SAM 2 versions that there are weights for, and the weights' names."""
        return {version: checkpoint.name for version, checkpoint in self._sam2.items()}

    @property
    def concept_name(self) -> str:
        """Name of the SAM 3 weights."""
        return self._sam3_name

    @property
    def default_version(self) -> str:
        """The largest SAM 2 that there are weights for."""
        return largest(self._sam2)

    def loaded(self) -> list[ConceptModel | VisualModel]:
        """The models in memory."""
        return [*_finished(self._concept), *_finished(self._visual)]

    async def concept(self) -> ConceptModel:
        """The SAM 3 model.

        Raises:
            ModelUnavailableError: its weights cannot be loaded.
        """
        return await self._once(self._concept, self._sam3_name, self._load_concept)

    async def visual(self, version: str) -> VisualModel:
        """The SAM 2 model of a version.

        Args:
            version: one of `SAM2_VERSIONS`.

        Raises:
            ModelUnavailableError: there are no weights for it, or they cannot be loaded.
        """
        checkpoint = self._sam2.get(version)
        if checkpoint is None:
            raise ModelUnavailableError(
                f"sam2_version_id {version}: this server has no weights for it "
                f"(INFERENCE_SAM2_WEIGHTS={self._settings.sam2_weights} provides "
                f"{', '.join(self._sam2)}). Use one of those, or add "
                f"sam2.1_{version.replace('b_plus', 'base_plus')}.pt to the directory."
            )
        return await self._once(
            self._visual, checkpoint.name, lambda: self._load_visual(checkpoint)
        )

    async def load_configured(self) -> None:
        """Load the wanted models, so that the first requests need not wait.

        Raises:
            ModelUnavailableError: some cannot be loaded; the others are.
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

    async def _once(
        self,
        models: dict[str, asyncio.Task[ModelT]],
        name: str,
        load: Callable[[], Awaitable[ModelT]],
    ) -> ModelT:
        task = models.get(name)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = models[name] = asyncio.ensure_future(load())
        return await asyncio.shield(task)

    def concept_engine(self) -> Engine[ConceptPrompt]:
        """Make the engine of concepts, in a thread; a subclass may make another.

        Raises:
            ModelUnavailableError: its weights cannot be loaded.
        """
        from inference_server.engines.checkpoints import load_sam3
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
        """Make an engine of clicks and boxes, in a thread; a subclass may make another.

        Args:
            checkpoint: its weights.

        Raises:
            ModelUnavailableError: they cannot be loaded.
        """
        from inference_server.engines.checkpoints import load_sam2
        from inference_server.engines.sam2.engine import VisualEngine

        model = load_sam2(checkpoint, self.compute)
        return VisualEngine(model, checkpoint.name, self.compute)

    async def _load_concept(self) -> ConceptModel:
        engine = await self._timed("sam3", self.concept_engine)
        # Its operations are large enough to share all cores, and so is the memory they take.
        return Model(
            "sam3", engine, self.compute, self._settings, workers=2, evict_half=self.evict_half
        )

    async def _load_visual(self, checkpoint: Sam2Checkpoint) -> VisualModel:
        engine = await self._timed("sam2", partial(self.visual_engine, checkpoint))
        return Model(
            "sam2", engine, self.compute, self._settings, workers=16, evict_half=self.evict_half
        )

    async def _timed(self, family: str, load: Callable[[], Engine[PromptT]]) -> Engine[PromptT]:
        begin = time.perf_counter()
        try:
            engine = await asyncio.to_thread(self._fitted, family, load)
        except ModelUnavailableError as error:
            logger.error("Cannot load %s: %s", family, error.message)
            raise
        name = engine.checkpoint
        note = " (the embedded demo: right on generated scenes only)" if name == "demo" else ""
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
    def _fitted(family: str, load: Callable[[], T]) -> T:
        """Load, and tell it where there is no memory for that."""
        from inference_server.engines.oom import raise_on_oom

        return raise_on_oom(f"weights of {family}", load)

    def close(self) -> None:
        """Stop every model, for the end of the server."""
        for model in self.loaded():
            model.close()
        self._concept.clear()
        self._visual.clear()

    def unload(self, gone: Callable[[], None]) -> None:
        """Let go of the models in memory; the next request loads again.

        Requests that have begun are answered by the model that they began with, and what is just
        being loaded is left alone: somebody waits for it.

        Args:
            gone: called in the event loop whenever one of them that was still in use has left.
        """
        leaving = [weakref.ref(model) for model in self.loaded()]
        for name in [name for name, task in self._concept.items() if task.done()]:
            del self._concept[name]
        for name in [name for name, task in self._visual.items() if task.done()]:
            del self._visual[name]
        loop = asyncio.get_running_loop()

        def left() -> None:  # in any thread, and perhaps when the server has ended
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(gone)

        for reference in leaving:
            model = reference()
            if model is not None:
                weakref.finalize(model, left).atexit = False
