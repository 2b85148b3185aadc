"""Image files in Ray's object store, put there once for all engines and for retries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
from cachetools import LRUCache
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from inference_server.cluster.messages import SentImage
from inference_server.errors import CapacityError, ImageError, ImageTooLargeError
from inference_server.segmentation.types import StoredImage
from inference_server.settings import MiB

INLINE_BYTES = 100_000
"""Maximum bytes of a file inside a message."""

_STORE_BYTES = 64 * MiB
"""Maximum bytes of files that an ingress keeps in Ray's object store."""


@dataclass(frozen=True, slots=True)
class SentFile:
    """The image file in a request.

    Attributes:
        stored: the file; None if the request has only an id, a digest, or an id and a URL.
        error: why the bytes cannot be decoded; ignored if the request has the id of a known image.
    """

    stored: StoredImage | None = None
    error: ImageError | ImageTooLargeError | None = None


class FileStore:
    """Attaches files to messages: small ones as they are, larger ones by reference.

    Args:
        inline_bytes: maximum bytes of a file inside a message.
        in_thread: runs blocking work in a thread.
    """

    def __init__(
        self, inline_bytes: int, in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]
    ) -> None:
        self._inline_bytes = inline_bytes
        self._in_thread = in_thread
        self._references: LRUCache[tuple[str, str], tuple[Any, int]] = LRUCache(
            _STORE_BYTES, getsizeof=lambda kept: kept[1]
        )

    async def attach(self, tenant: str, sent: SentImage, file: StoredImage) -> SentImage:
        """Add a file, or a reference to it, to a message.

        Args:
            tenant: owner of the image. Nobody is faster because another tenant has sent the file.
            sent: the image as an ingress sends it.
            file: the image's file.

        Raises:
            CapacityError: the object store is full.
        """
        data: Any = file.data
        if len(file.data) > self._inline_bytes:
            kept = self._references.get((tenant, file.digest))
            if kept is None:
                try:
                    reference = await self._in_thread(partial(ray.put, file.data))
                except (ObjectStoreFullError, OutOfDiskError):
                    raise CapacityError(
                        "The object store that passes images to the engines is full. Try again "
                        "shortly.",
                        full="store",
                    ) from None
                kept = (reference, len(file.data))
                if kept[1] <= self._references.maxsize:
                    self._references[tenant, file.digest] = kept
            data = kept[0]
        return replace(sent, data=data, digest=file.digest)

    def discard(self, tenant: str, digest: str) -> None:
        """Remove a tenant's file."""
        self._references.pop((tenant, digest), None)

    def clear(self) -> None:
        """Remove all files."""
        self._references.clear()
