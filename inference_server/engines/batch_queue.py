"""Lanes: a bounded queue in front of threads that do one kind of work.

Encoding and decoding have a lane each, so that a click on a cached image never waits behind
somebody else's encode, and what waits in a lane together may be done together.
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
    """A result and what it took.

    Attributes:
        value: the result.
        queued: seconds until the first of it began.
        worked: seconds from then until all of it was done.
        batch: the most items that were done together.
        led: sizes of the batches whose first item was one of these.
    """

    value: ResultT
    queued: float
    worked: float
    batch: int
    led: Sequence[int] = ()


@dataclass(slots=True, eq=False)  # arrays do not compare to a truth value
class _Job(Generic[ItemT, ResultT]):
    """Items that were submitted together, and their results as they come."""

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
class _QueueEntry(Generic[ItemT, ResultT]):
    """A place in the queue: one item of a job. The earliest turn comes first."""

    turn: float
    number: int
    job: _Job[ItemT, ResultT] = field(compare=False)
    index: int = field(compare=False)


class BatchQueue(Generic[ItemT, ResultT]):
    """Does work in threads of its own, in batches of what is waiting.

    The items of a large job do not go before those of the small ones that come after it: the n-th
    item's turn is that of a job which came n items' work later. So a click need not wait for
    somebody's hundred boxes, and the boxes need not wait for ever.

    Args:
        name: of the threads, and in error messages.
        work: from a batch of items to as many results; runs in the threads.
        max_batch: most items at a time.
        capacity: most jobs that may wait; one more is refused.
        workers: threads, each with a batch of its own.
        niceness: 0, or `BACKGROUND` for work that others need not wait for.
        enter: called in a thread before each batch, with how many of the lane's threads are, or
            are about to be, at work.
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
    ) -> None:
        self._name = name
        self._work = work
        self._max_batch = max_batch
        self._capacity = capacity
        self._workers = workers
        self._enter = enter
        self._queue: list[_QueueEntry[ItemT, ResultT]] = []
        self._numbers = itertools.count()
        self._jobs = 0
        self._busy = 0
        self._scheduled = False
        self._threads = WorkerPool(workers, name, niceness)
        self._pace = 0.0
        self._closed = False

    @property
    def name(self) -> str:
        """Of the threads, and in metrics."""
        return self._name

    @property
    def capacity(self) -> int:
        """Most jobs that may wait."""
        return self._capacity

    @property
    def busy(self) -> int:
        """How many batches are being worked on."""
        return self._busy

    @property
    def depth(self) -> int:
        """How many jobs wait, or have items that wait."""
        return self._jobs

    async def submit(self, item: ItemT) -> BatchResult[ResultT]:
        """Queue an item and wait for its result; see `submit_all`."""
        done = await self.submit_all([item])
        return BatchResult(done.value[0], done.queued, done.worked, done.batch, done.led)

    async def submit_all(self, items: Sequence[ItemT]) -> BatchResult[list[ResultT]]:
        """Queue items as one job, and wait for all of their results.

        A caller that is cancelled takes its items out of the queue; work that has begun is finished
        and thrown away.

        Args:
            items: what to work on; they count as one towards the capacity.

        Returns:
            The results, in the order of the items.

        Raises:
            CapacityError: the queue is full.
            ModelUnavailableError: the lane is closed, or was before the items' turn came.
        """
        if self._closed:
            raise self._unloaded()
        if not items:
            return BatchResult([], 0.0, 0.0, 0)
        if self._jobs >= self._capacity:
            # By the work that waits: a job may have many items.
            seconds = self._pace * len(self._queue) / self._workers
            raise CapacityError(
                f"The {self._name} queue is full ({self._capacity} requests wait). Try again "
                "shortly, or raise INFERENCE_QUEUE_SIZE.",
                retry_after=max(1.0, seconds),
                full="queue",
            )
        loop = asyncio.get_running_loop()
        job: _Job[ItemT, ResultT] = _Job(items, time.monotonic(), loop.create_future())
        job.waiting = len(items)
        self._jobs += 1
        for index in range(len(items)):
            turn = job.since + index * self._pace
            heapq.heappush(self._queue, _QueueEntry(turn, next(self._numbers), job, index))
        if not self._scheduled:
            # Not at once: what else is submitted in this turn of the loop joins the batch.
            self._scheduled = True
            loop.call_soon(self._start)
        try:
            await job.answer
        finally:
            self._withdraw(job)
        results = [job.results[index] for index in range(len(items))]
        begun = job.begun
        return BatchResult(results, begun - job.since, time.monotonic() - begun, job.batch, job.led)

    def _withdraw(self, job: _Job[ItemT, ResultT]) -> None:
        if job.waiting:
            job.waiting = 0
            self._jobs -= 1
            self._queue = [ticket for ticket in self._queue if ticket.job is not job]
            heapq.heapify(self._queue)

    def _start(self) -> None:
        """Give batches to the threads that have none."""
        self._scheduled = False
        loop = asyncio.get_running_loop()
        while self._queue and self._busy < self._workers and not self._closed:
            size = min(self._max_batch, len(self._queue))
            batch = [heapq.heappop(self._queue) for _ in range(size)]
            begin = time.monotonic()
            batch[0].job.led.append(size)
            for ticket in batch:
                job = ticket.job
                job.begun = job.begun or begin
                job.batch = max(job.batch, size)
                job.waiting -= 1
                self._jobs -= job.waiting == 0
            self._busy += 1
            more = -(-len(self._queue) // self._max_batch)
            busy = min(self._workers, self._busy + more)
            items = [ticket.job.items[ticket.index] for ticket in batch]
            # What is logged is of the request; of several, it is nobody's.
            alone = all(ticket.job is batch[0].job for ticket in batch)
            context = batch[0].job.context.copy() if alone else Context()
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
        batch: list[_QueueEntry[ItemT, ResultT]],
        begin: float,
        done: asyncio.Future[Sequence[ResultT]],
    ) -> None:
        self._busy -= 1
        if done.cancelled():  # the lane was closed before a thread took the batch
            error: BaseException | None = self._unloaded()
        else:
            error = done.exception()
        if error is None:
            self._pace = (time.monotonic() - begin) / len(batch)
            for ticket, result in zip(batch, done.result(), strict=True):
                ticket.job.results[ticket.index] = result
        for ticket in batch:
            job = ticket.job
            if job.answer.done():
                continue
            if error is not None:
                job.answer.set_exception(error)
            elif len(job.results) == len(job.items):
                job.answer.set_result(None)
        self._start()

    def _unloaded(self) -> ModelUnavailableError:
        return ModelUnavailableError(
            f"The model was unloaded before the {self._name} began. Send the request again; the "
            "model is loaded on demand."
        )

    def close(self) -> None:
        """Stop the threads once their current work is done; what waits is refused."""
        self._closed = True
        while self._queue:
            job = self._queue[0].job
            self._withdraw(job)
            if not job.answer.done():
                job.answer.set_exception(self._unloaded())
        self._threads.shutdown(wait=False, cancel_futures=True)
