"""The embedding cache: LRU, bounded in bytes, single-flight per key.

It has one tier on a CPU. On a GPU it has two: embeddings evicted from GPU memory move to host
memory.

Windows of rasters, of which one request may have thousands, take a share of the first tier at most:
they evict one another, and what is evicted is discarded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cachetools import LRUCache

from inference_server.segmentation.cache.host_tier import HostTier
from inference_server.segmentation.types import CachedEmbedding, ImageKey

_MIN_FRACTION = 16
"""`shrink` never reduces the limit below the configured limit divided by this."""


@dataclass(slots=True)
class _Flight:
    """An embedding that is being computed, and the number of callers that wait for it."""

    task: asyncio.Task[CachedEmbedding] = field(init=False)
    waiting: int = 0


class _EvictingLRU(LRUCache[ImageKey, CachedEmbedding]):
    """An LRU cache that reports each entry it evicts to stay within its limit.

    Args:
        max_bytes: maximum bytes of all entries.
        window_percent: share of it for windows of rasters.
        evicted: receives each evicted entry.
    """

    def __init__(
        self,
        max_bytes: int,
        window_percent: int,
        evicted: Callable[[ImageKey, CachedEmbedding], None],
    ) -> None:
        super().__init__(max_bytes, getsizeof=lambda entry: entry.embedding.nbytes)
        self._evicted = evicted
        self._window_bytes = max_bytes * window_percent // 100
        self._windows: dict[ImageKey, int] = {}

    def __setitem__(self, key: ImageKey, entry: CachedEmbedding) -> None:
        """Cache an entry that fits; a window only within the share of windows."""
        nbytes = entry.embedding.nbytes
        if nbytes > (self._window_bytes if key.window else self.maxsize):
            return
        if key.window:
            self.pop(key, None)
            while self.window_bytes + nbytes > self._window_bytes:
                # The first inserted: windows are read in order, and hardly ever twice.
                oldest = next(iter(self._windows))
                self._evicted(oldest, self.pop(oldest))
        super().__setitem__(key, entry)
        if key.window:
            self._windows[key] = nbytes

    def __delitem__(self, key: ImageKey) -> None:
        super().__delitem__(key)
        self._windows.pop(key, None)

    @property
    def window_bytes(self) -> int:
        """Bytes of the windows."""
        return sum(self._windows.values())

    def popitem(self) -> tuple[ImageKey, CachedEmbedding]:
        key, entry = super().popitem()
        self._evicted(key, entry)
        return key, entry

    def take_oldest(self) -> tuple[ImageKey, CachedEmbedding]:
        """Remove and return the least recently used entry, without reporting an eviction."""
        return super().popitem()


class EmbeddingCache:
    """Embeddings by `ImageKey`. Used from the event loop only, so it needs no lock.

    Args:
        max_bytes: maximum bytes of cached embeddings; a larger embedding is returned to its
            callers but not cached.
        host: second tier, which receives evicted embeddings; None (the default) discards them.
        window_percent: share of `max_bytes` for windows of rasters; default 100.

    Attributes:
        hits: lookups that found an embedding, cached or being computed.
        misses: lookups that had to compute an embedding.
        evictions: embeddings evicted from the first tier.
    """

    def __init__(
        self, max_bytes: int, host: HostTier | None = None, *, window_percent: int = 100
    ) -> None:
        self._configured_bytes = max_bytes
        self._window_percent = window_percent
        self._entries = self._empty(max_bytes)
        self._host = host
        self._flights: dict[ImageKey, _Flight] = {}
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: ImageKey) -> bool:
        """Whether the first tier has the embedding; does not count as a use or a hit."""
        return key in self._entries

    @property
    def max_bytes(self) -> int:
        """Maximum bytes of the first tier; less than configured after `shrink`."""
        return int(self._entries.maxsize)

    @property
    def nbytes(self) -> int:
        """Bytes of the embeddings in the first tier."""
        return int(self._entries.currsize)

    @property
    def host_nbytes(self) -> int:
        """Bytes of the embeddings in the second tier; 0 without one."""
        return 0 if self._host is None else self._host.nbytes

    @property
    def host_max_bytes(self) -> int:
        """Maximum bytes of the second tier; 0 without one."""
        return 0 if self._host is None else self._host.max_bytes

    @property
    def window_nbytes(self) -> int:
        """Bytes of the windows of rasters among them."""
        return self._entries.window_bytes

    def _empty(self, max_bytes: int) -> _EvictingLRU:
        return _EvictingLRU(max_bytes, self._window_percent, self._on_evicted)

    def _on_evicted(self, key: ImageKey, entry: CachedEmbedding) -> None:
        self.evictions += 1
        if self._host is not None and not key.window:
            self._host.put(key, entry)

    def get(self, key: ImageKey) -> CachedEmbedding | None:
        """Return an embedding from the first tier, or None. Counts as a use and a hit.

        Args:
            key: the image's key.
        """
        entry = self._entries.get(key)
        if entry is not None:
            self.hits += 1
        return entry

    async def find(self, key: ImageKey) -> CachedEmbedding | None:
        """Return an embedding from either tier, or None. Counts as a use and a hit.

        Args:
            key: the image's key.
        """
        entry = self.get(key)
        if entry is not None or self._host is None or key not in self._host:
            return entry
        try:
            entry, _ = await self.get_or_create(key, _raise_evicted)
        except _EvictedError:  # from the host tier meanwhile
            return None
        return entry

    async def get_or_create(
        self,
        key: ImageKey,
        create: Callable[[], Awaitable[CachedEmbedding]],
        *,
        counted: bool = True,
    ) -> tuple[CachedEmbedding, bool]:
        """Return a cached embedding, or compute it once for all concurrent callers.

        A cancelled caller does not affect the others; the computation is cancelled with the last
        one. An exception reaches every caller and is not cached.

        Args:
            key: the image's key.
            create: computes the embedding; called at most once per miss.
            counted: whether this counts as a hit or a miss. Default: True.

        Returns:
            The embedding, and whether it was cached or already being computed.
        """
        entry = self.get(key) if counted else self._entries.get(key)
        if entry is not None:
            return entry, True
        flight = joined = self._flights.get(key)
        shared = flight is not None or (self._host is not None and key in self._host)
        if shared:
            self.hits += counted
        else:
            self.misses += counted
        if flight is None:
            flight = self._flights[key] = _Flight()
            # With its flight: `clear` may forget the flight before the task's first step.
            flight.task = asyncio.ensure_future(self._create(key, flight, create))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task), shared
        except _EvictedError:
            if joined is None or create is _raise_evicted:
                raise
            # A caller of `find` began this flight, which cannot compute what it does not find.
        finally:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.task.done():
                flight.task.cancel()
                self._remove_flight(key, flight)
        return await self.get_or_create(key, create, counted=False)

    async def _create(
        self, key: ImageKey, flight: _Flight, create: Callable[[], Awaitable[CachedEmbedding]]
    ) -> CachedEmbedding:
        current = False
        try:
            entry = None if self._host is None else await self._host.fetch(key)
            if entry is None:
                entry = await create()
            current = self._flights.get(key) is flight  # false if the cache was cleared meanwhile
        finally:
            self._remove_flight(key, flight)
        if current:
            self._entries[key] = entry
        return entry

    def _remove_flight(self, key: ImageKey, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def shrink(self) -> None:
        """Evict half of the cached bytes, least recently used first, and lower the limit to match.

        `clear` restores the configured limit.
        """
        entries, half = self._entries, self.nbytes // 2
        while entries.currsize > half:
            entries.popitem()
        # A cache this small cannot be what exhausted the memory; disabling it would not help.
        limit = max(half, self._configured_bytes // _MIN_FRACTION)
        self._entries = self._empty(limit)
        while entries:
            key, entry = entries.take_oldest()
            self._entries[key] = entry
        if self._host is not None:
            await self._host.settle()

    def put(self, key: ImageKey, entry: CachedEmbedding) -> None:
        """Cache an embedding that was computed under another key.

        Args:
            key: the image's key.
            entry: the embedding.
        """
        self._entries[key] = entry

    def discard(self, chosen: Callable[[ImageKey], bool], keep: str | None = None) -> set[str]:
        """Remove some embeddings from both tiers.

        Those that are being computed reach their callers, but are not cached.

        Args:
            chosen: returns whether to remove the embedding of a key.
            keep: digest of a file whose embeddings stay in the first tier. Default: none.

        Returns:
            Digests of the files of the removed embeddings.
        """
        for key in [key for key in self._flights if chosen(key)]:
            del self._flights[key]
        digests = set()
        for key, entry in list(self._entries.items()):
            if chosen(key) and entry.digest != keep:
                del self._entries[key]
                digests.add(entry.digest)
        if self._host is not None:
            digests |= self._host.discard(chosen)
        return digests

    def clear(self) -> None:
        """Remove all embeddings and restore the configured limit.

        Embeddings that are being computed reach their callers, but are not cached.
        """
        self._flights.clear()
        self._entries = self._empty(self._configured_bytes)
        if self._host is not None:
            self._host.clear()


class _EvictedError(LookupError):
    """An embedding is in neither tier any more."""


async def _raise_evicted() -> CachedEmbedding:
    raise _EvictedError
