"""Load image files: from a URL, from base64, or from the store of files with an id."""

from __future__ import annotations

import weakref
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
from inference_server.executor import Threads, stop_if_cancelled
from inference_server.images import ImageFetcher, TrustedHost, decode_base64, decode_image
from inference_server.images.shares import Shares
from inference_server.observability.metrics import Metrics, Timings
from inference_server.segmentation.cache.images import ImageStore
from inference_server.segmentation.types import ImageRef, StoredImage
from inference_server.settings import MiB, Settings

T = TypeVar("T")


def fetcher_of(settings: Settings) -> ImageFetcher:
    """Create the fetcher of a server.

    Args:
        settings: limits of a fetch, and the networks and hosts that may be fetched from.
    """
    return ImageFetcher(
        max_bytes=settings.max_image_mb * MiB,
        timeout=settings.fetch_timeout,
        redirects=settings.fetch_redirects,
        networks=settings.fetch_networks,
        hosts=settings.fetch_hosts,
        https_only=settings.fetch_https_only,
        max_head_bytes=settings.fetch_max_header_kb * 1024,
        max_interim=settings.fetch_max_interim,
        max_addresses=settings.fetch_max_addresses,
        lookups=settings.fetch_lookups,
        tenant_lookups=settings.fetch_tenant_lookups,
    )


class ImageLoader:
    """Loads image files, and decodes them at full size for callers that draw on them.

    Args:
        settings: limits of images, and the size of the store.
        fetcher: fetches images by URL.
        metrics: counts fetches by outcome.
        threads: worker threads for decoding and hashing.

    Attributes:
        fetcher: fetches images by URL.
        images: stored files of images with an id.
    """

    def __init__(
        self, settings: Settings, fetcher: ImageFetcher, metrics: Metrics, threads: Threads
    ) -> None:
        self._settings = settings
        self.fetcher = fetcher
        self._metrics = metrics
        self._threads = threads
        self._fetched = Shares(
            settings.fetch_memory_mb * MiB, settings.fetch_tenant_memory_mb * MiB
        )
        self.images = ImageStore(settings.image_cache_mb * MiB)

    async def load(
        self, tenant: str, image: ImageRef, timings: Timings
    ) -> tuple[StoredImage, bool]:
        """Load the file of an image.

        A file stored under the image's id takes precedence over one that is sent, which is then
        neither decoded nor fetched; `sent_digest` tells whether it differs.

        Args:
            tenant: owner of the image.
            image: image to load.
            timings: receives the duration of each step.

        Returns:
            The file, and whether it came from the store.

        Raises:
            ImageError: the image cannot be fetched, or its base64 is invalid.
            ImageTooLargeError: the image exceeds a limit.
            CapacityError: fetched images in progress use too much memory.
            UnknownImageError: only an id or a digest was given, and no file is stored under it.
        """
        known = None
        if image.image_id is not None:
            known = self.images.get(tenant, image.image_id)
        if known is not None:
            return known, True
        if image.file is not None:
            stored = image.file
        elif image.base64 is not None:
            with timings.measure("decode"):
                stored = await self._decode_base64(image.base64)
        elif image.url is not None:
            stored = await self.fetch(tenant, image.url, timings)
        else:
            raise UnknownImageError(
                "No image is cached under this image_id (it was never sent with this API key, or "
                "was evicted). Send the image along with the id."
            )
        return stored, False

    async def sent_digest(self, image: ImageRef) -> str | None:
        """The digest of the file that a request sent, or the digest that it sent instead.

        Args:
            image: the image as the request names it; nothing is fetched.

        Returns:
            SHA-256 in hexadecimal; None if the request sent neither, "" if its base64 is invalid or
            too large.
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
        """Decode an image at full size and process its pixels.

        Both happen in one of few threads for slow work, to bound the memory: an image of 50
        million pixels, with an overlay, takes half a GB. If the caller is cancelled, the work ends
        after its current step.

        Args:
            image: image to decode.
            work: takes the pixels, `uint8[H, W, 3]`, RGB.
            timings: receives the duration of decoding.

        Returns:
            The result of `work`.

        Raises:
            ImageError: the image cannot be decoded.
            ImageTooLargeError: the image has too many pixels.
        """
        settings = self._settings

        def run() -> T:
            with timings.measure("decode"):
                pixels = decode_image(
                    image.data,
                    max_pixels=settings.max_image_pixels,
                    max_side=settings.max_image_side,
                    max_metadata_items=settings.max_tiff_metadata_items,
                )
            stop_if_cancelled()
            return work(pixels)

        return await self._threads.run_slow(run)

    async def fetch(
        self, tenant: str, url: str, timings: Timings, trusted: TrustedHost | None = None
    ) -> StoredImage:
        """Fetch an image and count the outcome.

        Its bytes count towards the limits on fetched images as long as the result is referenced.

        Args:
            tenant: owner of the image.
            url: its URL.
            timings: receives the duration.
            trusted: a host that may be on a private network, and its credentials; see
                `ImageFetcher.fetch`. Default: no host.

        Raises:
            ImageError: the image cannot be fetched.
            ImageTooLargeError: the image exceeds a limit.
            CapacityError: fetched images in progress use too much memory.
        """
        outcome = "failed"
        share = self._fetched.open(tenant)
        try:
            with timings.measure("fetch"):
                data = await self.fetcher.fetch(
                    url, tenant=tenant, reserve=share.take, trusted=trusted
                )
            stored = await self._threads.run(partial(StoredImage.of, data))
            weakref.finalize(stored, share.release).atexit = False
            outcome = "done"
        except InferenceServerError as error:
            outcome = error.reason
            raise
        finally:
            self._metrics.fetches.labels(outcome).inc()
            if outcome != "done":
                share.release()
        return stored

    async def _decode_base64(self, text: str) -> StoredImage:
        limit = self._settings.max_image_mb * MiB
        return await self._threads.run(lambda: StoredImage.of(decode_base64(text, max_bytes=limit)))
