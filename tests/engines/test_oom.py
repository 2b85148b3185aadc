"""Out of memory: which errors count, smaller batches, and the retry after an eviction."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from inference_server.engines import oom as memory
from inference_server.engines.base import (
    Candidates,
    Embedding,
    Prepared,
    Query,
    RGBImage,
    VisualPrompt,
    queries,
)
from inference_server.engines.catalog import ModelKey
from inference_server.engines.device import Compute
from inference_server.engines.model import LoadedModel
from inference_server.engines.oom import is_out_of_memory, split_batch_on_oom
from inference_server.engines.registry import ModelRegistry
from inference_server.errors import MemoryShortageError
from inference_server.settings import Settings

CPU = Compute(torch.device("cpu"), torch.float32, torch.float32)


def _too_large_tensor() -> None:
    torch.empty(10**15)


def _too_large_array() -> None:
    np.empty(10**15)


def _raised(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "fail",
    [
        _too_large_tensor,
        _too_large_array,
        _raised(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        _raised(RuntimeError("CUDA error: out of memory")),
        _raised(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")),
        _raised(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")),
    ],
)
def test_memory_that_ran_out(fail: Callable[[], None]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        fail()
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory")])
def test_other_failures_are_raised_as_they_are(error: Exception) -> None:
    assert not is_out_of_memory(error)
    calls = []

    def work(items: Sequence[int]) -> list[int]:
        calls.append(list(items))
        raise error

    with pytest.raises(type(error)):
        split_batch_on_oom("work", work)([1, 2])
    assert calls == [[1, 2]]


def test_batches_are_halved_until_they_fit() -> None:
    batches: list[list[int]] = []

    def work(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        if len(items) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [10 * item for item in items]

    assert split_batch_on_oom("work", work)([1, 2, 3, 4, 5]) == [10, 20, 30, 40, 50]
    assert batches == [[1, 2, 3, 4, 5], [1, 2], [3, 4, 5], [3], [4, 5]]


def test_an_item_that_never_fits_is_reported_with_the_remedy() -> None:
    def work(items: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryShortageError) as caught:
        split_batch_on_oom("sam2 encode", work)([1])
    assert caught.value.status == 503
    assert int(caught.value.headers["retry-after"]) >= 1
    for part in ("sam2 encode", "INFERENCE_EMBEDDING_CACHE_MB", "INFERENCE_ENCODE_BATCH"):
        assert part in caught.value.message
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_the_tensors_of_the_failed_forward_are_gone_before_memory_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise no GPU memory can be released, and the retry fails as well."""
    tensors: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def work(items: Sequence[int]) -> list[int]:
        activation = torch.zeros(1000)
        tensors.append(weakref.ref(activation))
        if len(items) > 1:
            raise torch.OutOfMemoryError(f"CUDA out of memory beside {activation.shape}")
        return list(items)

    monkeypatch.setattr(memory, "release_memory", lambda: alive.append(tensors[-1]() is not None))
    assert split_batch_on_oom("work", work)([1, 2]) == [1, 2]
    assert alive == [False]


class Engine:
    """An engine whose first forward passes run out of memory."""

    checkpoint = "demo"
    side = 8

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.forwards = 0

    def prepare(
        self,
        pixels: RGBImage,
        size: tuple[int, int] | None = None,
        extent: tuple[float, float] | None = None,
    ) -> Prepared:
        return Prepared(pixels, (8, 8))

    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        self._forward()
        return [Embedding((8, 8), None, 1) for _ in images]

    def decode(self, queries: Sequence[Query[VisualPrompt]]) -> list[Candidates]:
        self._forward()
        return [Candidates(np.zeros((1, 4, 4), np.float32), 0.0, np.ones(1, np.float32))] * len(
            queries
        )

    def _forward(self) -> None:
        self.forwards += 1
        if self.failures:
            self.failures -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.anyio
@pytest.mark.parametrize("half", ["encode", "decode"])
@pytest.mark.parametrize(("failures", "answered"), [(0, True), (1, True), (2, False)])
async def test_a_request_is_tried_once_more_after_room_was_made(
    half: str, failures: int, answered: bool
) -> None:
    engine = Engine(failures)
    forwards: list[int] = []

    async def evict_half() -> None:
        forwards.append(engine.forwards)

    model: LoadedModel[VisualPrompt] = LoadedModel(
        "sam2", engine, CPU, Settings(), evict_half=evict_half
    )

    async def ask() -> object:
        if half == "encode":
            return await model.encode(Prepared(None, (8, 8)))
        prompt = VisualPrompt(np.ones((1, 2), np.float32), np.ones(1, np.int64))
        return await model.decode(queries(Embedding((8, 8), None, 1), [prompt]))

    try:
        if answered:
            await ask()
        else:
            with pytest.raises(MemoryShortageError):
                await ask()
        assert engine.forwards == min(failures, 1) + 1
        assert forwards == [1] * min(failures, 1)
        await ask()
    finally:
        model.close()


@pytest.mark.anyio
async def test_weights_that_exceed_the_memory_are_reported_and_loaded_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from inference_server.engines import load_weights

    load, failures = load_weights.load_sam2, [torch.OutOfMemoryError("CUDA out of memory")]

    def full(*arguments: object) -> object:
        if failures:
            raise failures.pop()
        return load(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(load_weights, "load_sam2", full)
    registry = ModelRegistry(Settings(device="cpu", dtype="float32"))
    tiny = ModelKey("sam2", "hiera_tiny")
    with pytest.raises(MemoryShortageError, match="weights of sam2"):
        await registry.visual(tiny)
    assert (await asyncio.wait_for(registry.visual(tiny), 60)).name == "demo"
    registry.close()
