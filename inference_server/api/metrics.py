"""Gauges that are read when Prometheus scrapes `/metrics`.

A collector is simpler here than `Gauge.set_function`: labels such as checkpoints come and go, and
some values are read with one `await` for several gauges. No label holds what a client sent.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from inference_server import __version__
from inference_server.api.lifecycle import ServerContext
from inference_server.errors import StorageError
from inference_server.jobs import Backlog
from inference_server.segmentation.types import Checkpoint
from inference_server.settings import MiB


async def backlog_of(state: ServerContext) -> Backlog | None:
    """Return the backlog of jobs; None if their database does not answer in time."""
    try:
        async with asyncio.timeout(state.backlog_timeout):
            return await state.jobs.backlog()
    except (StorageError, TimeoutError):
        return None


class ServerCollector(Collector):
    """Collects all metrics of a server: counters, histograms, and gauges that are read now.

    Args:
        state: the server's context.
        checkpoints: checkpoints of the server, loaded or not.
        backlog: backlog of jobs; None if it could not be read.
    """

    def __init__(
        self, state: ServerContext, checkpoints: Sequence[Checkpoint], backlog: Backlog | None
    ) -> None:
        self._state = state
        self._checkpoints = checkpoints
        self._backlog = backlog

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics."""
        yield from self._state.metrics.registry.collect()
        yield from self._server()
        yield from self._models()
        yield from self._state.segmenter.readings()
        yield from self._spaces()
        yield from self._jobs()
        yield from self._background()

    def _server(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "inference_build_info",
            "Always 1; the labels hold version, Python, device and dtype.",
            labels=["version", "python", "device", "dtype"],
        )
        for device, dtype in sorted({(each.device, each.dtype) for each in self._checkpoints}):
            build.add_metric([__version__, platform.python_version(), device, dtype], 1)
        yield build
        yield GaugeMetricFamily(
            "inference_ready", "Whether the server is ready: 1 or 0.", int(self._state.ready)
        )
        yield GaugeMetricFamily(
            "inference_requests_in_flight",
            "Requests in progress.",
            self._state.admission.working,
        )
        yield GaugeMetricFamily(
            "inference_requests_in_flight_max",
            "Maximum number of requests in progress.",
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
            "inference_body_bytes", "Bytes of request bodies in progress.", labels=["space"]
        )
        most = GaugeMetricFamily(
            "inference_body_max_bytes",
            "Maximum bytes of request bodies in progress.",
            labels=["space"],
        )
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
            ("queued", "Queued jobs, of all servers with this database.", backlog.queued),
            (
                "processing",
                "Jobs in progress, of all servers with this database.",
                backlog.processing,
            ),
            ("oldest_seconds", "Age of the oldest queued job in seconds.", backlog.oldest),
            ("stored_bytes", "Bytes of stored jobs and results.", backlog.nbytes),
            (
                "stored_max_bytes",
                "Maximum bytes of stored jobs and results.",
                self._state.settings.job_storage_mb * MiB,
            ),
        )
        for name, what, value in measured:
            yield GaugeMetricFamily(f"inference_jobs_{name}", what, value)

    def _background(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "inference_background_task_up",
            "Whether a background task works: 1 or 0.",
            labels=["task"],
        )
        failures = CounterMetricFamily(
            "inference_background_task_failures",
            "Failures of background tasks; each is followed by a restart.",
            labels=["task"],
        )
        for task in self._state.background_tasks:
            up.add_metric([task.name], int(not task.trouble))
            failures.add_metric([task.name], task.failures)
        yield from (up, failures)
        yield CounterMetricFamily(
            "inference_usage_lost",
            "Changes of usage and refunds that were dropped because too many waited.",
            self._state.auth.ledger.lost,
        )
