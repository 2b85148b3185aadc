"""Image files by id, so that any engine can encode an image that was sent earlier."""

from __future__ import annotations

from dataclasses import replace

from cachetools import LRUCache

from inference_server.segmentation.types import StoredImage

_REMEMBERED = 10_000
"""Forgotten ids that are remembered for requests that were in progress then."""


class ImageStore:
    """Image files by tenant and id: LRU, bounded in bytes. Used from the event loop only.

    Args:
        max_bytes: maximum bytes of the files; a larger file is not stored.
    """

    def __init__(self, max_bytes: int) -> None:
        self._entries: LRUCache[tuple[str, str], StoredImage] = LRUCache(
            max_bytes, getsizeof=lambda image: len(image.data)
        )
        self._forgotten: LRUCache[tuple[str, str], int] = LRUCache(_REMEMBERED)
        self._count = 0

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

    @property
    def moment(self) -> int:
        """Number of calls of `forget` so far; a request passes the number at its begin to `put`."""
        return self._count

    def put(self, tenant: str, name: str, image: StoredImage, since: int | None = None) -> None:
        """Store an image, replacing an earlier one with the same id.

        Args:
            tenant: owner of the image.
            name: id of the image.
            image: the file and its digest.
            since: do nothing if the id was forgotten after this moment. Default: store it anyway.
        """
        if since is not None and self.was_forgotten(tenant, name, since):
            return
        if len(image.data) <= self._entries.maxsize:
            # A record of its own: as long as the given one exists, its request is in progress.
            self._entries[tenant, name] = replace(image)

    def forget(self, tenant: str, name: str, keep: str | None = None) -> StoredImage | None:
        """Remove an image; requests in progress do not store it again.

        Args:
            tenant: owner of the image.
            name: id of the image.
            keep: digest of the image to keep if it is the one that is stored. Default: none.

        Returns:
            What was removed; None if nothing was.
        """
        self._count += 1
        self._forgotten[tenant, name] = self._count
        stored = self._entries.get((tenant, name))
        if stored is None or stored.digest == keep:
            return None
        del self._entries[tenant, name]
        return stored

    def was_forgotten(self, tenant: str, name: str, since: int) -> bool:
        """Whether an id was forgotten after a moment; see `moment`."""
        return self._forgotten.get((tenant, name), 0) > since

    def clear(self) -> None:
        """Remove all images."""
        self._entries.clear()
