"""Images come in: fetched by URL, decoded from base64, or known by their ids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import (
    ImageError,
    ImageTooLargeError,
    InferenceServerError,
    UnknownImageError,
)
from inference_server.executor import Threads
from inference_server.images import ImageFetcher, decode_base64, decode_image
from inference_server.observability.metrics import Metrics, Timings
from inference_server.segmentation.cache.images import ImageStore
from inference_server.segmentation.types import ImageRef, StoredImage
from inference_server.settings import MiB, Settings

T = TypeVar("T")

_MOST_IN_FULL = 2
"""Images that are decoded in full at a time: one of 50 million pixels and a drawing over it take
half a GB."""


def fetcher_of(settings: Settings) -> ImageFetcher:
    """What fetches images for a server, as far as its settings let it."""
    return ImageFetcher(
        max_bytes=settings.max_image_mb * MiB,
        timeout=settings.fetch_timeout,
        redirects=settings.fetch_redirects,
        networks=settings.fetch_networks,
        hosts=settings.fetch_hosts,
        https_only=settings.fetch_https_only,
    )


class ImageLoader:
    """The files of images, and their pixels for those who draw on them.

    Args:
        settings: bounds and sizes.
        fetcher: fetches images by URL.
        metrics: where fetches are counted.
        threads: for work on images.

    Attributes:
        images: the files of those that have an id.
    """

    def __init__(
        self, settings: Settings, fetcher: ImageFetcher, metrics: Metrics, threads: Threads
    ) -> None:
        self._settings = settings
        self._fetcher = fetcher
        self._metrics = metrics
        self._threads = threads
        self.images = ImageStore(settings.image_cache_mb * MiB)
        self._in_full = asyncio.Semaphore(_MOST_IN_FULL)

    async def load(
        self, tenant: str, image: ImageRef, timings: Timings
    ) -> tuple[StoredImage, bool]:
        """Load the file of an image.

        A file that is cached under the image's id wins over one that was sent along: that one is
        neither decoded nor fetched here. `sent_digest` tells whether it differs.

        Args:
            tenant: owner of the image.
            image: the image.
            timings: receives the duration of each step.

        Returns:
            (the file, whether it came from the cache).

        Raises:
            ImageError: the image cannot be fetched.
            ImageTooLargeError: the image exceeds a limit.
            UnknownImageError: only an id or a digest was given, and it is not cached.
        """
        kept = None
        if image.image_id is not None:
            kept = self.images.get(tenant, image.image_id)
        if kept is not None:
            return kept, True
        if image.file is not None:
            stored = image.file
        elif image.base64 is not None:
            with timings.measure("decode"):
                stored = await self._decode_base64(image.base64)
        elif image.url is not None:
            with timings.measure("fetch"):
                data = await self._fetch(image.url)
            stored = await self._threads.run(partial(StoredImage.of, data))
        else:
            raise UnknownImageError(
                "No image is cached under this image_id (it was never sent with this API key, or "
                "was evicted). Send the image along with the id."
            )
        return stored, False

    async def sent_digest(self, image: ImageRef) -> str | None:
        """Decode and hash the image that a request sent.

        Returns:
            Its SHA-256 in hexadecimal; None if the request sent no bytes and no digest, "" if the
            bytes are not an image file of an allowed size.
        """
        if image.file is not None:
            return image.file.digest
        if image.base64 is None:
            return image.digest
        try:
            return (await self._decode_base64(image.base64)).digest
        except (ImageError, ImageTooLargeError):
            return ""

    async def on_pixels(
        self, image: StoredImage, work: Callable[[NDArray[np.uint8]], T], timings: Timings
    ) -> T:
        """Decode an image in full, and do something with its pixels; the engines need less of it.

        Both in one thread, and of few images at a time: pixels that wait are memory.

        Args:
            image: the image.
            work: takes `uint8[H, W, 3]`, RGB.
            timings: of the request.

        Raises:
            ImageError: it cannot be decoded.
            ImageTooLargeError: it has too many pixels.
        """
        limit = self._settings.max_image_pixels

        def run() -> T:
            with timings.measure("decode"):
                pixels = decode_image(image.data, max_pixels=limit)
            return work(pixels)

        async with self._in_full:
            return await self._threads.run_in_background(run)

    async def _fetch(self, url: str) -> bytes:
        """Fetch an image, and count how that went."""
        outcome = "failed"
        try:
            data = await self._fetcher.fetch(url)
            outcome = "done"
        except InferenceServerError as error:
            outcome = error.reason
            raise
        finally:
            self._metrics.fetches.labels(outcome).inc()
        return data

    async def _decode_base64(self, text: str) -> StoredImage:
        limit = self._settings.max_image_mb * MiB
        return await self._threads.run(lambda: StoredImage.of(decode_base64(text, max_bytes=limit)))
