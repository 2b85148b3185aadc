"""Worker threads that die are replaced, and every caller gets a result."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextvars import copy_context
from typing import Any

import numpy as np
import pytest

from inference_server import executor as module
from inference_server.engines.batch_queue import BatchQueue, BatchResult
from inference_server.errors import ImageError
from inference_server.executor import (
    Threads,
    WorkCancelledError,
    WorkerDiedError,
    WorkerPool,
    stop_if_cancelled,
)
from inference_server.images import decode_image
from inference_server.images.raster import OpenRaster
from inference_server.images.raster_file import RasterFile
from inference_server.masks import Mask, render, upsample_masks
from tests.api.serving import until
from tests.images import rasters


def threads_of(name: str) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith(f"{name}_")]


def kill(thread: threading.Thread) -> None:
    """End a thread from outside, as soon as it runs Python code again."""
    assert thread.ident is not None
    ending = ctypes.py_object(SystemExit)
    count = ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ending)
    assert count == 1


class Fatal:
    """Work that ends its thread the first few times."""

    def __init__(self, times: int, how: BaseException) -> None:
        self.left = times
        self.how = how

    def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise self.how
        return "done"


# How a library may end a thread; pytest would report all but the first.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("how", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_work_that_ends_its_thread_is_retried_once(how: BaseException) -> None:
    pool = WorkerPool(1, "fatal")
    first = pool.submit(threading.get_ident).result(60)
    assert pool.submit(Fatal(1, how)).result(60) == "done"
    assert pool.submit(threading.get_ident).result(60) != first
    pool.shutdown()


def test_work_that_ends_every_thread_fails_and_other_work_is_done() -> None:
    pool = WorkerPool(1, "poison")
    fatal = pool.submit(Fatal(99, SystemExit()))
    others = [pool.submit(int, number) for number in range(5)]
    with pytest.raises(WorkerDiedError):
        fatal.result(60)
    assert [other.result(60) for other in others] == list(range(5))
    until(lambda: len(threads_of("poison")) == 1)
    pool.shutdown()


def is_idle(thread: threading.Thread) -> bool:
    """Whether a thread waits for work, so it is neither starting nor ending."""
    if thread.ident is None:  # it is starting
        return False
    frame = sys._current_frames().get(thread.ident)
    return frame is not None and frame.f_code is module._WorkerThreads._next.__code__


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_killed_idle_thread_is_replaced_and_no_work_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = WorkerPool(2, "idle")
    for _ in range(20):
        pool.submit(int).result(60)
        # Not twice, and not while it starts: no thread can handle that.
        until(lambda: all(is_idle(thread) for thread in threads_of("idle")))
        killed = threads_of("idle")
        for thread in killed:
            kill(thread)
        results = [pool.submit(int, number) for number in range(4)]
        assert [result.result(60) for result in results] == list(range(4))

        def have_noticed(killed: Sequence[threading.Thread] = killed) -> bool:
            """Give work to idle threads, so that killed ones wake up and end."""
            assert pool.submit(int).result(60) == 0
            return not any(thread.is_alive() for thread in killed)

        until(have_noticed)
        until(lambda: len(threads_of("idle")) <= 2)
    assert "A worker thread of idle died" in caplog.text
    pool.shutdown()


def test_exceptions_do_not_end_threads() -> None:
    pool = WorkerPool(1, "failing")
    thread = pool.submit(threading.get_ident).result(60)
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result(60)
    assert pool.submit(threading.get_ident).result(60) == thread
    pool.shutdown()


def test_threads_are_started_on_demand() -> None:
    pool = WorkerPool(3, "needed")
    for _ in range(5):
        pool.submit(int).result(60)
        until(lambda: len(pool._state.idle) == 1)
    assert len(threads_of("needed")) == 1
    gate = threading.Event()
    held = [pool.submit(gate.wait, 60) for _ in range(7)]
    assert len(threads_of("needed")) == 3
    gate.set()
    assert all(each.result(60) for each in held)
    pool.shutdown()
    assert not threads_of("needed")


def test_a_thread_that_cannot_lower_its_priority_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(niceness: int) -> None:
        raise PermissionError

    monkeypatch.setattr(module, "be_nice", forbidden)
    pool = WorkerPool(1, "rude", 5)
    assert pool.submit(int).result(60) == 0
    pool.shutdown()


def test_shutdown_drops_queued_work() -> None:
    pool = WorkerPool(1, "closing")
    begun, gate = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return gate.wait(60)

    first, second = pool.submit(work), pool.submit(int)
    assert begun.wait(60)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    assert first.result(60)
    with pytest.raises(CancelledError):
        second.result(60)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)
    until(lambda: not threads_of("closing"))


def test_work_cancelled_in_the_queue_is_not_done() -> None:
    pool = WorkerPool(1, "cancelled")
    gate = threading.Event()
    done: list[int] = []
    first = pool.submit(gate.wait, 60)
    second = pool.submit(done.append, 2)
    third = pool.submit(done.append, 3)
    assert second.cancel()
    gate.set()
    first.result(60)
    third.result(60)
    assert done == [3]
    pool.shutdown()


def test_threads_end_with_their_pool() -> None:
    pool = WorkerPool(2, "gone")
    pool.submit(int).result(60)
    assert threads_of("gone")
    reference = weakref.ref(pool)
    del pool
    gc.collect()
    assert reference() is None
    until(lambda: not threads_of("gone"))


@pytest.mark.parametrize(("seconds", "work", "ended"), [(0.2, 600, "False"), (60, 1, "True")])
def test_the_end_of_a_process_waits_for_a_limited_time(
    seconds: float, work: int, ended: str
) -> None:
    code = (
        "import os, threading, time; from inference_server.executor import WorkerPool, end_all;"
        "begun = threading.Event();"
        "pool = WorkerPool(1, 'x');"
        f"pool.submit(lambda: (begun.set(), time.sleep({work}))); begun.wait();"
        f"print(end_all({seconds}), flush=True); os._exit(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == ended


def test_a_process_ends_without_closing_its_pools() -> None:
    code = (
        "from inference_server.executor import WorkerPool; pool = WorkerPool(2, 'x');"
        "print(pool.submit(int).result())"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=120, check=True)
    assert done.returncode == 0


def _ends_its_thread_at(fatal: int) -> Callable[[Sequence[int]], Sequence[int]]:
    def work(items: Sequence[int]) -> Sequence[int]:
        time.sleep(0.01)
        if fatal in items:
            raise SystemExit
        return items

    return work


@pytest.mark.anyio
async def test_a_queue_and_its_event_loop_survive_work_that_ends_threads() -> None:
    lane: BatchQueue[int, int] = BatchQueue(
        "mortal", _ends_its_thread_at(3), max_batch=1, capacity=20, workers=2
    )
    results = await asyncio.wait_for(
        asyncio.gather(*(lane.submit(number) for number in range(8)), return_exceptions=True), 60
    )
    assert isinstance(results.pop(3), WorkerDiedError)
    assert [r.value for r in results if isinstance(r, BatchResult)] == [0, 1, 2, 4, 5, 6, 7]
    lane.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_slow_work_takes_no_thread_of_other_work() -> None:
    threads, gate = Threads(2, 2), threading.Event()
    slow = [asyncio.create_task(threads.run_slow(gate.wait)) for _ in range(20)]
    try:
        async with asyncio.timeout(60):
            assert await threads.run_in_background(lambda: 1) == 1
            assert await threads.run(lambda: 2) == 2
        assert not any(task.done() for task in slow)
    finally:
        gate.set()
        await asyncio.gather(*slow)
        threads.close()


@pytest.mark.anyio
@pytest.mark.parametrize("lane", ["run", "run_in_background", "run_slow"])
async def test_work_ends_between_its_steps_when_its_caller_has_left(lane: str) -> None:
    threads, gate = Threads(1, 1), threading.Event()
    begun, steps = asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def work() -> None:
        for step in range(3):
            stop_if_cancelled()
            steps.append(step)
            loop.call_soon_threadsafe(begun.set)
            gate.wait()

    task = asyncio.create_task(getattr(threads, lane)(work))
    try:
        async with asyncio.timeout(60):
            await begun.wait()
            task.cancel()
            await asyncio.wait([task])
            gate.set()
            # The only thread has ended the work when it takes the next.
            await getattr(threads, lane)(lambda: None)
    finally:
        gate.set()
        threads.close()
    assert task.cancelled()
    assert steps == [0]


@pytest.mark.anyio
async def test_work_whose_caller_stays_is_not_ended() -> None:
    threads = Threads(1, 1)
    stop_if_cancelled()  # outside of any pool
    await threads.run_slow(stop_if_cancelled)
    with pytest.raises(WorkCancelledError):
        await threads.run_slow(_cancelled_work)
    threads.close()


def _cancelled_work() -> None:
    cancelled = module._cancelled.get()
    assert cancelled is not None
    cancelled.set()
    stop_if_cancelled()


def _cancelled_after(count: int) -> Callable[[], None]:
    """Cancels the work of the current context at the given call."""
    cancelled = threading.Event()
    module._cancelled.set(cancelled)
    left = iter(range(count - 1))

    def call() -> None:
        if next(left, None) is None:
            cancelled.set()

    return call


@pytest.mark.parametrize("read", ["decode", "valid"])
def test_a_raster_is_read_no_further_for_nobody(monkeypatch: pytest.MonkeyPatch, read: str) -> None:
    data = rasters.write(np.full((1, 3000, 3000), np.nan, np.float32))
    reads = 0

    def work() -> None:
        cancel = _cancelled_after(2)
        read_window = OpenRaster.read

        def noting(self: OpenRaster, *args: Any, **options: Any) -> Any:
            nonlocal reads
            reads += 1
            cancel()
            return read_window(self, *args, **options)

        monkeypatch.setattr(OpenRaster, "read", noting)
        readers: dict[str, Callable[[], object]] = {
            "decode": lambda: decode_image(data, max_pixels=9_000_000),
            "valid": lambda: RasterFile(data).valid,
        }
        with pytest.raises((ImageError, WorkCancelledError)):  # it reaches nobody
            readers[read]()

    copy_context().run(work)
    assert reads == 2


def test_no_further_mask_is_made_or_drawn_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = [Mask.from_plane(np.ones((8, 8), bool))] * 5
    tints = 0

    def draw() -> None:
        cancel, tint = _cancelled_after(2), render._tint

        def noting(*args: Any) -> None:
            nonlocal tints
            tints += 1
            cancel()
            tint(*args)

        monkeypatch.setattr(render, "_tint", noting)
        with pytest.raises(WorkCancelledError):
            render.overlay(np.zeros((8, 8, 3), np.uint8), masks)

    def upsample() -> None:
        _cancelled_after(1)()
        with pytest.raises(WorkCancelledError):
            upsample_masks(np.ones((3, 4, 4), np.float32), (8, 8))

    copy_context().run(draw)
    copy_context().run(upsample)
    assert tints == 2
