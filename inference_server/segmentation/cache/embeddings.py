"""The embedding cache: least recently used, bounded in bytes, one flight a key.

In one tier, or in two where embeddings live on a GPU: what has to leave it goes to host memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cachetools import LRUCache

from inference_server.segmentation.cache.host_tier import HostTier
from inference_server.segmentation.types import CachedEmbedding, ImageKey

_LEAST_SHARE = 16
"""Part of its room that the cache keeps however often it has to shrink."""


@dataclass(slots=True)
class _Flight:
    task: asyncio.Task[CachedEmbedding]
    waiting: int = 0


class _Kept(LRUCache[ImageKey, CachedEmbedding]):
    """An LRU that passes on what it drops for room."""

    def __init__(
        self, max_bytes: int, dropped: Callable[[ImageKey, CachedEmbedding], None]
    ) -> None:
        super().__init__(max_bytes, getsizeof=lambda entry: entry.embedding.nbytes)
        self._dropped = dropped

    def popitem(self) -> tuple[ImageKey, CachedEmbedding]:
        key, entry = super().popitem()
        self._dropped(key, entry)
        return key, entry

    def oldest(self) -> tuple[ImageKey, CachedEmbedding]:
        """Take out what was used longest ago; it is not dropped."""
        return super().popitem()


class EmbeddingCache:
    """Embeddings by `ImageKey`. Used from the event loop only, so it needs no lock.

    Args:
        max_bytes: room; an embedding larger than that is handed out but not kept.
        host: where to put what is dropped for room, if anywhere.
    """

    def __init__(self, max_bytes: int, host: HostTier | None = None) -> None:
        self._room = max_bytes
        self._kept = _Kept(max_bytes, self._drop)
        self._host = host
        self._flights: dict[ImageKey, _Flight] = {}
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def max_bytes(self) -> int:
        """Room in bytes; less than was given after `shrink`."""
        return int(self._kept.maxsize)

    @property
    def nbytes(self) -> int:
        """Bytes of the embeddings kept."""
        return int(self._kept.currsize)

    @property
    def host_nbytes(self) -> int:
        """Bytes of the embeddings kept in the second tier."""
        return 0 if self._host is None else self._host.nbytes

    @property
    def host_max_bytes(self) -> int:
        """Room in bytes in the second tier; 0 where there is none."""
        return 0 if self._host is None else self._host.max_bytes

    def _drop(self, key: ImageKey, entry: CachedEmbedding) -> None:
        self.evictions += 1
        if self._host is not None:
            self._host.put(key, entry)

    def get(self, key: ImageKey) -> CachedEmbedding | None:
        """The embedding if it is in the first tier, counted as a use and a hit."""
        entry = self._kept.get(key)
        if entry is not None:
            self.hits += 1
        return entry

    async def find(self, key: ImageKey) -> CachedEmbedding | None:
        """The embedding if it is in either tier, counted as a use and a hit."""
        entry = self.get(key)
        if entry is not None or self._host is None or key not in self._host:
            return entry
        try:
            entry, _ = await self.get_or_create(key, _nothing)
        except LookupError:  # it was dropped while we looked
            return None
        return entry

    async def get_or_create(
        self, key: ImageKey, create: Callable[[], Awaitable[CachedEmbedding]]
    ) -> tuple[CachedEmbedding, bool]:
        """Look an embedding up, or make it; whoever asks meanwhile waits for the same one.

        A caller that goes away does not disturb the others; the work is cancelled when the last one
        has gone. A failure reaches everybody who waits, and is not remembered.

        Args:
            key: of the image.
            create: makes the embedding.

        Returns:
            (the embedding, whether it was here or already being made).
        """
        entry = self.get(key)
        if entry is not None:
            return entry, True
        flight = self._flights.get(key)
        shared = flight is not None or (self._host is not None and key in self._host)
        if shared:
            self.hits += 1
        else:
            self.misses += 1
        if flight is None:
            flight = _Flight(asyncio.ensure_future(self._create(key, create)))
            self._flights[key] = flight
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task), shared
        finally:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.task.done():
                flight.task.cancel()
                self._forget(key, flight)

    async def _create(
        self, key: ImageKey, create: Callable[[], Awaitable[CachedEmbedding]]
    ) -> CachedEmbedding:
        flight = self._flights[key]
        wanted = False
        try:
            entry = None if self._host is None else await self._host.fetch(key)
            if entry is None:
                entry = await create()
            wanted = self._flights.get(key) is flight  # or all was dropped meanwhile
        finally:
            self._forget(key, flight)
        if wanted and entry.embedding.nbytes <= self._kept.maxsize:
            self._kept[key] = entry
        return entry

    def _forget(self, key: ImageKey, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def shrink(self) -> None:
        """Drop half, the least recently used first, and keep no more than that from now on.

        The room that was given is had again after `clear`.
        """
        kept, half = self._kept, self.nbytes // 2
        while kept.currsize > half:
            kept.popitem()
        # Not so small that it would be no cache any more: then it is not to blame.
        self._kept = _Kept(max(half, self._room // _LEAST_SHARE), self._drop)
        while kept:
            key, entry = kept.oldest()
            self._kept[key] = entry
        if self._host is not None:
            await self._host.settle()

    def clear(self, checkpoint: str | None = None) -> None:
        """Drop everything, or everything of one checkpoint.

        What is just being made goes to those who wait for it, and is not kept.
        """
        for key in [k for k in self._flights if checkpoint in (None, k.checkpoint)]:
            del self._flights[key]
        if checkpoint is None:
            self._kept = _Kept(self._room, self._drop)
        for key in [k for k in self._kept if checkpoint in (None, k.checkpoint)]:
            del self._kept[key]
        if self._host is not None:
            self._host.clear(
                lambda k: isinstance(k, ImageKey) and checkpoint in (None, k.checkpoint)
            )


async def _nothing() -> CachedEmbedding:
    raise LookupError
