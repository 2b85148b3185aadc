"""A loaded model: an engine behind an encode queue and a decode queue."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

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
from inference_server.errors import MemoryShortageError
from inference_server.executor import BACKGROUND
from inference_server.settings import Settings

if TYPE_CHECKING:
    from inference_server.engines.device import Compute

PromptT = TypeVar("PromptT")
T = TypeVar("T")

EvictHalf = Callable[[], Awaitable[None]]
"""Frees memory by evicting half of the cached embeddings."""


@dataclass(frozen=True, slots=True)
class Effort:
    """Threads and batch sizes of the models, after `auto` and 0 have been resolved.

    Attributes:
        threads: CPU threads of a forward pass.
        encode_batch: Maximum images per forward pass.
        decode_batch: Maximum prompts per forward pass.
    """

    threads: int
    encode_batch: int
    decode_batch: int

    @classmethod
    def of(cls, settings: Settings, compute: Compute) -> Effort:
        """Resolve `auto` and 0 in the settings for a device.

        Args:
            settings: Settings `threads`, `encode_batch` and `decode_batch`.
            compute: The device.
        """
        from inference_server.engines.device import available_threads

        on_cpu = compute.device.type == "cpu"
        return cls(
            settings.threads or available_threads(),
            settings.encode_batch or (1 if on_cpu else 8),
            settings.decode_batch or (1 if on_cpu else 32),
        )


@dataclass(slots=True)
class Usage:
    """Who uses the weights of a model, and when they were last used.

    Attributes:
        users: Requests in progress that use them.
        last_used: Unix time of the last use; 0 if they were never used.
    """

    users: int = 0
    last_used: float = 0.0


class LoadedEncoder:
    """An image encoder behind a queue.

    Args:
        family: `sam2` or `sam3`.
        engine: The engine to run; called from this model's threads only.
        compute: Device and dtypes.
        settings: Batch sizes, threads and queue size.
        queue: Name of the encode queue. Default: the family and `encode`.
        side_of_model: What of the model its embeddings are for, if those of one image differ.
            Default: nothing.
        usage: Shared by the parts of one model. Default: its own.
        evict_half: Frees memory when it runs out; None to fail without a retry.

    Attributes:
        family: `sam2` or `sam3`.
        name: Name of the weights for display: `demo`, a file name, or a Hugging Face id.
        compute: Device and dtypes.
        side: Side of the model's square input in pixels.
        prepare: Resizes an image to the model's input, see `Engine.prepare`; for worker threads.
        usage: Who uses the weights.
    """

    def __init__(
        self,
        family: str,
        engine: Engine[Any],
        compute: Compute,
        settings: Settings,
        *,
        queue: str | None = None,
        side_of_model: str = "",
        usage: Usage | None = None,
        evict_half: EvictHalf | None = None,
    ) -> None:
        from inference_server.engines.device import use_threads
        from inference_server.engines.oom import split_batch_on_oom

        self.family = family
        self.name = engine.checkpoint
        self.compute = compute
        self.side = engine.side
        self.prepare = engine.prepare
        self.usage = usage or Usage()
        self._side_of_model = side_of_model
        self._evict_half = evict_half
        effort = Effort.of(settings, compute)
        name = queue or f"{family} encode"
        self._encode: BatchQueue[Prepared, Embedding] = BatchQueue(
            name,
            split_batch_on_oom(name, engine.encode),
            max_batch=effort.encode_batch,
            capacity=settings.queue_size,
            niceness=BACKGROUND,
            enter=lambda busy: use_threads(effort.threads),
        )

    @property
    def label(self) -> str:
        """Value of the response header `x-model`, such as `sam2/demo`."""
        return f"{self.family}/{self.name}"

    @property
    def cache_label(self) -> str:
        """Label of its embeddings in the cache: that of the model, and what they are for."""
        return f"{self.label} {self._side_of_model}" if self._side_of_model else self.label

    @property
    def queues(self) -> tuple[BatchQueue[Any, Any], ...]:
        """The encode queue."""
        return (self._encode,)

    @property
    def encode_name(self) -> str:
        """Name of the encode queue."""
        return self._encode.name

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the weights from being unloaded to make room for others."""
        self.usage.users += 1
        try:
            yield
        finally:
            self.usage.users -= 1
            self.usage.last_used = time.time()

    async def encode(self, image: Prepared) -> BatchResult[Embedding]:
        """Encode an image in the encode queue; after running out of memory, evict and retry once.

        Args:
            image: An image from `prepare`.

        Raises:
            CapacityError: The queue is full.
            MemoryShortageError: Memory ran out twice.
            ModelUnavailableError: The model was unloaded.
        """
        return await self._retry_on_oom(lambda: self._encode.submit(image))

    async def _retry_on_oom(self, submit: Callable[[], Awaitable[T]]) -> T:
        """Submit work; if memory runs out, evict half of the cache and submit it once more."""
        try:
            return await submit()
        except MemoryShortageError:
            if self._evict_half is None:
                raise
        await self._evict_half()
        return await submit()

    def close(self) -> None:
        """Stop the queues and fail the work that waits in them."""
        for queue in self.queues:
            queue.close()


@dataclass(frozen=True, slots=True)
class SharedEncoder:
    """An image encoder whose output serves several sides of a model.

    Attributes:
        encoder: The image encoder.
        cache_labels: Cache labels of the sides. When an image has the embeddings of all of them,
            the encoder's output is not needed any more.
    """

    encoder: LoadedEncoder
    cache_labels: frozenset[str]


class LoadedModel(LoadedEncoder, Generic[PromptT]):
    """An engine with its encode queue and its decode queue.

    A model remains usable after the registry has unloaded it. Its threads end and its weights are
    freed when the last request that started with it releases it.

    On a CPU, prompts are decoded one at a time in one thread per core: a batch gains nothing there
    (measured: 16 prompts in one pass take 16 times as long as one), and two threads with one
    prompt each are a quarter faster than two threads that share each prompt. A thread that runs
    alone uses all cores. Encoding runs at a lower priority. On a GPU each queue has one thread, and
    waiting prompts are decoded in batches.

    Args:
        family: `sam2` or `sam3`.
        engine: The engine to run; called from this model's threads only.
        compute: Device and dtypes.
        settings: Batch sizes, threads and queue size.
        queues: Names of the encode queue and the decode queue. Default: the family and `encode` or
            `decode`.
        side_of_model: What of the model its embeddings are for, if those of one image differ.
            Default: nothing.
        shared: The image encoder whose output `encode` starts from. Default: none; `encode` starts
            from images.
        usage: Shared by the parts of one model. Default: its own.
        workers: Maximum decode threads on a CPU.
        evict_half: Frees memory when it runs out; None to fail without a retry.

    Attributes:
        shared: The image encoder whose output `encode` starts from, or None.
    """

    def __init__(
        self,
        family: str,
        engine: Engine[PromptT],
        compute: Compute,
        settings: Settings,
        *,
        queues: tuple[str, str] | None = None,
        side_of_model: str = "",
        shared: SharedEncoder | None = None,
        usage: Usage | None = None,
        workers: int = 1,
        evict_half: EvictHalf | None = None,
    ) -> None:
        from inference_server.engines.device import use_threads
        from inference_server.engines.oom import split_batch_on_oom

        encode, decode = queues or (f"{family} encode", f"{family} decode")
        super().__init__(
            family,
            engine,
            compute,
            settings,
            queue=encode,
            side_of_model=side_of_model,
            usage=usage,
            evict_half=evict_half,
        )
        effort = Effort.of(settings, compute)
        cores = effort.threads
        on_cpu = compute.device.type == "cpu"
        self.shared = shared
        self._decode: BatchQueue[Query[PromptT], Candidates] = BatchQueue(
            decode,
            split_batch_on_oom(decode, engine.decode),
            max_batch=effort.decode_batch,
            capacity=settings.queue_size,
            workers=min(workers, cores) if on_cpu else 1,
            enter=lambda busy: use_threads(max(1, cores // busy)),
        )

    @property
    def queues(self) -> tuple[BatchQueue[Any, Any], ...]:
        """The encode queue and the decode queue."""
        return self._encode, self._decode

    @property
    def decode_name(self) -> str:
        """Name of the decode queue."""
        return self._decode.name

    async def decode(self, queries: Sequence[Query[PromptT]]) -> BatchResult[list[Candidates]]:
        """Decode the prompts of one request in the decode queue; retried like `encode`.

        Args:
            queries: Prompts with their images; together they count as one towards the capacity.

        Returns:
            One result per query, in order.

        Raises:
            CapacityError: The queue is full.
            MemoryShortageError: Memory ran out twice.
            ModelUnavailableError: The model was unloaded.
        """
        return await self._retry_on_oom(lambda: self._decode.submit_all(queries))


ConceptModel = LoadedModel[ConceptPrompt]
VisualModel = LoadedModel[VisualPrompt]
