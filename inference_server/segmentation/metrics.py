"""Gauges of a segmentation service: queues, caches, GPU memory. Read at scrape time."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from inference_server.engines.registry import ModelRegistry
from inference_server.segmentation.cache.embeddings import EmbeddingCache
from inference_server.segmentation.cache.images import ImageStore
from inference_server.segmentation.cache.mask_inputs import MaskInputCache
from inference_server.settings import MiB, Settings


def readings_of(
    models: ModelRegistry,
    embeddings: EmbeddingCache,
    images: ImageStore,
    logits: MaskInputCache,
    settings: Settings,
) -> Iterator[Metric]:
    """Yield the current gauges and cache counters of a segmentation service.

    Args:
        models: the service's models, for queues and GPU memory.
        embeddings: its cache of image embeddings.
        images: its cache of encoded images.
        logits: its cache of low-resolution logits.
        settings: the server's settings, for the sizes of the caches.
    """
    yield from _memory(models)
    yield from _queues(models)
    yield from _caches(embeddings, images, logits, settings)


def cache_counts(hits: int, misses: int) -> Iterator[Metric]:
    """Yield the hits and misses of an embedding cache.

    Args:
        hits: lookups that found an embedding.
        misses: lookups that did not.
    """
    counted = (
        ("hits", "Requests whose image embedding was cached or being computed.", hits),
        ("misses", "Requests whose image embedding was computed.", misses),
    )
    for name, what, value in counted:
        yield CounterMetricFamily(f"inference_embedding_cache_{name}", what, value)


def _memory(models: ModelRegistry) -> Iterator[Metric]:
    from inference_server.engines.device import memory_in_use

    used = memory_in_use(models.compute.device)
    if used:
        memory = GaugeMetricFamily(
            "inference_device_memory_bytes",
            "GPU memory in bytes: allocated by tensors, or reserved by this process.",
            labels=["kind"],
        )
        for kind, nbytes in used.items():
            memory.add_metric([kind], nbytes)
        yield memory


def _queues(models: ModelRegistry) -> Iterator[Metric]:
    depth, busy, capacity = (
        GaugeMetricFamily(f"inference_queue_{name}", what, labels=["lane"])
        for name, what in (
            ("depth", "Requests waiting in a queue."),
            ("busy", "Batches in progress of a queue."),
            ("capacity", "Maximum number of requests waiting in a queue."),
        )
    )
    sums: dict[str, tuple[int, int, int]] = {}
    # Queues of several SAM 2 models have the same name.
    for model in models.loaded():
        for queue in model.queues:
            waiting, working, limit = sums.get(queue.name, (0, 0, 0))
            sums[queue.name] = (
                waiting + queue.depth,
                working + queue.busy,
                limit + queue.capacity,
            )
    for name, values in sums.items():
        for family, value in zip((depth, busy, capacity), values, strict=True):
            family.add_metric([name], value)
    yield from (depth, busy, capacity)


def _caches(
    cache: EmbeddingCache, images: ImageStore, logits: MaskInputCache, settings: Settings
) -> Iterator[Metric]:
    yield from cache_counts(cache.hits, cache.misses)
    yield CounterMetricFamily(
        "inference_embedding_cache_evictions",
        "Evicted embeddings.",
        cache.evictions,
    )
    measured = (
        ("embedding_cache_entries", "Cached embeddings.", len(cache)),
        ("embedding_cache_bytes", "Bytes of cached embeddings.", cache.nbytes),
        ("embedding_cache_max_bytes", "Maximum bytes of cached embeddings.", cache.max_bytes),
        (
            "embedding_cache_host_bytes",
            "Bytes of embeddings in host memory that were evicted from a GPU.",
            cache.host_nbytes,
        ),
        ("embedding_cache_host_max_bytes", "Maximum bytes of these.", cache.host_max_bytes),
        ("image_cache_bytes", "Bytes of cached images.", images.nbytes),
        ("image_cache_max_bytes", "Maximum bytes of cached images.", settings.image_cache_mb * MiB),
        ("logits_cache_bytes", "Bytes of cached logits.", logits.nbytes),
        (
            "logits_cache_max_bytes",
            "Maximum bytes of cached logits.",
            settings.logits_cache_mb * MiB,
        ),
    )
    for name, what, value in measured:
        yield GaugeMetricFamily(f"inference_{name}", what, value)
