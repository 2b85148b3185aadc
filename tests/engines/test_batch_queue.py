"""Batch queues: batches of waiting items, refusal when full, fairness, and no lost callers."""

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
    """Work that records its batches and waits at a gate."""

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
async def lane_of(
    work: Callable[[Sequence[int]], Sequence[int]],
    max_batch: int = 4,
    capacity: int = 8,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[BatchQueue[int, int]]:
    lane = BatchQueue("test", work, max_batch=max_batch, capacity=capacity, clock=clock)
    try:
        yield lane
    finally:
        if isinstance(work, Bench):
            work.gate.set()
        lane.close()


async def submitted(
    lane: BatchQueue[int, int], items: Sequence[int]
) -> list[asyncio.Task[BatchResult[int]]]:
    """Submit items and return the waiting tasks."""
    tasks = [asyncio.create_task(lane.submit(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def test_an_item_is_done_in_the_lanes_own_thread() -> None:
    bench = Bench()
    async with lane_of(bench) as lane:
        done = await lane.submit(7)
        await lane.submit(8)
    assert (done.value, done.batch) == (70, 1)
    assert bench.batches == [[7], [8]]
    assert len(bench.threads) == 1
    assert threading.current_thread().name not in bench.threads


async def test_what_waits_is_done_together_in_its_order_and_within_the_bound() -> None:
    bench = Bench()
    async with lane_of(bench, max_batch=3) as lane:
        bench.gate.clear()
        first = await submitted(lane, [0])
        await bench.wait_until_begun()
        others = await submitted(lane, [1, 2, 3, 4, 5])
        assert lane.depth == 5
        bench.gate.set()
        answers = [done.value for done in await asyncio.gather(*first, *others)]
        batch_sizes = [task.result().batch for task in others]
        assert lane.depth == 0
    assert bench.batches == [[0], [1, 2, 3], [4, 5]]
    assert answers == [0, 10, 20, 30, 40, 50]
    assert batch_sizes == [3, 3, 3, 2, 2]


async def test_the_time_in_the_queue_and_at_work_are_told_apart() -> None:
    clock, gate = Clock(), threading.Event()

    def slow(items: Sequence[int]) -> Sequence[int]:
        if 2 in items:
            assert gate.wait(60)
        clock.now += items[0]
        return items

    async with lane_of(slow, max_batch=1, clock=clock) as lane:
        tasks = await submitted(lane, [1, 2])
        first = await tasks[0]
        gate.set()
        second = await tasks[1]
    assert (first.queued, first.worked) == (0, 1)
    assert (second.queued, second.worked) == (1, 2)


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    bench = Bench()
    async with lane_of(bench, max_batch=1, capacity=2) as lane:
        bench.gate.clear()
        tasks = await submitted(lane, [1])
        await bench.wait_until_begun()
        tasks += await submitted(lane, [2, 3])
        with pytest.raises(CapacityError) as caught:
            await lane.submit(4)
        assert caught.value.status == 429
        assert caught.value.retry_after >= 1
        assert int(caught.value.headers["retry-after"]) >= 1
        assert "INFERENCE_QUEUE_SIZE" in caught.value.message
        bench.gate.set()
        assert [done.value for done in await asyncio.gather(*tasks)] == [10, 20, 30]
        assert (await lane.submit(5)).value == 50
    assert 4 not in [item for batch in bench.batches for item in batch]


async def test_the_time_to_come_back_grows_with_the_pace_of_the_lane() -> None:
    bench, clock = Bench(), Clock()
    async with lane_of(bench, max_batch=1, capacity=20, clock=clock) as lane:
        bench.gate.clear()
        slow = await submitted(lane, [1])
        await bench.wait_until_begun()
        clock.now += 0.5
        bench.gate.set()
        await slow[0]
        bench.gate.clear()
        tasks = await submitted(lane, range(21))
        await bench.wait_until_begun()
        tasks += await submitted(lane, [100] * (20 - lane.depth))
        with pytest.raises(CapacityError) as caught:
            await lane.submit(4)
        bench.gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert caught.value.retry_after == 0.5 * 20


async def test_a_cancelled_caller_leaves_the_queue() -> None:
    bench = Bench()
    async with lane_of(bench, max_batch=1, capacity=2) as lane:
        bench.gate.clear()
        tasks = await submitted(lane, [1])
        await bench.wait_until_begun()
        tasks += await submitted(lane, [2, 3])
        tasks[1].cancel()
        await asyncio.sleep(0)
        assert lane.depth == 1
        tasks += await submitted(lane, [4])
        bench.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert bench.batches == [[1], [3], [4]]
    assert isinstance(results[1], asyncio.CancelledError)


async def test_a_caller_cancelled_during_the_work_disturbs_nobody() -> None:
    bench = Bench()
    async with lane_of(bench) as lane:
        bench.gate.clear()
        tasks = await submitted(lane, [1])
        await bench.wait_until_begun()
        tasks += await submitted(lane, [2, 3])
        tasks[0].cancel()
        bench.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert [done.value for done in results[1:] if isinstance(done, BatchResult)] == [20, 30]


async def test_a_failure_reaches_all_of_its_batch_and_the_lane_lives_on() -> None:
    bench = Bench()
    async with lane_of(bench, max_batch=2) as lane:
        bench.gate.clear()
        tasks = await submitted(lane, [0])
        await bench.wait_until_begun()
        tasks += await submitted(lane, [1, -2, 3])
        bench.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert bench.batches == [[0], [1, -2], [3]]
        assert [type(result) for result in results] == [
            BatchResult,
            ValueError,
            ValueError,
            BatchResult,
        ]
        assert (await lane.submit(5)).value == 50


async def test_work_that_loses_results_is_a_failure_of_all_of_its_batch() -> None:
    def careless(items: Sequence[int]) -> Sequence[int]:
        return items[1:]

    async with lane_of(careless) as lane:
        for _ in range(2):
            tasks = await submitted(lane, [1, 2, 3])
            results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
            assert [type(result) for result in results] == [ValueError] * 3


async def test_items_are_told_apart_by_identity() -> None:
    """Arrays do not compare to a truth value, and equal images are different requests."""
    begun, gate = threading.Semaphore(0), threading.Event()

    def work(images: Sequence[NDArray[np.uint8]]) -> list[int]:
        begun.release()
        assert gate.wait(60)
        return [int(image[0]) for image in images]

    lane: BatchQueue[NDArray[np.uint8], int] = BatchQueue("test", work, max_batch=1, capacity=16)
    tasks = [asyncio.create_task(lane.submit(np.full(4, i, np.uint8))) for i in range(6)]
    assert await asyncio.to_thread(begun.acquire, timeout=60)
    tasks[4].cancel()
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    lane.close()
    values = [
        result.value if isinstance(result, BatchResult) else type(result) for result in results
    ]
    assert values == [0, 1, 2, 3, asyncio.CancelledError, 5]


async def test_the_event_loop_turns_during_the_work() -> None:
    bench = Bench()
    async with lane_of(bench) as lane:
        bench.gate.clear()
        tasks = await submitted(lane, [1])
        await bench.wait_until_begun()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not tasks[0].done()
        bench.gate.set()
        assert (await tasks[0]).value == 10


async def test_closing_finishes_the_work_and_tells_those_who_wait() -> None:
    bench = Bench()
    async with lane_of(bench, max_batch=1) as lane:
        bench.gate.clear()
        tasks = await submitted(lane, [1])
        await bench.wait_until_begun()
        tasks += await submitted(lane, [2, 3])
        lane.close()
        assert lane.depth == 0
        bench.gate.set()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
    assert isinstance(results[0], BatchResult)
    # Not a `CancelledError`, which would look as if the client had disconnected.
    assert [type(result) for result in results[1:]] == [ModelUnavailableError] * 2
    assert bench.batches == [[1]]


async def test_a_closed_lane_takes_nothing_in() -> None:
    async with lane_of(Bench()) as lane:
        await lane.submit(1)
        lane.close()
        with pytest.raises(ModelUnavailableError, match="unloaded"):
            await asyncio.wait_for(lane.submit(2), 60)
        assert lane.depth == 0
        lane.close()


# Submissions of several items.


async def test_a_job_of_several_items_is_answered_in_their_order_and_counts_once() -> None:
    bench = Bench()
    async with lane_of(bench, max_batch=2, capacity=2) as lane:
        bench.gate.clear()
        first = await submitted(lane, [0])
        await bench.wait_until_begun()
        job = asyncio.create_task(lane.submit_all(range(1, 6)))
        await asyncio.sleep(0)
        assert lane.depth == 1
        other = await submitted(lane, [9])
        with pytest.raises(CapacityError):
            await lane.submit(10)
        bench.gate.set()
        done = await job
        assert (await other[0]).value == 90
        await first[0]
        assert lane.depth == 0
    assert done.value == [10, 20, 30, 40, 50]
    assert done.batch == 2
    led = [*done.led, *other[0].result().led, *first[0].result().led]
    assert sorted(led) == sorted(len(batch) for batch in bench.batches), "each batch once"
    assert done.worked > 0
    assert done.queued > 0
    assert all(len(batch) <= 2 for batch in bench.batches)


async def test_a_job_without_items_is_done() -> None:
    async with lane_of(Bench()) as lane:
        assert (await lane.submit_all([])).value == []


async def test_a_small_job_does_not_wait_for_all_of_a_large_one_nor_does_it_starve_that() -> None:
    order: list[int] = []
    clock, gate = Clock(), threading.Event()

    def slow(items: Sequence[int]) -> Sequence[int]:
        if 100 in items:
            assert gate.wait(60)
        clock.now += 0.02
        order.extend(items)
        return items

    async with lane_of(slow, max_batch=1, clock=clock) as lane:
        await lane.submit(-1)  # so that the queue knows its pace
        large = asyncio.create_task(lane.submit_all(range(100, 120)))
        click = asyncio.create_task(lane.submit(1))  # while the first of these items is processed
        await asyncio.sleep(0)
        gate.set()
        await click
        clicks = 1
        while not large.done():  # one click after another
            clicks += 1
            await lane.submit(clicks)
        await large
    before_the_first_click = order.index(1)
    assert before_the_first_click <= 4, "a click waits for two or three items, not for twenty"
    assert clicks <= 60, "the large job was kept waiting by the clicks"


async def test_one_failing_item_fails_its_job_and_no_other() -> None:
    bench = Bench()
    async with lane_of(bench, max_batch=1) as lane:
        good, bad = lane.submit_all([1, 2]), lane.submit_all([3, -3, 4])
        results = await asyncio.gather(good, bad, return_exceptions=True)
        assert not isinstance(results[0], BaseException)
        assert results[0].value == [10, 20]
        assert isinstance(results[1], ValueError)
        assert lane.depth == 0


async def test_a_cancelled_job_takes_all_of_its_items_along() -> None:
    bench = Bench()
    async with lane_of(bench, max_batch=1) as lane:
        bench.gate.clear()
        job = asyncio.create_task(lane.submit_all([1, 2, 3]))
        await bench.wait_until_begun()
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert lane.depth == 0
        bench.gate.set()
        assert (await lane.submit(7)).value == 70
    assert bench.batches == [[1], [7]]


# Several threads.


async def test_several_threads_work_at_a_time_and_know_how_many_they_are() -> None:
    together = threading.Barrier(3)
    busy: list[int] = []

    def work(items: Sequence[int]) -> Sequence[int]:
        together.wait(60)
        return items

    lane: BatchQueue[int, int] = BatchQueue(
        "test", work, max_batch=1, capacity=8, workers=3, enter=busy.append
    )
    assert (await lane.submit_all([1, 2, 3, 4, 5, 6])).value == [1, 2, 3, 4, 5, 6]
    assert busy[0] == 3, "the first thread knows that others are about to start"
    together = threading.Barrier(1)
    await lane.submit(1)
    assert busy[-1] == 1
    lane.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities elsewhere")
async def test_a_background_lane_has_a_lower_priority_and_nobody_else_gets_it() -> None:
    def niceness(items: Sequence[int]) -> Sequence[int]:
        return [os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) for _ in items]

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    lowered = min(before + BACKGROUND, 19)  # the tests themselves may run at a lower priority
    lane: BatchQueue[int, int] = BatchQueue(
        "test", niceness, max_batch=1, capacity=1, niceness=lowered
    )
    async with lane_of(niceness) as ordinary:
        assert (await lane.submit(0)).value == lowered
        assert (await ordinary.submit(0)).value == before
    lane.close()
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


class Slow:
    """An engine whose `encode` waits at a gate."""

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
    """The number is per thread, so that queues can divide the cores."""
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
    # Several at once on one embedding, because queries do not compare to a truth value either.
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
