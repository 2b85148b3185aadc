"""Admission: how much work is under way at a time, and how it ends when the server does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect

from inference_server.errors import CapacityError, StoppingError

T = TypeVar("T")

_RETRY_AFTER = 1.0


class InFlightRequest:
    """A request that is being answered.

    Args:
        begin: takes one of so many places; see `Admission.enter`.
    """

    def __init__(self, begin: Callable[[], None]) -> None:
        self.begin = begin
        self._task: asyncio.Future[Any] | None = None
        self._why: Exception | None = None

    async def run(self, work: Awaitable[T], goodbye: Awaitable[None]) -> T:
        """Do the work, unless it is ended before.

        Args:
            work: makes the answer.
            goodbye: returns when nobody waits for the answer any more.

        Raises:
            ClientDisconnect: the client hung up.
            StoppingError: the server ended the visit.
        """
        task = asyncio.ensure_future(work)
        self._task = task
        watch = asyncio.ensure_future(goodbye)
        watch.add_done_callback(self._gone)
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            current = asyncio.current_task()
            if self._why is None or (current is not None and current.cancelling()):
                raise
            raise self._why from None
        finally:
            watch.cancel()

    def _gone(self, watch: asyncio.Future[None]) -> None:
        if not watch.cancelled():
            self.end(ClientDisconnect())

    def end(self, why: Exception) -> None:
        """Cancel the work, and let it end with this."""
        self._why = self._why or why
        if self._task is not None:
            self._task.cancel()


class Admission:
    """Lets requests in, up to a bound and until the server stops. For the event loop only.

    What asks for no work of the models (probes, metrics, how it stands with a job) is always let
    in; it need not come here.

    Args:
        capacity: most requests at a time.

    Attributes:
        leaving: the server is about to stop, and says so, but still takes work.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._visits: set[InFlightRequest] = set()
        self._working: set[InFlightRequest] = set()
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.leaving = False

    def __len__(self) -> int:
        """Requests inside, with those that are still arriving."""
        return len(self._visits)

    @property
    def working(self) -> int:
        """Requests that have taken a place."""
        return len(self._working)

    @contextmanager
    def enter(self) -> Iterator[InFlightRequest]:
        """Let a request in, for as long as the block lasts.

        It takes a place when its `begin` is called, once it is whole: those who send slowly would
        keep others out, for nothing and without a key.

        Raises:
            CapacityError: no place is free; `begin` raises it, too.
            StoppingError: the server is stopping.
        """
        if self._closed:
            raise _stopping()
        self._check()

        def begin() -> None:
            if visit not in self._working:
                self._check()
                self._working.add(visit)

        visit = InFlightRequest(begin)
        self._visits.add(visit)
        self._idle.clear()
        try:
            yield visit
        finally:
            self._working.discard(visit)
            self._visits.discard(visit)
            if not self._visits:
                self._idle.set()

    def _check(self) -> None:
        if len(self._working) >= self._capacity:
            raise CapacityError(
                f"The server is busy with {self._capacity} requests. Try again shortly, or raise "
                "INFERENCE_MAX_REQUESTS.",
                _RETRY_AFTER,
                full="requests",
            )

    def leave(self) -> None:
        """Say that the server is about to stop."""
        self.leaving = True

    def close(self) -> None:
        """Let nobody in any more."""
        self.leaving = self._closed = True

    async def idle(self) -> None:
        """Wait until nobody is left."""
        await self._idle.wait()

    def drop(self) -> None:
        """Answer everybody who is left that the server is stopping."""
        for visit in self._visits:
            visit.end(_stopping())


def _stopping() -> StoppingError:
    return StoppingError("The server is stopping: send the request again.", _RETRY_AFTER)
