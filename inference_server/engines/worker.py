"""Lanes: a bounded queue in front of one thread that does one kind of work.

Encoding and decoding have a lane each, so that a click on a cached image never waits behind
somebody else's encode, and what waits in a lane together may be done together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from inference_server.errors import CapacityError, ModelUnavailableError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class Done(Generic[ResultT]):
    """A result and what it took.

    Attributes:
        value: the result.
        queued: seconds in the queue.
        worked: seconds in the thread, for the whole batch.
        batch: how many items were done together.
    """

    value: ResultT
    queued: float
    worked: float
    batch: int


@dataclass(slots=True, eq=False)  # arrays do not compare to a truth value
class _Ticket(Generic[ItemT, ResultT]):
    item: ItemT
    since: float
    answer: asyncio.Future[Done[ResultT]]


class Lane(Generic[ItemT, ResultT]):
    """Does work in a thread of its own, in batches of what is waiting.

    Args:
        name: of the thread, and in error messages.
        work: from a batch of items to as many results; runs in the thread.
        max_batch: most items at a time.
        capacity: most items that may wait; one more is refused.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[ItemT]], Sequence[ResultT]],
        *,
        max_batch: int,
        capacity: int,
    ) -> None:
        self._name = name
        self._work = work
        self._max_batch = max_batch
        self._capacity = capacity
        self._waiting: list[_Ticket[ItemT, ResultT]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._pump: asyncio.Task[None] | None = None
        self._pace = 0.0
        self._closed = False

    @property
    def depth(self) -> int:
        """How many items wait."""
        return len(self._waiting)

    async def submit(self, item: ItemT) -> Done[ResultT]:
        """Queue an item and wait for its result.

        A caller that is cancelled takes its item out of the queue; work that has begun is finished
        and thrown away.

        Args:
            item: what to work on.

        Returns:
            The result.

        Raises:
            CapacityError: the queue is full.
            ModelUnavailableError: the lane is closed, or was before the item's turn came.
        """
        if self._closed:
            raise self._unloaded()
        if len(self._waiting) >= self._capacity:
            raise CapacityError(
                f"The {self._name} queue is full ({self._capacity} requests wait). Try again "
                "shortly, or raise INFERENCE_QUEUE_SIZE.",
                retry_after=max(1.0, self._pace * self._capacity / self._max_batch),
            )
        loop = asyncio.get_running_loop()
        ticket: _Ticket[ItemT, ResultT] = _Ticket(item, time.monotonic(), loop.create_future())
        self._waiting.append(ticket)
        if self._pump is None or self._pump.done():
            self._pump = loop.create_task(self._run(), name=f"lane {self._name}")
        try:
            return await ticket.answer
        finally:
            if ticket in self._waiting:
                self._waiting.remove(ticket)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._waiting[: self._max_batch]
            del self._waiting[: len(batch)]
            begin = time.monotonic()
            items = [ticket.item for ticket in batch]
            try:
                results = await loop.run_in_executor(self._thread, self._work, items)
                answers = list(zip(batch, results, strict=True))
            except Exception as error:
                for ticket in batch:
                    if not ticket.answer.done():
                        ticket.answer.set_exception(error)
                continue
            self._pace = time.monotonic() - begin
            for ticket, result in answers:
                if not ticket.answer.done():
                    ticket.answer.set_result(
                        Done(result, begin - ticket.since, self._pace, len(batch))
                    )

    def _unloaded(self) -> ModelUnavailableError:
        return ModelUnavailableError(
            f"The model was unloaded before the {self._name} began. Send the request again; the "
            "model is loaded on demand."
        )

    def close(self) -> None:
        """Stop the thread once its current work is done; what waits is refused."""
        self._closed = True
        for ticket in self._waiting:
            if not ticket.answer.done():
                ticket.answer.set_exception(self._unloaded())
        self._waiting.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)
