"""The encoded bytes of images that have an id, so that either engine can encode them later."""

from __future__ import annotations

from cachetools import LRUCache

from inference_server.segmentation.types import StoredImage


class ImageStore:
    """Images by (tenant, name), least recently used first out. Used from the event loop only.

    Args:
        max_bytes: room; a larger image is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._kept: LRUCache[tuple[str, str], StoredImage] = LRUCache(
            max_bytes, getsizeof=lambda image: len(image.data)
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the images kept."""
        return int(self._kept.currsize)

    def get(self, tenant: str, name: str) -> StoredImage | None:
        """The image of that name, if it is here."""
        return self._kept.get((tenant, name))

    def put(self, tenant: str, name: str, image: StoredImage) -> None:
        """Keep an image, in place of an earlier one of that name."""
        if len(image.data) <= self._kept.maxsize:
            self._kept[tenant, name] = image

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
