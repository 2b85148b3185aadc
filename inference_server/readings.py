"""Readings: metrics that are not counted as things happen, but read when somebody asks.

Their labels are the server's own words: lanes, checkpoints and spaces, never what a client sent.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from inference_server import __version__
from inference_server.errors import StorageError
from inference_server.jobs import Backlog
from inference_server.settings import MiB
from inference_server.state import ServerState

_BACKLOG_SECONDS = 5.0
"""That the jobs' database may take: a scrape must not hang because it does."""


async def backlog_of(state: ServerState) -> Backlog | None:
    """What waits in the jobs' database; None if that cannot be told now."""
    try:
        async with asyncio.timeout(_BACKLOG_SECONDS):
            return await state.jobs.backlog()
    except (StorageError, TimeoutError):
        return None


class Readings(Collector):
    """All metrics of a server: those that were counted, and those that are read now.

    Args:
        state: the server.
        backlog: of its jobs, where it could be read.
    """

    def __init__(self, state: ServerState, backlog: Backlog | None) -> None:
        self._state = state
        self._backlog = backlog

    def collect(self) -> Iterable[Metric]:
        """The metrics."""
        yield from self._state.metrics.registry.collect()
        yield from self._server()
        yield from self._models()
        yield from self._lanes()
        yield from self._caches()
        yield from self._spaces()
        yield from self._jobs()

    def _server(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "inference_build_info",
            "Always 1; the labels say what runs.",
            labels=["version", "python", "device", "dtype"],
        )
        compute = self._state.models.compute
        build.add_metric(
            [__version__, platform.python_version(), str(compute.device), compute.dtype_name], 1
        )
        yield build
        yield GaugeMetricFamily(
            "inference_ready", "Whether /readyz says so: 1 or 0.", int(self._state.ready)
        )
        yield GaugeMetricFamily(
            "inference_requests_in_flight",
            "Requests that are being answered.",
            self._state.admission.working,
        )
        yield GaugeMetricFamily(
            "inference_requests_in_flight_max",
            "Most requests that are answered at a time.",
            self._state.settings.max_requests,
        )

    def _models(self) -> Iterator[Metric]:
        from inference_server.engines.device import memory_in_use

        models = self._state.models
        loaded = {model.label for model in models.loaded()}
        known = {f"sam2/{name}" for name in models.versions.values()}
        known.add(f"sam3/{models.concept_name}")
        family = GaugeMetricFamily(
            "inference_model_loaded",
            "Whether a checkpoint is in memory: 1 or 0.",
            labels=["checkpoint"],
        )
        for label in sorted(known | loaded):
            family.add_metric([label], int(label in loaded))
        yield family
        used = memory_in_use(models.compute.device)
        if used:
            memory = GaugeMetricFamily(
                "inference_device_memory_bytes",
                "Memory of the GPU: in use by tensors, or reserved for them by this process.",
                labels=["kind"],
            )
            for kind, nbytes in used.items():
                memory.add_metric([kind], nbytes)
            yield memory

    def _lanes(self) -> Iterator[Metric]:
        depth, busy, room = (
            GaugeMetricFamily(f"inference_queue_{name}", what, labels=["lane"])
            for name, what in (
                ("depth", "Requests that wait in a lane."),
                ("busy", "Batches that a lane works on."),
                ("capacity", "Most requests that may wait in a lane."),
            )
        )
        sums: dict[str, tuple[int, int, int]] = {}
        # Several sizes of SAM 2 have lanes of the same name.
        for model in self._state.models.loaded():
            for lane in model.lanes:
                waiting, working, most = sums.get(lane.name, (0, 0, 0))
                sums[lane.name] = (
                    waiting + lane.depth,
                    working + lane.busy,
                    most + lane.capacity,
                )
        for name, values in sums.items():
            for family, value in zip((depth, busy, room), values, strict=True):
                family.add_metric([name], value)
        yield from (depth, busy, room)

    def _caches(self) -> Iterator[Metric]:
        encoder = self._state.segmenter.encoder
        cache = encoder.embeddings
        counted = (
            ("hits", "Images whose embedding was there, or was being made.", cache.hits),
            ("misses", "Images whose embedding was made.", cache.misses),
            ("evictions", "Embeddings that were dropped for room.", cache.evictions),
        )
        for name, what, value in counted:
            yield CounterMetricFamily(f"inference_embedding_cache_{name}", what, value)
        settings = self._state.settings
        measured = (
            ("embedding_cache_entries", "Embeddings that are kept.", len(cache)),
            ("embedding_cache_bytes", "Bytes of embeddings that are kept.", cache.nbytes),
            ("embedding_cache_max_bytes", "Room for embeddings.", cache.max_bytes),
            (
                "embedding_cache_host_bytes",
                "Bytes of embeddings that are kept in host memory after they left a GPU.",
                cache.host_nbytes,
            ),
            ("embedding_cache_host_max_bytes", "Room for those.", cache.host_max_bytes),
            ("image_cache_bytes", "Bytes of files of named images.", encoder.images.nbytes),
            ("image_cache_max_bytes", "Room for those.", settings.image_cache_mb * MiB),
            ("logits_cache_bytes", "Bytes of kept logits.", self._state.segmenter.logits.nbytes),
            ("logits_cache_max_bytes", "Room for those.", settings.logits_cache_mb * MiB),
        )
        for name, what, value in measured:
            yield GaugeMetricFamily(f"inference_{name}", what, value)

    def _spaces(self) -> Iterator[Metric]:
        settings = self._state.settings
        used = GaugeMetricFamily(
            "inference_body_bytes", "Bytes of bodies that are here now.", labels=["space"]
        )
        most = GaugeMetricFamily("inference_body_max_bytes", "Room for those.", labels=["space"])
        for space, nbytes, room in (
            ("json", self._state.bodies.nbytes, settings.body_memory_mb),
            ("uploads", self._state.uploads.nbytes, settings.upload_storage_mb),
        ):
            used.add_metric([space], nbytes)
            most.add_metric([space], room * MiB)
        yield from (used, most)

    def _jobs(self) -> Iterator[Metric]:
        backlog = self._backlog
        yield GaugeMetricFamily(
            "inference_jobs_database_up",
            "Whether the jobs' database answers: 1 or 0.",
            int(backlog is not None),
        )
        if backlog is None:
            return
        measured = (
            ("queued", "Jobs that wait, of all servers with this database.", backlog.queued),
            ("processing", "Jobs that are worked on, by any of them.", backlog.processing),
            ("oldest_seconds", "For which the oldest waiting job has waited.", backlog.oldest),
            ("stored_bytes", "Bytes of jobs and results.", backlog.nbytes),
            (
                "stored_max_bytes",
                "Room for those.",
                self._state.settings.job_storage_mb * MiB,
            ),
        )
        for name, what, value in measured:
            yield GaugeMetricFamily(f"inference_jobs_{name}", what, value)
