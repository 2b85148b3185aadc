"""The embedding cache: least recently used, bounded in bytes, one flight a key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cachetools import LRUCache

from inference_server.engines.base import Embedding


@dataclass(frozen=True, slots=True)
class ImageKey:
    """Whose image it is, which weights encoded it, and what it is called.

    Attributes:
        tenant: owner; nobody else's requests can name it.
        checkpoint: identity of the weights.
        image: `id:` and the client's name of the image, or `sha256:` and the digest of its bytes.
    """

    tenant: str
    checkpoint: str
    image: str


@dataclass(frozen=True, slots=True)
class CachedEmbedding:
    """An embedding and the digest of the image that it came from."""

    embedding: Embedding
    digest: str


@dataclass(slots=True)
class _Flight:
    task: asyncio.Task[CachedEmbedding]
    waiting: int = 0


class EmbeddingCache:
    """Embeddings by `ImageKey`. Used from the event loop only, so it needs no lock.

    Args:
        max_bytes: room; an embedding larger than that is handed out but not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._kept: LRUCache[ImageKey, CachedEmbedding] = LRUCache(
            max_bytes, getsizeof=lambda entry: entry.embedding.nbytes
        )
        self._flights: dict[ImageKey, _Flight] = {}
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def max_bytes(self) -> int:
        """Room in bytes."""
        return int(self._kept.maxsize)

    @property
    def nbytes(self) -> int:
        """Bytes of the embeddings kept."""
        return int(self._kept.currsize)

    def get(self, key: ImageKey) -> CachedEmbedding | None:
        """The embedding if it is here, counted as a use and a hit."""
        entry = self._kept.get(key)
        if entry is not None:
            self.hits += 1
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
        shared = flight is not None
        if flight is None:
            self.misses += 1
            flight = _Flight(asyncio.ensure_future(self._create(key, create)))
            self._flights[key] = flight
        else:
            self.hits += 1
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
        try:
            entry = await create()
        finally:
            self._forget(key, flight)
        if entry.embedding.nbytes <= self._kept.maxsize:
            before = len(self._kept)
            self._kept[key] = entry
            self.evictions += before + 1 - len(self._kept)
        return entry

    def _forget(self, key: ImageKey, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def clear(self, checkpoint: str | None = None) -> None:
        """Drop everything, or everything of one checkpoint."""
        for key in [k for k in self._kept if checkpoint in (None, k.checkpoint)]:
            del self._kept[key]
