"""Image files by id, so that any engine can encode an image that was sent earlier."""

from __future__ import annotations

from dataclasses import replace

from cachetools import LRUCache

from inference_server.segmentation.types import StoredImage


class ImageStore:
    """Image files by tenant and id: LRU, bounded in bytes. Used from the event loop only.

    Args:
        max_bytes: maximum bytes of the files; a larger file is not stored.
    """

    def __init__(self, max_bytes: int) -> None:
        self._entries: LRUCache[tuple[str, str], StoredImage] = LRUCache(
            max_bytes, getsizeof=lambda image: len(image.data)
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the stored files."""
        return int(self._entries.currsize)

    def get(self, tenant: str, name: str) -> StoredImage | None:
        """Return an image, or None if it is not stored. Counts as a use.

        Args:
            tenant: owner of the image.
            name: id of the image.
        """
        return self._entries.get((tenant, name))

    def put(self, tenant: str, name: str, image: StoredImage) -> None:
        """Store an image, replacing an earlier one with the same id.

        Args:
            tenant: owner of the image.
            name: id of the image.
            image: the file and its digest.
        """
        if len(image.data) <= self._entries.maxsize:
            # A record of its own: as long as the given one exists, its request is in progress.
            self._entries[tenant, name] = replace(image)

    def clear(self) -> None:
        """Remove all images."""
        self._entries.clear()
