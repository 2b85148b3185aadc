"""The second tier of the embedding cache: host memory, behind that of a GPU.

Bringing an embedding back takes about a millisecond, where making it again takes the whole encoder.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import replace

from cachetools import LRUCache

from inference_server.engines.base import Embedding
from inference_server.segmentation.types import CachedEmbedding

logger = logging.getLogger(__name__)


Move = Callable[[Embedding], Awaitable[Embedding]]


class HostTier:
    """Embeddings that were dropped from the device. Used from the event loop only.

    What is brought back stays here as well, so that it need not be copied when it is dropped again.

    Args:
        max_bytes: room; an embedding larger than that is not kept.
        to_host: copies an embedding into host memory.
        to_device: copies it back.
    """

    def __init__(self, max_bytes: int, *, to_host: Move, to_device: Move) -> None:
        self._kept: LRUCache[Hashable, CachedEmbedding] = LRUCache(
            max_bytes, getsizeof=lambda entry: entry.embedding.nbytes
        )
        self._to_host = to_host
        self._to_device = to_device
        self._moving: dict[Hashable, asyncio.Task[None]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept or key in self._moving

    @property
    def max_bytes(self) -> int:
        """Room in bytes."""
        return int(self._kept.maxsize)

    @property
    def nbytes(self) -> int:
        """Bytes of the embeddings kept."""
        return int(self._kept.currsize)

    def put(self, key: Hashable, entry: CachedEmbedding) -> None:
        """Begin to copy an embedding to the host; those there already are only used again."""
        kept = self._kept.get(key)
        if kept is not None and kept.digest == entry.digest:
            return
        if entry.embedding.nbytes > self._kept.maxsize or key in self._moving:
            return
        self._moving[key] = asyncio.ensure_future(self._copy(key, entry))

    async def _copy(self, key: Hashable, entry: CachedEmbedding) -> None:
        try:
            embedding = await self._to_host(entry.embedding)
        except Exception:  # no harm done: the image is encoded again when it is needed
            logger.exception("Could not copy an embedding to host memory")
        else:
            if key in self._moving:  # it was not cleared meanwhile
                self._kept[key] = replace(entry, embedding=embedding)
        finally:
            self._moving.pop(key, None)

    async def settle(self) -> None:
        """Wait until what is being copied has left the device."""
        if self._moving:
            await asyncio.wait(list(self._moving.values()))

    async def fetch(self, key: Hashable) -> CachedEmbedding | None:
        """An embedding on the device again, or None if it is not here."""
        moving = self._moving.get(key)
        if moving is not None:
            await asyncio.wait([moving])
        entry = self._kept.get(key)
        if entry is None:
            return None
        return replace(entry, embedding=await self._to_device(entry.embedding))

    def clear(self, dropped: Callable[[Hashable], bool]) -> None:
        """Forget those whose key is to be dropped."""
        for key in [key for key in self._kept if dropped(key)]:
            del self._kept[key]
        for key in [key for key in self._moving if dropped(key)]:
            del self._moving[key]
