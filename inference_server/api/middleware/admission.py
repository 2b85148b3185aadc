"""Admission control: limits the requests in progress, and ends them when the server stops."""

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
    """A request in progress.

    Args:
        begin: takes a slot for the request, once its body is complete; see `Admission.enter`.
    """

    def __init__(self, begin: Callable[[], None]) -> None:
        self.begin = begin
        self._task: asyncio.Future[Any] | None = None
        self._error: Exception | None = None

    async def run(self, work: Awaitable[T], disconnected: Awaitable[None]) -> T:
        """Run the work until it ends, the client disconnects, or `cancel` is called.

        Args:
            work: computes the response.
            disconnected: returns when the client disconnects.

        Raises:
            ClientDisconnect: If the client disconnected.
            StoppingError: If the server cancelled the request to stop.
        """
        task = asyncio.ensure_future(work)
        self._task = task
        watch = asyncio.ensure_future(disconnected)
        watch.add_done_callback(self._on_disconnect)
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            current = asyncio.current_task()
            if self._error is None or (current is not None and current.cancelling()):
                raise
            raise self._error from None
        finally:
            watch.cancel()

    def _on_disconnect(self, watch: asyncio.Future[None]) -> None:
        if not watch.cancelled():
            self.cancel(ClientDisconnect())

    def cancel(self, error: Exception) -> None:
        """Cancel the work; `run` then raises an error.

        Args:
            error: what `run` raises; the first call's error is kept.
        """
        self._error = self._error or error
        if self._task is not None:
            self._task.cancel()


class Admission:
    """Admits requests up to a limit, until the server stops. Used from the event loop only.

    Requests that do not use the models (probes, metrics, job status) are always served and do not
    pass through here.

    Args:
        capacity: maximum number of requests in progress.

    Attributes:
        leaving: whether the server is draining: it reports that it is not ready, and still serves
            requests until `close`.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._requests: set[InFlightRequest] = set()
        self._working: set[InFlightRequest] = set()
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.leaving = False

    def __len__(self) -> int:
        """Number of admitted requests, including those whose body is still arriving."""
        return len(self._requests)

    @property
    def working(self) -> int:
        """Number of requests that hold a slot."""
        return len(self._working)

    @contextmanager
    def enter(self) -> Iterator[InFlightRequest]:
        """Admit a request for the duration of the block.

        It takes a slot when its `begin` is called, once its body is complete: otherwise clients
        that send slowly could block all others, even without an API key.

        Raises:
            CapacityError: If no slot is free; `begin` raises it, too.
            StoppingError: If the server is stopping.
        """
        if self._closed:
            raise _stopping()
        self._check()

        def begin() -> None:
            if request not in self._working:
                self._check()
                self._working.add(request)

        request = InFlightRequest(begin)
        self._requests.add(request)
        self._idle.clear()
        try:
            yield request
        finally:
            self._working.discard(request)
            self._requests.discard(request)
            if not self._requests:
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
        """Start draining: report that the server is not ready, and still admit requests."""
        self.leaving = True

    def close(self) -> None:
        """Admit no more requests."""
        self.leaving = self._closed = True

    async def idle(self) -> None:
        """Wait until no request is in progress."""
        await self._idle.wait()

    def drop(self) -> None:
        """Cancel all requests in progress; they are answered that the server is stopping."""
        for request in self._requests:
            request.cancel(_stopping())


def _stopping() -> StoppingError:
    return StoppingError("The server is stopping. Send the request again.", _RETRY_AFTER)
