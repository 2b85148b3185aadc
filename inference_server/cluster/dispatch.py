"""Sends an ingress's requests to the replicas of a deployment: owner first, spill, wait, retry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from inference_server.cluster.channel import (
    Channel,
    ReplicaBusyError,
    ReplicaLeavingError,
    ReplicaLostError,
    ReplicaUnreachableError,
)
from inference_server.cluster.client import ATTEMPTS, RETRY_AFTER, RETRY_PAUSE
from inference_server.cluster.ring import Member, Ring
from inference_server.errors import CapacityError, TransientError

logger = logging.getLogger(__name__)

AVOID_SECONDS, LONGEST_AVOID = 1.0, 8.0
"""Seconds for which a replica that cannot be reached, or is stopping, gets no requests: the first
time, and at most. By then Serve has usually removed it from the ring. They double each time that it
cannot be reached, because a request waits up to 12 s for the next attempt to connect."""

_FIRST_PAUSE, _LAST_PAUSE = 0.01, 0.2
"""Shortest and longest pause in seconds between two questions whether a replica is free."""


class Dispatcher:
    """Calls the replicas of one deployment.

    Args:
        name: name of the deployment.
        ring: returns its current replicas.
        queue_size: maximum number of requests that wait for a free replica.
        patience: seconds that a request waits for a free replica.
        largest: maximum size of a request or an answer in bytes.
        retry_pause: seconds before the second attempt. Default: 0.05.
        retry_after: seconds in `Retry-After` if no replica answered. Default: 5.
    """

    def __init__(
        self,
        name: str,
        ring: Callable[[], Ring | None],
        queue_size: int,
        patience: float,
        largest: int,
        retry_pause: float = RETRY_PAUSE,
        retry_after: float = RETRY_AFTER,
    ) -> None:
        self._name = name
        self._ring = ring
        self._queue_size = queue_size
        self._patience = patience
        self._largest = largest
        self._retry_pause = retry_pause
        self._retry_after = retry_after
        self._channels: dict[str, asyncio.Task[Channel]] = {}
        self._avoided: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._waiting: dict[str, int] = {}
        self._freed = asyncio.Event()

    @property
    def available(self) -> bool:
        """Whether Serve has reported replicas that can be called directly."""
        return self._ring() is not None

    async def ask(self, session: str, method: str, *arguments: Any) -> Any:
        """Call a method on the replica that owns a session.

        If the replica is lost, the call is repeated once on the session's new owner. This is safe
        because calls have no side effects other than filling caches.

        Args:
            session: session id.
            method: name of the method.
            arguments: its positional arguments.

        Raises:
            CapacityError: too many requests wait for replicas.
            TransientError: no replica was free in time, or two in a row were lost.
        """
        losses = 0
        while True:
            try:
                return await self._try(session, method, arguments)
            except ReplicaLostError:
                losses += 1
                logger.warning("A replica of %s was lost during a request", self._name)
            if losses == ATTEMPTS:
                raise TransientError(
                    f"Two replicas of {self._name} were lost while processing the request. Try "
                    "again shortly.",
                    self._retry_after,
                )
            await asyncio.sleep(self._retry_pause)

    async def _try(self, session: str, method: str, arguments: tuple[Any, ...]) -> Any:
        """Send a request until a replica accepts it."""
        end = asyncio.get_running_loop().time() + self._patience
        first: Member | None = None
        while True:
            ranked = [first] if first else self._ranked(session)
            # Requests that wait already go first.
            queued = first is None and bool(ranked) and ranked[0].name in self._waiting
            for member in () if queued else ranked:
                try:
                    return await self._send(member, method, arguments)
                except ReplicaBusyError:
                    continue
                except (ReplicaLeavingError, ReplicaUnreachableError):
                    self._avoid(member)
            first = await self._free(session, end)

    async def _send(self, member: Member, method: str, arguments: tuple[Any, ...]) -> Any:
        channel = await self._channel(member)
        if channel.asking >= member.limit:
            raise ReplicaBusyError
        waiting = self._waiting.get(member.name, 0)
        try:
            return await channel.ask(member.limit, waiting, method, *arguments)
        except ReplicaLostError:
            if channel.lost:
                self._avoid(member)
            raise
        finally:
            self._freed.set()

    async def _free(self, session: str, end: float) -> Member:
        """Wait in line until a replica of a session is free.

        Raises:
            CapacityError: too many requests wait.
            TransientError: none was free in time.
        """
        ranked = self._ranked(session)
        line = ranked[0].name if ranked else ""
        if sum(self._waiting.values()) >= self._queue_size:
            raise CapacityError(
                f"Too many requests wait for {self._name} replicas. Try again shortly.",
                full="queue",
            )
        self._waiting[line] = self._waiting.get(line, 0) + 1
        turn = self._turns.setdefault(line, asyncio.Lock())
        try:
            async with asyncio.timeout_at(end), turn:
                return await self._next_free(session, line)
        except TimeoutError:
            raise TransientError(
                f"No {self._name} replica was free within {self._patience:g} seconds. Try again "
                "shortly.",
                self._retry_after,
            ) from None
        finally:
            self._waiting[line] -= 1
            if not self._waiting[line]:
                del self._waiting[line], self._turns[line]

    async def _next_free(self, session: str, line: str) -> Member:
        pause = _FIRST_PAUSE
        while True:
            self._freed.clear()
            for member in self._ranked(session):
                try:
                    channel = await self._channel(member)
                    waiting = self._waiting[line]
                    # Also when this ingress fills the replica: it has to know how many wait.
                    if await channel.has_room(member.limit, waiting):
                        return member
                except (ReplicaLeavingError, ReplicaLostError, ReplicaUnreachableError):
                    self._avoid(member)
            try:
                async with asyncio.timeout(pause):
                    await self._freed.wait()
            except TimeoutError:
                pause = min(2 * pause, _LAST_PAUSE)

    def _ranked(self, session: str) -> list[Member]:
        ring = self._ring()
        if ring is None:
            return []
        now = asyncio.get_running_loop().time()
        self._avoided = {name: until for name, until in self._avoided.items() if until > now}
        return ring.ranked(session, self._avoided)

    def _avoid(self, member: Member) -> None:
        now = asyncio.get_running_loop().time()
        if self._avoided.get(member.name, 0.0) > now:
            return  # another request has met the same failure
        failures = self._failures.get(member.name, 0)
        self._failures[member.name] = failures + 1
        seconds = min(AVOID_SECONDS * 2 ** min(failures, 16), LONGEST_AVOID)
        self._avoided[member.name] = now + seconds

    async def _channel(self, member: Member) -> Channel:
        """Return the connection to a replica; connect if there is none."""
        connecting = self._channels.get(member.name)
        if connecting is not None and connecting.done():
            if not connecting.exception() and not connecting.result().lost:
                return connecting.result()
            connecting = None
        if connecting is None:
            self._retire()
            connecting = asyncio.create_task(Channel.connect(member.address, self._largest))
            self._channels[member.name] = connecting
        channel = await asyncio.shield(connecting)
        self._failures.pop(member.name, None)
        return channel

    def _retire(self) -> None:
        """Close the connections to replicas that are not on the ring any more."""
        ring = self._ring()
        known = ring.members if ring else {}
        self._failures = {name: n for name, n in self._failures.items() if name in known}
        for name, connecting in list(self._channels.items()):
            if name in known or not connecting.done():
                continue
            del self._channels[name]
            if not connecting.exception():
                connecting.result().retire()

    def close(self) -> None:
        """Close all connections; requests in progress are lost."""
        for connecting in self._channels.values():
            if connecting.done() and not connecting.cancelled() and not connecting.exception():
                connecting.result().close()
            connecting.cancel()
        self._channels.clear()
