"""Readings: metrics that are not counted as things happen, but read when somebody asks.

Their labels are the server's own words: lanes, checkpoints and spaces, never what a client sent.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from inference_server import __version__
from inference_server.api.lifecycle import ServerContext
from inference_server.errors import StorageError
from inference_server.jobs import Backlog
from inference_server.segmentation.types import Checkpoint
from inference_server.settings import MiB

_BACKLOG_SECONDS = 5.0
"""That the jobs' database may take: a scrape must not hang because it does."""


async def backlog_of(state: ServerContext) -> Backlog | None:
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
        checkpoints: what its engines can be asked for.
        backlog: of its jobs, where it could be read.
    """

    def __init__(
        self, state: ServerContext, checkpoints: Sequence[Checkpoint], backlog: Backlog | None
    ) -> None:
        self._state = state
        self._checkpoints = checkpoints
        self._backlog = backlog

    def collect(self) -> Iterable[Metric]:
        """The metrics."""
        yield from self._state.metrics.registry.collect()
        yield from self._server()
        yield from self._models()
        yield from self._state.segmenter.readings()
        yield from self._spaces()
        yield from self._jobs()

    def _server(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "inference_build_info",
            "Always 1; the labels say what runs.",
            labels=["version", "python", "device", "dtype"],
        )
        for device, dtype in sorted({(each.device, each.dtype) for each in self._checkpoints}):
            build.add_metric([__version__, platform.python_version(), device, dtype], 1)
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
        family = GaugeMetricFamily(
            "inference_model_loaded",
            "Whether a checkpoint is in memory: 1 or 0.",
            labels=["checkpoint"],
        )
        known = {checkpoint.label: checkpoint.loaded for checkpoint in self._checkpoints}
        for label, loaded in sorted(known.items()):
            family.add_metric([label], int(loaded))
        yield family

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
