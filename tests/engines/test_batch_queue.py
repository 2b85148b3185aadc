"""Batch queues: batching, capacity, fairness, cancellation, errors and closing."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inference_server.engines.base import (
    Candidates,
    Embedding,
    Prepared,
    Query,
    RGBImage,
    VisualPrompt,
    queries,
)
from inference_server.engines.batch_queue import BatchQueue, BatchResult
from inference_server.engines.device import Compute, use_threads
from inference_server.engines.model import LoadedModel
from inference_server.errors import CapacityError, ModelUnavailableError
from inference_server.executor import BACKGROUND
from inference_server.settings import Settings

pytestmark = pytest.mark.anyio


class Bench:
    """Work that records its batches and threads, and waits at a gate that tests close."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.threads.add(threading.current_thread().name)
        self.begun.release()
        assert self.gate.wait(60)
        if any(item < 0 for item in items):
            raise ValueError("cannot do that")
        return [item * 10 for item in items]

    async def wait_until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=60)


class Clock:
    """A clock that tests advance, so that the pace of the machine does not matter."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def queue_of(
    work: Callable[[Sequence[int]], Sequence[int]],
    max_batch: int = 4,
    capacity: int = 8,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[BatchQueue[int, int]]:
    queue = BatchQueue("test", work, max_batch=max_batch, capacity=capacity, clock=clock)
    try:
        yield queue
    finally:
        if isinstance(work, Bench):
            work.gate.set()
        queue.close()


async def submitted(
    queue: BatchQueue[int, int], items: Sequence[int]
) -> list[asyncio.Task[BatchResult[int]]]:
    """Submit items one by one; return the tasks once the items are in the queue."""
    tasks = [asyncio.create_task(queue.submit(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def test_items_are_processed_in_the_queues_thread() -> None:
    bench = Bench()
    async with queue_of(bench) as queue:
        done = await queue.submit(7)
        await queue.submit(8)
    assert (done.value, done.batch) == (70, 1)
    assert bench.batches == [[7], [8]]
    assert len(bench.threads) == 1
    assert threading.current_thread().name not in bench.threads


async def test_waiting_items_are_batched_in_order_up_to_the_maximum() -> None:
    bench = Bench()
    async with queue_of(bench, max_batch=3) as queue:
        bench.gate.clear()
        first = await submitted(queue, [0])
        await bench.wait_until_begun()
        others = await submitted(queue, [1, 2, 3, 4, 5])
        assert queue.depth == 5
        bench.gate.set()
        answers = [done.value for done in await asyncio.gather(*first, *others)]
        batch_sizes = [task.result().batch for task in others]
        assert queue.depth == 0
    assert bench.batches == [[0], [1, 2, 3], [4, 5]]
    assert answers == [0, 10, 20, 30, 40, 50]
    assert batch_sizes == [3, 3, 3, 2, 2]


async def test_queued_and_worked_seconds() -> None:
    clock, gate = Clock(), threading.Event()

    def slow(items: Sequence[int]) -> Sequence[int]:
        if 2 in items:
            assert gate.wait(60)
        clock.now += items[0]
        return items

    async with queue_of(slow, max_batch=1, clock=clock) as queue:
        tasks = await submitted(queue, [1, 2])
        first = await tasks[0]
        gate.set()
        second = await tasks[1]
    assert (first.queued, first.worked) == (0, 1)
    assert (second.queued, second.worked) == (1, 2)


async def test_a_full_queue_rejects_with_retry_after() -> None:
    bench = Bench()
    async with queue_of(bench, max_batch=1, capacity=2) as queue:
        bench.gate.clear()
        tasks = await submitted(queue, [1])
        await bench.wait_until_begun()
        tasks += await submitted(queue, [2, 3])
        with pytest.raises(CapacityError) as caught:
            await queue.submit(4)
        assert caught.value.status == 429
        assert caught.value.retry_after >= 1
        assert int(caught.value.headers["retry-after"]) >= 1
        assert "INFERENCE_QUEUE_SIZE" in caught.value.message
        bench.gate.set()
        assert [done.value for done in await asyncio.gather(*tasks)] == [10, 20, 30]
        assert (await queue.submit(5)).value == 50
    assert 4 not in [item for batch in bench.batches for item in batch]


async def test_retry_after_is_proportional_to_the_processing_time() -> None:
    bench, clock = Bench(), Clock()
    async with queue_of(bench, max_batch=1, capacity=20, clock=clock) as queue:
        bench.gate.clear()
        slow = await submitted(queue, [1])
        await bench.wait_until_begun()
        clock.now += 0.5
        bench.gate.set()
        await slow[0]
        bench.gate.clear()
        tasks = await submitted(queue, range(21))
        await bench.wait_until_begun()
        tasks += await submitted(queue, [100] * (20 - queue.depth))
        with pytest.raises(CapacityError) as caught:
            await queue.submit(4)
        bench.gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert caught.value.retry_after == 0.5 * 20


async def test_a_cancelled_caller_leaves_the_queue() -> None:
    bench = Bench()
    async with queue_of(bench, max_batch=1, capacity=2) as queue:
        bench.gate.clear()
        tasks = await submitted(queue, [1])
        await bench.wait_until_begun()
        tasks += await submitted(queue, [2, 3])
        tasks[1].cancel()
        await asyncio.sleep(0)
        assert queue.depth == 1
        tasks += await submitted(queue, [4])
        bench.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert bench.batches == [[1], [3], [4]]
    assert isinstance(results[1], asyncio.CancelledError)


async def test_a_caller_cancelled_during_the_work_affects_no_other() -> None:
    bench = Bench()
    async with queue_of(bench) as queue:
        bench.gate.clear()
        tasks = await submitted(queue, [1])
        await bench.wait_until_begun()
        tasks += await submitted(queue, [2, 3])
        tasks[0].cancel()
        bench.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert [done.value for done in results[1:] if isinstance(done, BatchResult)] == [20, 30]


async def test_an_error_fails_its_batch_only() -> None:
    bench = Bench()
    async with queue_of(bench, max_batch=2) as queue:
        bench.gate.clear()
        tasks = await submitted(queue, [0])
        await bench.wait_until_begun()
        tasks += await submitted(queue, [1, -2, 3])
        bench.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert bench.batches == [[0], [1, -2], [3]]
        assert [type(result) for result in results] == [
            BatchResult,
            ValueError,
            ValueError,
            BatchResult,
        ]
        assert (await queue.submit(5)).value == 50


async def test_missing_results_fail_the_batch() -> None:
    def careless(items: Sequence[int]) -> Sequence[int]:
        return items[1:]

    async with queue_of(careless) as queue:
        for _ in range(2):
            tasks = await submitted(queue, [1, 2, 3])
            results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
            assert [type(result) for result in results] == [ValueError] * 3


async def test_items_are_compared_by_identity() -> None:
    """Arrays have no truth value when compared, and equal images are different requests."""
    begun, gate = threading.Semaphore(0), threading.Event()

    def work(images: Sequence[NDArray[np.uint8]]) -> list[int]:
        begun.release()
        assert gate.wait(60)
        return [int(image[0]) for image in images]

    queue: BatchQueue[NDArray[np.uint8], int] = BatchQueue("test", work, max_batch=1, capacity=16)
    tasks = [asyncio.create_task(queue.submit(np.full(4, i, np.uint8))) for i in range(6)]
    assert await asyncio.to_thread(begun.acquire, timeout=60)
    tasks[4].cancel()
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    queue.close()
    values = [
        result.value if isinstance(result, BatchResult) else type(result) for result in results
    ]
    assert values == [0, 1, 2, 3, asyncio.CancelledError, 5]


async def test_the_event_loop_is_not_blocked_by_the_work() -> None:
    bench = Bench()
    async with queue_of(bench) as queue:
        bench.gate.clear()
        tasks = await submitted(queue, [1])
        await bench.wait_until_begun()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not tasks[0].done()
        bench.gate.set()
        assert (await tasks[0]).value == 10


async def test_closing_finishes_the_current_batch_and_fails_waiting_items() -> None:
    bench = Bench()
    async with queue_of(bench, max_batch=1) as queue:
        bench.gate.clear()
        tasks = await submitted(queue, [1])
        await bench.wait_until_begun()
        tasks += await submitted(queue, [2, 3])
        queue.close()
        assert queue.depth == 0
        bench.gate.set()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
    assert isinstance(results[0], BatchResult)
    # Not a cancellation, which would look like the client's own.
    assert [type(result) for result in results[1:]] == [ModelUnavailableError] * 2
    assert bench.batches == [[1]]


async def test_a_closed_queue_rejects_items() -> None:
    async with queue_of(Bench()) as queue:
        await queue.submit(1)
        queue.close()
        with pytest.raises(ModelUnavailableError, match="unloaded"):
            await asyncio.wait_for(queue.submit(2), 60)
        assert queue.depth == 0
        queue.close()


# Submissions of several items


async def test_a_submission_of_several_items_counts_once() -> None:
    bench = Bench()
    async with queue_of(bench, max_batch=2, capacity=2) as queue:
        bench.gate.clear()
        first = await submitted(queue, [0])
        await bench.wait_until_begun()
        submission = asyncio.create_task(queue.submit_all(range(1, 6)))
        await asyncio.sleep(0)
        assert queue.depth == 1
        other = await submitted(queue, [9])
        with pytest.raises(CapacityError):
            await queue.submit(10)
        bench.gate.set()
        done = await submission
        assert (await other[0]).value == 90
        await first[0]
        assert queue.depth == 0
    assert done.value == [10, 20, 30, 40, 50]
    assert done.batch == 2
    led = [*done.led, *other[0].result().led, *first[0].result().led]
    assert sorted(led) == sorted(len(batch) for batch in bench.batches), (
        "each batch is counted once"
    )
    assert done.worked > 0
    assert done.queued > 0
    assert all(len(batch) <= 2 for batch in bench.batches)


async def test_an_empty_submission_is_done() -> None:
    async with queue_of(Bench()) as queue:
        assert (await queue.submit_all([])).value == []


async def test_the_queue_is_fair_between_submissions() -> None:
    order: list[int] = []
    clock, gate = Clock(), threading.Event()

    def slow(items: Sequence[int]) -> Sequence[int]:
        if 100 in items:
            assert gate.wait(60)
        clock.now += 0.02
        order.extend(items)
        return items

    async with queue_of(slow, max_batch=1, clock=clock) as queue:
        await queue.submit(-1)  # to measure the processing time
        large = asyncio.create_task(queue.submit_all(range(100, 120)))
        click = asyncio.create_task(
            queue.submit(1)
        )  # while the first item of `large` is in progress
        await asyncio.sleep(0)
        gate.set()
        await click
        clicks = 1
        while not large.done():  # as many clicks as the queue can process
            clicks += 1
            await queue.submit(clicks)
        await large
    before_the_first_click = order.index(1)
    assert before_the_first_click <= 4, "a click waits for two or three items, not for twenty"
    assert clicks <= 60, "the clicks starved the large submission"


async def test_a_failing_item_fails_its_submission_only() -> None:
    bench = Bench()
    async with queue_of(bench, max_batch=1) as queue:
        good, bad = queue.submit_all([1, 2]), queue.submit_all([3, -3, 4])
        results = await asyncio.gather(good, bad, return_exceptions=True)
        assert not isinstance(results[0], BaseException)
        assert results[0].value == [10, 20]
        assert isinstance(results[1], ValueError)
        assert queue.depth == 0


async def test_a_cancelled_submission_removes_its_items() -> None:
    bench = Bench()
    async with queue_of(bench, max_batch=1) as queue:
        bench.gate.clear()
        submission = asyncio.create_task(queue.submit_all([1, 2, 3]))
        await bench.wait_until_begun()
        submission.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submission
        assert queue.depth == 0
        bench.gate.set()
        assert (await queue.submit(7)).value == 70
    assert bench.batches == [[1], [7]]


# Several threads


async def test_several_threads_know_how_many_are_busy() -> None:
    together = threading.Barrier(3)
    busy: list[int] = []

    def work(items: Sequence[int]) -> Sequence[int]:
        together.wait(60)
        return items

    queue: BatchQueue[int, int] = BatchQueue(
        "test", work, max_batch=1, capacity=8, workers=3, enter=busy.append
    )
    assert (await queue.submit_all([1, 2, 3, 4, 5, 6])).value == [1, 2, 3, 4, 5, 6]
    assert busy[0] == 3, "the first thread counts those that are about to start"
    together = threading.Barrier(1)
    await queue.submit(1)
    assert busy[-1] == 1
    queue.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities elsewhere")
async def test_only_a_background_queue_has_a_lower_priority() -> None:
    def niceness(items: Sequence[int]) -> Sequence[int]:
        return [os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) for _ in items]

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    lowered = min(before + BACKGROUND, 19)  # the tests may run with a lower priority
    queue: BatchQueue[int, int] = BatchQueue(
        "test", niceness, max_batch=1, capacity=1, niceness=lowered
    )
    async with queue_of(niceness) as ordinary:
        assert (await queue.submit(0)).value == lowered
        assert (await ordinary.submit(0)).value == before
    queue.close()
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


class Slow:
    """An engine whose encoding waits at a gate."""

    checkpoint = "slow"

    def __init__(self) -> None:
        self.gate = threading.Event()

    side = 8

    def prepare(
        self,
        pixels: RGBImage,
        size: tuple[int, int] | None = None,
        extent: tuple[float, float] | None = None,
    ) -> Prepared:
        return Prepared(pixels, size or (1, 1))

    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        assert self.gate.wait(60)
        return [Embedding((1, 1), [np.zeros(3)], 1) for _ in images]

    def decode(self, queries: Sequence[Query[VisualPrompt]]) -> list[Candidates]:
        return [
            Candidates(
                np.full((1, 1, 1), float(query.multimask), np.float32),
                0.0,
                np.array([len(query.prompt.points)], np.float32),
            )
            for query in queries
        ]


def test_a_thread_has_its_own_number_of_threads() -> None:
    """A number of torch threads applies to one thread, so queues can divide the cores."""
    mine, seen = torch.get_num_threads(), []

    def work(count: int) -> None:
        use_threads(count)
        seen.append(torch.get_num_threads())

    for count in (mine + 1, 1):
        thread = threading.Thread(target=work, args=(count,))
        thread.start()
        thread.join()
    assert seen == [mine + 1, 1]
    assert torch.get_num_threads() == mine


async def test_a_click_does_not_wait_for_an_encode(cpu: Compute) -> None:
    engine = Slow()
    model = LoadedModel("sam2", engine, cpu, Settings())
    embedding = Embedding((1, 1), [np.zeros(3)], 1)
    encode = asyncio.create_task(model.encode(Prepared(None, (1, 1))))
    prompts = [
        VisualPrompt(np.zeros((count, 2), np.float32), np.ones(count, np.int64)) for count in (1, 2)
    ]
    # Concurrent requests with one embedding; comparing requests has no truth value, as of arrays.
    answers = await asyncio.gather(
        *(
            model.decode(queries(embedding, prompts[::order], multimask=order > 0))
            for order in (1, -1) * 3
        )
    )
    assert not encode.done()
    engine.gate.set()
    assert (await encode).value.size == (1, 1)
    model.close()
    assert model.label == "sam2/slow"
    for done, order in zip(answers, (1, -1) * 3, strict=True):
        assert [float(answer.scores[0]) for answer in done.value] == [1.0, 2.0][::order]
        assert {float(answer.planes[0, 0, 0]) for answer in done.value} == {float(order > 0)}
