"""The segmenter of a command: the same as a server's, without the server."""

from __future__ import annotations

from inference_server.engines.registry import ModelRegistry
from inference_server.images import ImageFetcher
from inference_server.observability.metrics import Metrics
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.settings import MiB, Settings

_CACHE_MB = 1024
"""Embeddings are used once or twice, and soon: what a server keeps for later would be waste."""


def local_segmenter(settings: Settings) -> LocalSegmentationService:
    """A segmenter that has loaded nothing yet; to be closed by who is done with it.

    Args:
        settings: as a server's; those of HTTP, keys and jobs mean nothing.

    Raises:
        ModelUnavailableError: a setting names weights or a device that do not exist.
    """
    room = settings.embedding_cache_mb or _CACHE_MB
    # Nothing is brought back from host memory either: an embedding larger than a MiB is not kept.
    settings = settings.model_copy(update={"embedding_cache_mb": room, "host_cache_mb": 1})
    fetcher = ImageFetcher(
        max_bytes=settings.max_image_mb * MiB,
        timeout=settings.fetch_timeout,
        redirects=settings.fetch_redirects,
        networks=[],
    )
    return LocalSegmentationService(settings, ModelRegistry(settings), fetcher, Metrics())
