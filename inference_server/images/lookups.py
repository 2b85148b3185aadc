"""Resolve host names in bounded numbers, so that names that never resolve delay nobody else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from inference_server.executor import WorkerPool

Resolver = Callable[[str], Awaitable[Sequence[str]]]


@dataclass(slots=True)
class _Tenant:
    """A tenant's slots, and the number of its look-ups that wait or run."""

    slots: asyncio.Semaphore
    users: int = 0


class Lookups:
    """Resolves host names, a bounded number at a time per tenant and in all.

    A look-up in a thread cannot be cancelled: one of a DNS server that does not answer goes on for
    up to a minute after its caller has left. It therefore keeps its slot until it has ended, and
    runs in threads that nothing else uses. Callers wait for a slot. Used from the event loop only.

    Args:
        limit: Maximum number of look-ups in progress.
        tenant_limit: Maximum number per tenant.
        resolver: Resolves a host to its addresses; default: the system's resolver.
    """

    def __init__(self, limit: int, tenant_limit: int, resolver: Resolver | None = None) -> None:
        self._slots = asyncio.Semaphore(limit)
        self._tenant_limit = tenant_limit
        self._tenants: dict[str, _Tenant] = {}
        self._threads = WorkerPool(limit, "look-up")
        self._resolve = resolver or self._resolve_in_thread

    async def resolve(self, tenant: str, host: str) -> Sequence[str]:
        """Resolve a host name.

        Args:
            tenant: Whose look-up it is.
            host: Host name in ASCII, or an address in any notation.

        Returns:
            Its addresses, each once.

        Raises:
            OSError: The name does not resolve.
            UnicodeError: The name is not a valid host name.
        """
        own = self._tenants.setdefault(tenant, _Tenant(asyncio.Semaphore(self._tenant_limit)))
        own.users += 1
        begun = False
        try:
            await own.slots.acquire()
            try:
                await self._slots.acquire()
            except BaseException:
                own.slots.release()
                raise
            lookup = asyncio.ensure_future(self._resolve(host))
            lookup.add_done_callback(lambda done: self._end(tenant, own, done))
            begun = True
        finally:
            if not begun:
                self._leave(tenant, own)
        return await asyncio.shield(lookup)

    def _end(self, tenant: str, own: _Tenant, lookup: asyncio.Future[Sequence[str]]) -> None:
        if not lookup.cancelled():
            lookup.exception()  # or asyncio logs an error that nobody waits for any more
        self._slots.release()
        own.slots.release()
        self._leave(tenant, own)

    def _leave(self, tenant: str, own: _Tenant) -> None:
        own.users -= 1
        if not own.users:
            del self._tenants[tenant]

    async def _resolve_in_thread(self, host: str) -> Sequence[str]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, _getaddrinfo, host.encode("ascii")
        )
        return list(dict.fromkeys(found))


def _getaddrinfo(host: bytes) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]
