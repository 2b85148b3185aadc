"""The model registry: loads models once, on demand, and again after a failure or `unload`."""

from __future__ import annotations

import asyncio
import builtins
import gc
import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base

from inference_server.engines import imports, load_weights
from inference_server.engines import registry as registry_module
from inference_server.engines.arithmetic import Speed
from inference_server.engines.base import (
    ConceptPrompt,
    Embedding,
    Prepared,
    VisualPrompt,
    queries,
)
from inference_server.engines.catalog import ModelKey
from inference_server.engines.device import Compute, choose_compute, configure_gpu
from inference_server.engines.features import bytes_of
from inference_server.engines.model import Effort, LoadedEncoder
from inference_server.engines.registry import ModelRegistry
from inference_server.engines.weights import SAM2_VERSIONS, Sam2Checkpoint
from inference_server.errors import CapacityError, ModelUnavailableError
from inference_server.settings import MiB, Settings
from tests.engines.conftest import Concept

pytestmark = pytest.mark.anyio

TINY = ModelKey("sam2", "hiera_tiny")
SMALL = ModelKey("sam2", "hiera_small")
LARGER = ModelKey("sam2", "hiera_b_plus")
IMAGE = np.zeros((20, 30, 3), np.uint8)


class Loader:
    """Replaces the loading of weights: records calls, waits at a gate, and fails on demand."""

    def __init__(self, sam2: SAM2Base, sam3: Concept) -> None:
        self.loads: list[str] = []
        self.failures = 0
        self.threads: set[str] = set()
        self.begun = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self._sam2, self._sam3 = sam2, sam3

    def _load(self, name: str) -> None:
        self.loads.append(name)
        self.threads.add(threading.current_thread().name)
        self.begun.release()
        assert self.gate.wait(60)
        if self.failures:
            self.failures -= 1
            raise ModelUnavailableError("not today")

    async def wait_until_begun(self) -> None:
        """Wait until the next load has begun."""
        assert await asyncio.to_thread(self.begun.acquire, timeout=60)

    def sam2(self, checkpoint: Sam2Checkpoint, compute: Compute) -> SAM2Base:
        self._load(checkpoint.name)
        return self._sam2

    def sam3(self, source: str, name: str, compute: Compute) -> tuple[Any, Any]:
        self._load(f"sam3 {name}")
        return deepcopy(self._sam3.model), self._sam3.processor


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch, sam2_model: SAM2Base, concept: Concept) -> Loader:
    loader = Loader(sam2_model, concept)
    monkeypatch.setattr(load_weights, "load_sam2", loader.sam2)
    monkeypatch.setattr(load_weights, "load_sam3", loader.sam3)
    return loader


def registry_of(**settings: Any) -> ModelRegistry:
    # The loader below makes SAM 3 without a visual head.
    given = {"device": "cpu", "dtype": "float32", "visual_model": "sam2", **settings}
    return ModelRegistry(Settings(**given))


@pytest.fixture
def three_sizes(directory: Path) -> Path:
    """A directory with files for three of the four sizes."""
    for name in ("sam2.1_hiera_tiny.pt", "sam2.1_hiera_small.pt", "sam2_hiera_base_plus.pt"):
        (directory / name).touch()
    return directory


async def test_a_model_is_loaded_once_however_many_ask(loader: Loader) -> None:
    registry = registry_of()
    assert registry.loaded() == []
    concepts, visuals = await asyncio.gather(
        asyncio.gather(*(registry.concept() for _ in range(10))),
        asyncio.gather(*(registry.visual(TINY) for _ in range(10))),
    )
    assert len({id(model) for model in concepts}) == len({id(model) for model in visuals}) == 1
    assert sorted(loader.loads) == ["demo", "sam3 demo"]
    assert threading.current_thread().name not in loader.threads
    assert await registry.concept() is concepts[0]
    assert {model.label for model in registry.loaded()} == {"sam2/demo", "sam3/demo"}
    registry.close()


async def test_one_checkpoint_for_every_size_is_one_model(loader: Loader) -> None:
    registry = registry_of()
    models = [await registry.visual(ModelKey("sam2", version)) for version in SAM2_VERSIONS]
    assert len({id(model) for model in models}) == 1
    keys = [ModelKey("sam2", version) for version in SAM2_VERSIONS]
    assert {registry.catalog.label(key) for key in keys} == {"sam2/demo"}
    registry.close()


async def test_sizes_of_a_directory_are_models_of_their_own(
    loader: Loader, three_sizes: Path
) -> None:
    registry = registry_of(sam2_weights=str(three_sizes))
    catalog = registry.catalog
    assert {key.name: catalog.label(key) for key in catalog.keys if key.family == "sam2"} == {
        "hiera_tiny": "sam2/sam2.1_hiera_tiny.pt",
        "hiera_small": "sam2/sam2.1_hiera_small.pt",
        "hiera_b_plus": "sam2/sam2_hiera_base_plus.pt",
    }
    assert catalog.versions[-1] == "hiera_b_plus"
    tiny, small = (
        await registry.visual(TINY),
        await registry.visual(ModelKey("sam2", "hiera_small")),
    )
    assert [tiny.label, small.label] == ["sam2/sam2.1_hiera_tiny.pt", "sam2/sam2.1_hiera_small.pt"]
    assert len(registry.loaded()) == 2
    registry.close()


@pytest.mark.parametrize(
    ("version", "file"),
    [("hiera_large", "sam2.1_hiera_large.pt"), ("hiera_huge", "sam2.1_hiera_huge.pt")],
)
async def test_a_size_without_weights_is_refused_and_the_missing_file_named(
    loader: Loader, three_sizes: Path, version: str, file: str
) -> None:
    registry = registry_of(sam2_weights=str(three_sizes))
    with pytest.raises(ModelUnavailableError) as caught:
        await registry.visual(ModelKey("sam2", version))
    assert file in caught.value.message
    assert "hiera_b_plus" in caught.value.message
    assert f"INFERENCE_SAM2_WEIGHTS={three_sizes}" in caught.value.message
    assert loader.loads == []


async def test_the_missing_file_is_named_as_it_is_published(
    loader: Loader, directory: Path
) -> None:
    (directory / "sam2.1_hiera_tiny.pt").touch()
    registry = registry_of(sam2_weights=str(directory))
    with pytest.raises(ModelUnavailableError, match=r"sam2\.1_hiera_base_plus\.pt"):
        await registry.visual(ModelKey("sam2", "hiera_b_plus"))
    assert registry.catalog.versions[-1] == "hiera_tiny"


async def test_the_default_is_the_largest(loader: Loader) -> None:
    registry = registry_of()
    assert registry.catalog.versions[-1] == "hiera_large"
    await registry.load_configured()
    assert sorted(loader.loads) == ["demo", "sam3 demo"]
    registry.close()


async def test_a_failed_load_reaches_all_callers_and_is_retried(
    loader: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    registry = registry_of()
    loader.failures = 1
    results = await asyncio.gather(
        *(registry.visual(TINY) for _ in range(5)), return_exceptions=True
    )
    assert [type(result) for result in results] == [ModelUnavailableError] * 5
    assert loader.loads == ["demo"]
    assert registry.loaded() == []
    assert "Cannot load sam2: not today" in caplog.text
    model = await registry.visual(TINY)
    assert loader.loads == ["demo", "demo"]
    assert registry.loaded() == [model]
    registry.close()


async def test_libraries_are_imported_by_one_thread_at_a_time(
    loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads that import `transformers` at once get an `ImportError`.

    No garbage is collected meanwhile, and it is again afterwards.
    """
    held: dict[str, tuple[bool, bool]] = {}
    import_module = builtins.__import__

    def noting(name: str, *args: Any, **options: Any) -> Any:
        is_worker = threading.current_thread() is not threading.main_thread()
        if is_worker and name.endswith((".sam2.engine", ".sam3.engine", ".load_weights")):
            held[name] = (imports._LOCK.locked(), gc.isenabled())
        return import_module(name, *args, **options)

    frozen = gc.get_freeze_count()
    monkeypatch.setattr(builtins, "__import__", noting)
    registry = registry_of()
    await asyncio.gather(registry.visual(TINY), registry.concept())
    monkeypatch.undo()
    assert len(held) == 3
    assert set(held.values()) == {(True, False)}
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
    registry.close()


async def test_a_cancelled_caller_does_not_stop_the_load(loader: Loader) -> None:
    registry = registry_of()
    loader.gate.clear()
    leaver = asyncio.create_task(registry.concept())
    await loader.wait_until_begun()
    stayer = asyncio.create_task(registry.concept())
    await asyncio.sleep(0)  # the second caller waits as well
    leaver.cancel()
    await asyncio.wait([leaver])
    loader.gate.set()
    model = await stayer
    assert leaver.cancelled()
    assert loader.loads == ["sam3 demo"]
    assert registry.loaded() == [model]
    registry.close()


async def test_after_closing_models_are_loaded_on_demand(loader: Loader) -> None:
    registry = registry_of()
    first = await registry.visual(TINY)
    sam3 = await registry.concept()
    image = (await first.encode(first.prepare(IMAGE))).value
    seen = (await sam3.encode(sam3.prepare(IMAGE))).value
    registry.close()
    assert registry.loaded() == []
    with pytest.raises(ModelUnavailableError):
        await first.encode(first.prepare(IMAGE))

    second, again = await registry.visual(TINY), await registry.concept()
    assert second is not first
    assert len(loader.loads) == 4
    # An embedding from before `close` may still be cached.
    click = VisualPrompt(np.array([[5, 5]], np.float32), np.array([1]))
    assert len((await second.decode(queries(image, [click]))).value) == 1
    nothing = np.zeros((0, 4), np.float32)
    words = ConceptPrompt("circle", nothing, np.zeros(0, np.int64), 0.0)
    assert len((await again.decode(queries(seen, [words]))).value[0].scores) > 0
    registry.close()


async def test_close_during_a_load_does_not_fail_its_callers(loader: Loader) -> None:
    registry = registry_of()
    loader.gate.clear()
    waiting = asyncio.create_task(registry.visual(TINY))
    await loader.wait_until_begun()
    registry.close()
    loader.gate.set()
    model = await waiting
    assert registry.loaded() == []
    assert (await model.encode(model.prepare(IMAGE))).value.size == (20, 30)
    model.close()


async def test_an_unloaded_model_remains_usable_by_its_callers(loader: Loader) -> None:
    """It still works, and is freed when its last user releases it."""
    registry = registry_of()
    gone = asyncio.Event()
    model = await registry.visual(TINY)
    registry.unload(gone.set)
    assert registry.loaded() == []
    again = await registry.visual(TINY)
    assert again is not model
    image = (await model.encode(model.prepare(IMAGE))).value
    click = VisualPrompt(np.array([[5, 5]], np.float32), np.array([1]))
    assert len((await model.decode(queries(image, [click]))).value) == 1
    lanes = {thread for lane in model.queues for thread in lane._threads._state.threads}
    assert len(lanes) >= 2, "an encode lane and a decode lane"
    assert not gone.is_set()
    del model
    await asyncio.wait_for(gone.wait(), 60)
    for thread in lanes:
        await asyncio.to_thread(thread.join, 60)
    assert not any(thread.is_alive() for thread in lanes)
    registry.close()


async def test_unloading_an_unused_model_does_not_call_back(loader: Loader) -> None:
    registry = registry_of()
    freed: list[str] = []
    model = weakref.ref(await registry.visual(TINY))
    await asyncio.sleep(0)  # the event loop releases the result of the load
    for _ in range(2):
        registry.unload(lambda: freed.append("model"))
    assert model() is None, "nothing else refers to the model"
    # A callback would have been scheduled before this one.
    later = asyncio.Event()
    asyncio.get_running_loop().call_soon(later.set)
    await later.wait()
    assert freed == []


async def test_unloading_during_a_load_leaves_the_load_alone(loader: Loader) -> None:
    registry = registry_of()
    loader.gate.clear()
    waiting = asyncio.create_task(registry.visual(TINY))
    await loader.wait_until_begun()
    registry.unload(lambda: None)
    loader.gate.set()
    model = await waiting
    assert registry.loaded() == [model]
    assert await registry.visual(TINY) is model
    assert loader.loads == ["demo"]
    registry.close()


async def test_configured_models_are_loaded_even_if_the_first_fails(loader: Loader) -> None:
    registry = registry_of(preload="sam2:hiera_tiny,sam3:facebook/sam3")
    assert not registry.has_configured()
    loader.failures = 1
    with pytest.raises(ModelUnavailableError, match="not today"):
        await registry.load_configured()
    assert [model.family for model in registry.loaded()] == ["sam3"]
    assert not registry.has_configured()
    await registry.load_configured()
    assert loader.loads == ["demo", "sam3 demo", "demo"]
    assert registry.has_configured()
    registry.close()


class TestMemoryBudget:
    """`INFERENCE_MODEL_MEMORY_MB`; all models of these tests are equally large."""

    @pytest.fixture
    def budget(self, sam2_model: SAM2Base) -> Callable[[int], int]:
        """MiB for a number of models."""

        def room_for(count: int) -> int:
            nbytes = bytes_of(sam2_model)
            assert nbytes > MiB, "otherwise rounding would make room for one more"
            return -(-count * nbytes // MiB)

        return room_for

    async def test_the_least_recently_used_goes(
        self, loader: Loader, three_sizes: Path, budget: Callable[[int], int]
    ) -> None:
        registry = registry_of(sam2_weights=str(three_sizes), model_memory_mb=budget(2))
        await registry.visual(TINY)
        await registry.visual(SMALL)
        with (await registry.visual(TINY)).in_use():  # SMALL was used less recently now
            pass
        await registry.visual(LARGER)
        assert [registry.is_loaded(key) for key in (TINY, SMALL, LARGER)] == [True, False, True]
        assert sum(weights.nbytes for weights in registry.in_memory()) <= budget(2) * MiB
        await registry.visual(SMALL)  # loaded again on demand
        assert [registry.is_loaded(key) for key in (TINY, SMALL, LARGER)] == [False, True, True]
        assert len(loader.loads) == 4
        registry.close()

    async def test_one_in_use_never_goes(
        self, loader: Loader, three_sizes: Path, budget: Callable[[int], int]
    ) -> None:
        registry = registry_of(sam2_weights=str(three_sizes), model_memory_mb=budget(2))
        tiny, small = await registry.visual(TINY), await registry.visual(SMALL)
        with tiny.in_use():
            with small.in_use(), pytest.raises(CapacityError) as caught:
                await registry.visual(LARGER)
            assert caught.value.status == 429
            assert caught.value.headers == {"retry-after": "2"}
            assert "INFERENCE_MODEL_MEMORY_MB" in caught.value.message
            assert {registry.is_loaded(key) for key in (TINY, SMALL)} == {True}
            await registry.visual(LARGER)
            assert [registry.is_loaded(key) for key in (TINY, SMALL)] == [True, False]
        registry.close()

    async def test_what_is_being_loaded_counts(
        self, loader: Loader, three_sizes: Path, budget: Callable[[int], int]
    ) -> None:
        nbytes = budget(1) * MiB
        for name in ("sam2.1_hiera_tiny.pt", "sam2.1_hiera_small.pt"):
            os.truncate(three_sizes / name, nbytes)
        registry = registry_of(sam2_weights=str(three_sizes), model_memory_mb=budget(1))
        loader.gate.clear()
        first = asyncio.create_task(registry.visual(TINY))
        await loader.wait_until_begun()
        with pytest.raises(CapacityError):
            await registry.visual(SMALL)
        loader.gate.set()
        await first
        await registry.visual(SMALL)
        assert [registry.is_loaded(key) for key in (TINY, SMALL)] == [False, True]
        assert loader.loads == ["sam2.1_hiera_tiny.pt", "sam2.1_hiera_small.pt"]
        registry.close()

    async def test_weights_of_unknown_size_are_loaded_alone(
        self, loader: Loader, three_sizes: Path, budget: Callable[[int], int]
    ) -> None:
        """As those from Hugging Face: whether they fit together is known too late."""
        registry = registry_of(sam2_weights=str(three_sizes), model_memory_mb=budget(2))
        loader.gate.clear()
        first = asyncio.create_task(registry.visual(TINY))
        await loader.wait_until_begun()
        with pytest.raises(CapacityError, match="INFERENCE_MODEL_MEMORY_MB"):
            await registry.visual(SMALL)
        loader.gate.set()
        await first
        await registry.visual(SMALL)
        assert loader.loads == ["sam2.1_hiera_tiny.pt", "sam2.1_hiera_small.pt"]
        registry.close()

    async def test_a_size_is_remembered(self, loader: Loader, three_sizes: Path) -> None:
        """Otherwise each request would load weights that turn out to be too large."""
        registry = registry_of(sam2_weights=str(three_sizes), model_memory_mb=1)
        for _ in range(2):
            with pytest.raises(ModelUnavailableError, match=r"MEMORY_MB is 1\.$"):
                await registry.visual(TINY)
        assert len(loader.loads) == 1

    async def test_a_file_that_is_gone_is_reported_as_such(self, three_sizes: Path) -> None:
        registry = registry_of(sam2_weights=str(three_sizes), model_memory_mb=100)
        (three_sizes / "sam2.1_hiera_tiny.pt").unlink()
        with pytest.raises(ModelUnavailableError, match=r"sam2\.1_hiera_tiny"):
            await registry.visual(TINY)

    async def test_a_model_larger_than_the_budget_is_not_loaded(
        self, loader: Loader, three_sizes: Path
    ) -> None:
        os.truncate(three_sizes / "sam2.1_hiera_tiny.pt", 3 * MiB)
        registry = registry_of(sam2_weights=str(three_sizes), model_memory_mb=2)
        with pytest.raises(ModelUnavailableError) as caught:
            await registry.visual(TINY)
        assert caught.value.message == (
            "sam2:hiera_tiny needs 3 MiB; INFERENCE_MODEL_MEMORY_MB is 2."
        )
        assert loader.loads == []

    async def test_a_model_that_turns_out_to_be_larger_is_not_kept(
        self, loader: Loader, three_sizes: Path
    ) -> None:
        """As weights from Hugging Face, whose size is unknown before."""
        registry = registry_of(sam2_weights=str(three_sizes), model_memory_mb=1)
        with pytest.raises(ModelUnavailableError, match=r"MEMORY_MB is 1\.$"):
            await registry.visual(TINY)
        assert registry.in_memory() == []

    async def test_without_a_budget_all_stay(self, loader: Loader, three_sizes: Path) -> None:
        registry = registry_of(sam2_weights=str(three_sizes))
        for key in (TINY, SMALL, LARGER):
            await registry.visual(key)
        assert {registry.is_loaded(key) for key in (TINY, SMALL, LARGER)} == {True}
        registry.close()

    async def test_an_embedding_outlives_its_model(
        self, loader: Loader, three_sizes: Path, budget: Callable[[int], int]
    ) -> None:
        registry = registry_of(sam2_weights=str(three_sizes), model_memory_mb=budget(1))
        tiny = await registry.visual(TINY)
        label, image = tiny.cache_label, (await tiny.encode(tiny.prepare(IMAGE))).value
        click = VisualPrompt(np.array([[5, 5]], np.float32), np.array([1]))
        (before,) = (await tiny.decode(queries(image, [click]))).value
        del tiny
        small = await registry.visual(SMALL)
        assert not registry.is_loaded(TINY)
        again = await registry.visual(TINY)
        assert again.cache_label == label != small.cache_label
        (after,) = (await again.decode(queries(image, [click]))).value
        np.testing.assert_array_equal(before.planes, after.planes)
        registry.close()


async def test_weights_tell_their_size_and_last_use(loader: Loader, sam2_model: SAM2Base) -> None:
    registry = registry_of()
    model = await registry.visual(TINY)
    weights = registry.find(TINY)
    assert weights is not None
    assert 0.9 * bytes_of(sam2_model) < weights.nbytes <= bytes_of(sam2_model)
    loaded = weights.usage.last_used
    with model.in_use():
        assert weights.usage.users == 1
    assert weights.usage.users == 0
    assert weights.usage.last_used > loaded > 0
    registry.close()


@pytest.mark.parametrize(
    ("given", "effort"),
    [
        ({"threads": 3}, (3, 1, 1)),
        ({"threads": 2, "encode_batch": 5, "decode_batch": 7}, (2, 5, 7)),
    ],
)
async def test_effort_resolves_the_settings(
    given: dict[str, int], effort: tuple[int, int, int]
) -> None:
    assert registry_of(**given).effort == Effort(*effort)


async def test_effort_on_a_gpu() -> None:
    gpu = Compute(torch.device("cuda"), torch.bfloat16, torch.bfloat16)
    assert Effort.of(Settings(threads=3), gpu) == Effort(3, 8, 32)


async def test_images_of_several_requests_are_one_batch_on_a_gpu() -> None:
    sizes: list[int] = []
    first = threading.Event()

    def encode(images: Sequence[Prepared]) -> list[Embedding]:
        sizes.append(len(images))
        assert first.wait(60)
        return [Embedding(image.size, None, 0) for image in images]

    gpu = Compute(torch.device("cuda"), torch.bfloat16, torch.bfloat16)
    engine: Any = SimpleNamespace(checkpoint="demo", side=8, prepare=None, encode=encode)
    model = LoadedEncoder("sam2", engine, gpu, Settings())
    waiting = [asyncio.ensure_future(model.encode(Prepared(None, (1, i)))) for i in range(12)]
    while not sizes:
        await asyncio.sleep(0)
    first.set()
    done = await asyncio.gather(*waiting)
    assert [each.value.size for each in done] == [(1, i) for i in range(12)]
    assert sizes == [8, 4]
    model.close()


async def test_models_are_warmed_on_a_gpu_before_they_count_as_loaded(
    loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    warmed: list[Any] = []
    registry = registry_of()
    monkeypatch.setattr(
        registry_module, "warm_up", lambda each: warmed.append((each, registry.is_loaded(TINY)))
    )
    await registry.visual(TINY)
    assert warmed == [], "on a CPU nothing is gained"
    registry.close()
    registry = registry_of()
    checkpoint: Any = registry.catalog.checkpoint(TINY)
    engine = registry.visual_engine(checkpoint)
    monkeypatch.setattr(registry, "visual_engine", lambda checkpoint: engine)
    registry.compute = replace(registry.compute, device=torch.device("cuda"))
    await registry.visual(TINY)
    assert warmed == [(engine, False)]
    registry.close()


async def test_gpu_settings_reach_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda given: chosen.append(given))
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    on_cpu = registry_of(cuda_graphs=5, device_masks=3)
    assert (on_cpu.compute.graphs, on_cpu.compute.masks_from) == (0, 0)
    assert chosen == [], "a CPU is left as it is"
    gpu = Compute(torch.device("cuda"), torch.float32, torch.float32)
    configure_gpu(gpu, "highest")
    assert (chosen, cudnn.allow_tf32) == (["highest"], False)
    configure_gpu(gpu, Settings().matmul_precision)
    assert (chosen, cudnn.allow_tf32) == (["highest", "high"], True)
    monkeypatch.setattr(torch, "empty", lambda *args, device, **kwargs: torch.zeros(1))
    compute = choose_compute("cuda", "bfloat16", graphs=5, masks_from=3)
    assert (compute.graphs, compute.masks_from) == (5, 3)


async def test_loading_is_logged_and_the_demo_called_one(
    loader: Loader, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (directory / "sam2.1_hiera_tiny.pt").touch()
    demo, real = registry_of(), registry_of(sam2_weights=str(directory))
    await demo.visual(TINY)
    assert "Loaded sam2/demo" in caplog.text
    assert "demo weights" in caplog.text
    assert "cpu in float32" in caplog.text
    caplog.clear()
    await real.visual(TINY)
    assert "Loaded sam2/sam2.1_hiera_tiny.pt on cpu" in caplog.text
    assert "demo" not in caplog.text
    demo.close()
    real.close()


@pytest.mark.parametrize(
    "settings",
    [{"sam2_weights": "/nowhere"}, {"sam3_weights": "/nowhere"}],
    ids=["sam2", "sam3"],
)
async def test_an_invalid_setting_is_reported_at_once(settings: dict[str, str]) -> None:
    with pytest.raises(ModelUnavailableError, match="/nowhere"):
        registry_of(**settings)


async def test_an_unavailable_device_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda:99", "warp", "meta:1:2"):
        with pytest.raises(ModelUnavailableError, match=f"INFERENCE_DEVICE={device}"):
            choose_compute(device, "auto")


async def test_auto_selects_the_available_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for speed, dtype in ((Speed(1.2, 1.0), torch.bfloat16), (Speed(1.1, 1.0), torch.float32)):
        found = choose_compute("auto", "auto", speed=lambda speed=speed: speed)  # type: ignore[misc]
        assert found == Compute(torch.device("cpu"), dtype, dtype)


async def test_a_set_dtype_is_not_measured() -> None:
    def speed() -> Speed:
        raise AssertionError("measured")

    assert choose_compute("cpu", "bfloat16", speed=speed).dtype == torch.bfloat16
    assert choose_compute("cpu", "float32", speed=speed).dtype == torch.float32


async def test_the_measured_speed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    choose_compute("cpu", "auto", speed=lambda: Speed(0.004, 0.0015))
    assert "INFERENCE_DTYPE=auto is bfloat16" in caplog.text
    assert "4.00 ms in float32 and 1.50 ms in bfloat16" in caplog.text
