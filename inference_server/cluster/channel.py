"""An ingress's connection to one replica, shared by all of its requests."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

from inference_server.cluster.listener import Address
from inference_server.cluster.wire import Connection, Frame, Kind, packed
from inference_server.errors import ImageTooLargeError

CONNECT_SECONDS = 2.0
"""Seconds to connect to a replica's machine; the kernel answers even if the replica is busy."""


class ReplicaUnreachableError(Exception):
    """No connection to the replica could be made; it has not seen the request."""


class ReplicaLostError(Exception):
    """The connection broke while the replica worked on the request, or it dropped the request."""


class ReplicaBusyError(Exception):
    """The replica has as many requests as it may have."""


class ReplicaLeavingError(Exception):
    """The replica is stopping and takes no more requests."""


class RemoteError(Exception):
    """Unexpected error in a replica, which has logged it."""


_REFUSALS = {
    Kind.BUSY: ReplicaBusyError,
    Kind.LEAVING: ReplicaLeavingError,
    Kind.LOST: ReplicaLostError,
}


class Channel(Connection):
    """A connection to a replica.

    Args:
        key: the replica's key.
        largest: maximum size of a request or an answer in bytes.

    Attributes:
        lost: whether the connection is closed.
    """

    def __init__(self, key: bytes, largest: int) -> None:
        super().__init__(key, is_replica=False, largest=largest)
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_retired = False
        self._asking = 0
        self._unsent = 0
        self.lost = False

    @property
    def asking(self) -> int:
        """Number of calls in progress, and of cancelled ones that may still be in memory."""
        return self._asking + self._unsent

    @classmethod
    async def connect(cls, address: Address, largest: int) -> Channel:
        """Connect to a replica and authenticate.

        Args:
            address: where it listens.
            largest: maximum size of a request or an answer in bytes.

        Raises:
            ReplicaUnreachableError: it does not answer, or one side does not know the key.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, channel = await loop.create_connection(
                    lambda: cls(address.key, largest), address.host, address.port
                )
            try:
                await channel._ready  # the connection is closed if this takes too long
            except asyncio.CancelledError:
                channel.abort()
                raise
        except (OSError, TimeoutError) as error:
            raise ReplicaUnreachableError(repr(error)) from None
        return channel

    def on_authenticated(self) -> None:
        """Let the ingress send requests."""
        if not self._ready.done():
            self._ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all requests."""
        super().connection_lost(exc)
        self.lost = True
        if not self._ready.done():
            self._ready.set_exception(ConnectionError("not authenticated"))
            self._ready.exception()  # `connect` may have given up
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ReplicaLostError())
        self._waiting.clear()

    def on_frame(self, frame: Frame) -> None:
        """Complete a request."""
        waiting = self._waiting.pop(frame.number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(frame)
        self._close_if_retired()

    def resume_writing(self) -> None:
        """Forget the cancelled requests, which have been sent."""
        super().resume_writing()
        self._unsent = 0

    def retire(self) -> None:
        """Close the connection once all responses have arrived."""
        self._is_retired = True
        self._close_if_retired()

    def _close_if_retired(self) -> None:
        if self._is_retired and not self._waiting:
            self.close()

    async def ask(self, limit: int, waiting: int, method: str, *arguments: Any) -> Any:
        """Call a method of the replica.

        Args:
            limit: maximum number of requests in progress at the replica.
            waiting: requests that wait at this ingress for the replica.
            method: name of the method.
            arguments: its positional arguments.

        Raises:
            ReplicaBusyError: the replica has `limit` requests; it has not started on this one.
            ReplicaLeavingError: the replica is stopping; it has not started on this one.
            ReplicaLostError: the connection broke, or the replica dropped the request.
            ImageTooLargeError: the request or its answer is too large for a message.
            RemoteError: unexpected error in the replica.
        """
        payload = packed((method, arguments))
        if len(payload) > self._largest:
            raise ImageTooLargeError(
                f"The image and its prompts have {len(payload)} bytes; between the machines of "
                f"this server a message has at most {self._largest}. Send a smaller file."
            )
        self._asking += 1
        try:
            answer = await self._exchange(Kind.ASK, limit, waiting, payload)
        except asyncio.CancelledError:
            if not self.written.is_set():
                self._unsent += 1
            raise
        finally:
            self._asking -= 1
        if answer.kind is Kind.LARGE:
            raise ImageTooLargeError(
                "The masks of this image are too large for a message between the machines of this "
                f"server, {self._largest} bytes. Send fewer prompts, or a smaller image."
            )
        if answer.kind in _REFUSALS:
            raise _REFUSALS[answer.kind]
        if answer.kind is Kind.ERROR:
            raise RemoteError(answer.value())
        return answer.value()

    async def has_room(self, limit: int, waiting: int) -> bool:
        """Ask the replica whether it could begin a request now.

        Args:
            limit: see `ask`.
            waiting: see `ask`.

        Raises:
            ReplicaLeavingError: the replica is stopping.
            ReplicaLostError: the connection broke.
        """
        answer = await self._exchange(Kind.ROOM, limit, waiting)
        if answer.kind is Kind.LEAVING:
            raise ReplicaLeavingError
        return answer.kind is Kind.FREE

    async def _exchange(self, kind: Kind, limit: int, waiting: int, payload: bytes = b"") -> Frame:
        if self.lost:
            raise ReplicaLostError
        number = next(self._numbers)
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self.send(Frame(number, kind, limit, waiting, payload))
        try:
            return await answer
        except asyncio.CancelledError:
            if self._waiting.pop(number, None) is not None:
                self.send(Frame(number, Kind.CANCEL))
                self._close_if_retired()
            raise
