"""A bounded queue in front of worker threads, which process waiting items in batches.

Encoding and decoding have separate queues, so a click on a cached image never waits behind another
request's encode.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from inference_server.errors import CapacityError, ModelUnavailableError
from inference_server.executor import WorkerPool

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class BatchResult(Generic[ResultT]):
    """A result and its timings.

    Attributes:
        value: The result of one item, or a list with the result of each item.
        queued: Seconds from submission until work on the first item began.
        worked: Seconds from then until all items were done.
        batch: Size of the largest batch that contained one of the items.
        led: Sizes of the batches whose first item was one of the items. Each batch appears in
            exactly one result, so these can be counted.
    """

    value: ResultT
    queued: float
    worked: float
    batch: int
    led: Sequence[int] = ()


@dataclass(slots=True, eq=False)  # arrays do not compare to a truth value
class _Submission(Generic[ItemT, ResultT]):
    """Items that were submitted together, and their results so far."""

    items: Sequence[ItemT]
    since: float
    answer: asyncio.Future[None]
    results: dict[int, ResultT] = field(default_factory=dict)
    begun: float = 0.0
    waiting: int = 0
    batch: int = 0
    led: list[int] = field(default_factory=list)
    context: Context = field(default_factory=copy_context)


@dataclass(slots=True, order=True)
class QueueEntry(Generic[ItemT, ResultT]):
    """One item of a submission in the queue, ordered by `turn`."""

    turn: float
    number: int
    submission: _Submission[ItemT, ResultT] = field(compare=False)
    index: int = field(compare=False)


class BatchQueue(Generic[ItemT, ResultT]):
    """Processes items in its own threads, in batches of what is waiting.

    The queue is fair between submissions. The n-th item of a submission is queued as if it had been
    submitted n items' processing time later, so a click does not wait for the hundred boxes of an
    earlier request, and the boxes are not starved by later clicks.

    Args:
        name: Name of the queue in metrics, error messages and thread names.
        work: Maps a batch of items to one result per item; runs in the worker threads.
        max_batch: Maximum items per batch.
        capacity: Maximum waiting submissions; further ones are refused.
        workers: Number of threads; each processes one batch at a time.
        niceness: Niceness of the threads: 0 for normal priority, or `BACKGROUND`.
        enter: Called in a worker thread before each batch, with the number of this queue's threads
            that are busy or about to be; None for nothing.
        clock: Returns a monotonic time in seconds. Default: `time.monotonic`.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[ItemT]], Sequence[ResultT]],
        *,
        max_batch: int,
        capacity: int,
        workers: int = 1,
        niceness: int = 0,
        enter: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._name = name
        self._work = work
        self._max_batch = max_batch
        self._capacity = capacity
        self._workers = workers
        self._enter = enter
        self._queue: list[QueueEntry[ItemT, ResultT]] = []
        self._numbers = itertools.count()
        self._submissions = 0
        self._busy = 0
        self._scheduled = False
        self._threads = WorkerPool(workers, name, niceness)
        self._pace = 0.0
        self._closed = False

    @property
    def name(self) -> str:
        """Name of the queue in metrics, error messages and thread names."""
        return self._name

    @property
    def capacity(self) -> int:
        """Maximum waiting submissions."""
        return self._capacity

    @property
    def busy(self) -> int:
        """Number of batches in progress."""
        return self._busy

    @property
    def depth(self) -> int:
        """Number of submissions with waiting items."""
        return self._submissions

    async def submit(self, item: ItemT) -> BatchResult[ResultT]:
        """Queue one item and wait for its result.

        Args:
            item: The item to process.

        Raises:
            CapacityError: See `submit_all`.
            ModelUnavailableError: See `submit_all`.
        """
        done = await self.submit_all([item])
        return BatchResult(done.value[0], done.queued, done.worked, done.batch, done.led)

    async def submit_all(self, items: Sequence[ItemT]) -> BatchResult[list[ResultT]]:
        """Queue items as one submission and wait for all results.

        If the caller is cancelled, its items leave the queue; work in progress is finished and
        discarded.

        Args:
            items: The items to process; together they count as one towards the capacity.

        Returns:
            One result per item, in the order of the items.

        Raises:
            CapacityError: The queue is full.
            ModelUnavailableError: The queue is closed, or was closed before the items were
                processed.
        """
        if self._closed:
            raise self._unloaded()
        if not items:
            return BatchResult([], 0.0, 0.0, 0)
        if self._submissions >= self._capacity:
            # Estimated from items, because a submission may have many.
            seconds = self._pace * len(self._queue) / self._workers
            raise CapacityError(
                f"The {self._name} queue is full: {self._capacity} requests are waiting. Try "
                "again shortly, or raise INFERENCE_QUEUE_SIZE.",
                retry_after=max(1.0, seconds),
                full="queue",
            )
        loop = asyncio.get_running_loop()
        submission: _Submission[ItemT, ResultT] = _Submission(
            items, self._clock(), loop.create_future()
        )
        submission.waiting = len(items)
        self._submissions += 1
        for index in range(len(items)):
            turn = submission.since + index * self._pace
            heapq.heappush(self._queue, QueueEntry(turn, next(self._numbers), submission, index))
        if not self._scheduled:
            # Deferred, so that items submitted in the same event loop iteration join the batch.
            self._scheduled = True
            loop.call_soon(self._start)
        try:
            await submission.answer
        finally:
            self._withdraw(submission)
        results = [submission.results[index] for index in range(len(items))]
        begun = submission.begun
        return BatchResult(
            results,
            begun - submission.since,
            self._clock() - begun,
            submission.batch,
            submission.led,
        )

    def _withdraw(self, submission: _Submission[ItemT, ResultT]) -> None:
        if submission.waiting:
            submission.waiting = 0
            self._submissions -= 1
            self._queue = [entry for entry in self._queue if entry.submission is not submission]
            heapq.heapify(self._queue)

    def _start(self) -> None:
        """Give batches to idle threads."""
        self._scheduled = False
        loop = asyncio.get_running_loop()
        while self._queue and self._busy < self._workers and not self._closed:
            size = min(self._max_batch, len(self._queue))
            batch = [heapq.heappop(self._queue) for _ in range(size)]
            begin = self._clock()
            batch[0].submission.led.append(size)
            for entry in batch:
                submission = entry.submission
                submission.begun = submission.begun or begin
                submission.batch = max(submission.batch, size)
                submission.waiting -= 1
                self._submissions -= submission.waiting == 0
            self._busy += 1
            more = -(-len(self._queue) // self._max_batch)
            busy = min(self._workers, self._busy + more)
            items = [entry.submission.items[entry.index] for entry in batch]
            # Log lines carry the request id if the batch belongs to one request only.
            alone = all(entry.submission is batch[0].submission for entry in batch)
            context = batch[0].submission.context.copy() if alone else Context()
            done = loop.run_in_executor(self._threads, context.run, self._run, items, busy)
            done.add_done_callback(lambda f, b=batch, t=begin: self._finish(b, t, f))  # type: ignore[misc]

    def _run(self, items: list[ItemT], busy: int) -> Sequence[ResultT]:
        if self._enter is not None:
            self._enter(busy)
        results = self._work(items)
        if len(results) != len(items):
            raise ValueError(f"{self._name}: {len(results)} results for {len(items)} items")
        return results

    def _finish(
        self,
        batch: list[QueueEntry[ItemT, ResultT]],
        begin: float,
        done: asyncio.Future[Sequence[ResultT]],
    ) -> None:
        self._busy -= 1
        if done.cancelled():  # the queue was closed before a thread took the batch
            error: BaseException | None = self._unloaded()
        else:
            error = done.exception()
        if error is None:
            self._pace = (self._clock() - begin) / len(batch)
            for entry, result in zip(batch, done.result(), strict=True):
                entry.submission.results[entry.index] = result
        for entry in batch:
            submission = entry.submission
            if submission.answer.done():
                continue
            if error is not None:
                submission.answer.set_exception(error)
            elif len(submission.results) == len(submission.items):
                submission.answer.set_result(None)
        self._start()

    def _unloaded(self) -> ModelUnavailableError:
        return ModelUnavailableError(
            f"The model was unloaded before the {self._name} started. Send the request again; the "
            "model is loaded on demand."
        )

    def close(self) -> None:
        """Fail waiting items; stop the threads when their current batches are done."""
        self._closed = True
        while self._queue:
            submission = self._queue[0].submission
            self._withdraw(submission)
            if not submission.answer.done():
                submission.answer.set_exception(self._unloaded())
        self._threads.shutdown(wait=False, cancel_futures=True)
