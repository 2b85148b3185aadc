"""The second tier of the embedding cache: host memory behind GPU memory.

Copying an embedding back takes about a millisecond; computing it again takes a run of the image
encoder.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import replace
from typing import Any

from cachetools import LRUCache

from inference_server.engines.base import Embedding
from inference_server.segmentation.types import CachedEmbedding

logger = logging.getLogger(__name__)


Move = Callable[[Embedding], Awaitable[Embedding]]
"""Copies an embedding to another device."""


class HostTier:
    """Embeddings evicted from the device. Used from the event loop only, so it needs no lock.

    An embedding that returns to the device stays here as well, so its next eviction copies nothing.

    Args:
        max_bytes: maximum bytes of embeddings; a larger embedding is discarded.
        to_host: copies an embedding to host memory.
        to_device: copies an embedding to the device.
    """

    def __init__(self, max_bytes: int, *, to_host: Move, to_device: Move) -> None:
        self._entries: LRUCache[Hashable, CachedEmbedding] = LRUCache(
            max_bytes, getsizeof=lambda entry: entry.embedding.nbytes
        )
        self._to_host = to_host
        self._to_device = to_device
        self._copying: dict[Hashable, asyncio.Task[None]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries or key in self._copying

    @property
    def max_bytes(self) -> int:
        """Maximum bytes of embeddings."""
        return int(self._entries.maxsize)

    @property
    def nbytes(self) -> int:
        """Bytes of the embeddings, without those that are still being copied."""
        return int(self._entries.currsize)

    def put(self, key: Hashable, entry: CachedEmbedding) -> None:
        """Start to copy an embedding to the host; if it is there already, count a use.

        Args:
            key: the image's key.
            entry: the embedding on the device.
        """
        known = self._entries.get(key)
        if known is not None and known.digest == entry.digest:
            return
        if entry.embedding.nbytes > self._entries.maxsize or key in self._copying:
            return
        self._copying[key] = asyncio.ensure_future(self._copy(key, entry))

    async def _copy(self, key: Hashable, entry: CachedEmbedding) -> None:
        try:
            embedding = await self._to_host(entry.embedding)
        except Exception:  # harmless: the image is encoded again when it is needed
            logger.exception("Could not copy an embedding to host memory")
        else:
            if self._is_current(key):  # false if the tier was cleared meanwhile
                self._entries[key] = replace(entry, embedding=embedding)
        finally:
            if self._is_current(key):
                del self._copying[key]

    def _is_current(self, key: Hashable) -> bool:
        """Whether the running task is the copy of this key, and not one that `clear` forgot."""
        return self._copying.get(key) is asyncio.current_task()

    async def settle(self) -> None:
        """Wait until all copies in progress have left the device."""
        if self._copying:
            await asyncio.wait(list(self._copying.values()))

    async def fetch(self, key: Hashable) -> CachedEmbedding | None:
        """Copy an embedding back to the device, or return None if the tier does not have it.

        Args:
            key: the image's key; a copy to the host in progress is awaited.
        """
        copying = self._copying.get(key)
        if copying is not None:
            await asyncio.wait([copying])
        entry = self._entries.get(key)
        if entry is None:
            return None
        return replace(entry, embedding=await self._to_device(entry.embedding))

    def discard(self, chosen: Callable[[Any], bool]) -> set[str]:
        """Remove some embeddings, including those that are being copied to the host.

        Args:
            chosen: returns whether to remove the embedding of a key.

        Returns:
            Digests of the files of the removed embeddings.
        """
        for key in [key for key in self._copying if chosen(key)]:
            del self._copying[key]
        keys = [key for key in self._entries if chosen(key)]
        return {self._entries.pop(key).digest for key in keys}

    def clear(self) -> None:
        """Remove all embeddings, including those that are being copied to the host."""
        self._entries.clear()
        self._copying.clear()
