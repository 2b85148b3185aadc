"""Open the rasters that requests and jobs name: by URL, or in the administrator's directory."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property

from inference_server.errors import InferenceServerError
from inference_server.images import ImageFetcher
from inference_server.images.fetch import Reserve
from inference_server.images.raster_directory import open_in
from inference_server.images.raster_source import RasterSource
from inference_server.images.shares import Shares
from inference_server.images.window_reader import RasterLimits
from inference_server.observability.metrics import Metrics, Timings
from inference_server.segmentation.image_loader import fetcher_of
from inference_server.settings import MiB, Settings


class RasterFiles:
    """Opens rasters of any size, which stay on disk.

    Args:
        settings: limits, networks and hosts to fetch from, and the directory.
        metrics: counts fetches by outcome.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._limits = RasterLimits.of(settings)
        self._stored = Shares(
            settings.raster_fetch_storage_mb * MiB,
            settings.raster_fetch_tenant_storage_mb * MiB,
            setting="INFERENCE_RASTER_FETCH_STORAGE_MB",
            tenant_setting="INFERENCE_RASTER_FETCH_TENANT_STORAGE_MB",
            what="storage for fetched rasters",
        )

    @property
    def nbytes(self) -> int:
        """Bytes of fetched rasters on disk now."""
        return self._stored.nbytes

    @cached_property
    def _fetcher(self) -> ImageFetcher:
        return fetcher_of(self._settings)

    @asynccontextmanager
    async def by_url(self, tenant: str, url: str, timings: Timings) -> AsyncIterator[RasterSource]:
        """Fetch a raster into a temporary file; the rules of addresses are those of all images.

        The file has no name, and is gone when the context ends, or the process.

        Args:
            tenant: owner of the request.
            url: the URL.
            timings: receives the duration.

        Raises:
            ImageError: the raster cannot be fetched.
            ImageTooLargeError: it exceeds `INFERENCE_MAX_RASTER_UPLOAD_MB`.
            CapacityError: fetched rasters in progress use too much storage.
            StorageError: the temporary storage is full.
        """
        share = self._stored.open(tenant)
        try:
            with await self._fetched(tenant, url, share.take, timings) as source:
                yield source
        finally:
            share.release()

    @asynccontextmanager
    async def in_directory(self, name: str) -> AsyncIterator[RasterSource]:
        """Open a raster in the administrator's directory.

        Args:
            name: path relative to `INFERENCE_RASTER_DIRECTORY`.

        Raises:
            ImageError: there is no directory, no such file, or the name is not allowed.
        """

        def work() -> RasterSource:
            with open_in(self._settings.raster_directory, name) as file:
                return RasterSource.of(file, self._limits)

        with await asyncio.to_thread(work) as source:
            yield source

    async def _fetched(
        self, tenant: str, url: str, reserve: Reserve, timings: Timings
    ) -> RasterSource:
        """Fetch a raster, and count the outcome."""
        outcome = "failed"
        try:
            with timings.measure("fetch"), tempfile.TemporaryFile(buffering=0) as file:
                await self._fetcher.download(
                    url,
                    file,
                    max_bytes=self._settings.max_raster_upload_mb * MiB,
                    timeout=self._settings.raster_fetch_timeout,
                    tenant=tenant,
                    reserve=reserve,
                )
                source = await asyncio.to_thread(RasterSource.of, file, self._limits)
            outcome = "done"
        except InferenceServerError as error:
            outcome = error.reason
            raise
        finally:
            self._metrics.fetches.labels(outcome).inc()
        return source
