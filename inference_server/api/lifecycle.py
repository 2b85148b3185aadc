"""The parts of a running server, and how it starts, drains and stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from inference_server.api.middleware.admission import Admission
from inference_server.api.middleware.body_budget import BodyBudget
from inference_server.api.raster_slots import RasterSlots
from inference_server.auth import AuthService
from inference_server.errors import InferenceServerError
from inference_server.jobs import JobQueue
from inference_server.jobs.task import TaskContext
from inference_server.observability.metrics import Metrics
from inference_server.observability.tracing import Traces
from inference_server.segmentation.raster_files import RasterFiles
from inference_server.segmentation.service import SegmentationService
from inference_server.settings import Settings
from inference_server.supervisor import BackgroundTask, Supervisor
from schemas.common import Limits

logger = logging.getLogger(__name__)

LOAD_PAUSE = 10.0
"""Seconds before the second attempt to load models; doubles with each attempt."""

_MAX_LOAD_PAUSE = 300.0

_DROP_SECONDS = 5.0
"""Seconds that cancelled requests have to send their error responses."""


async def _wait(seconds: float, *first: Awaitable[object]) -> None:
    """Wait until one of the awaitables is done, for at most some seconds."""
    tasks = [asyncio.ensure_future(each) for each in first]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class ServerContext:
    """The parts of a running server.

    Attributes:
        settings: the server's settings.
        limits: limits that request schemas are validated against.
        auth: authentication, rate limits and credits.
        segmenter: turns images and prompts into masks.
        metrics: counters and histograms.
        traces: makes OpenTelemetry spans; None if tracing is off.
        uploads: byte budget for forms.
        bodies: byte budget for JSON bodies.
        jobs: queue of jobs.
        admission: limits the requests in progress.
        rasters: opens rasters by URL, or in the administrator's directory.
        raster_slots: limits the requests in progress that segment rasters by windows.
        load_pause: seconds before the second attempt to load models. Default: 10.
        backlog_timeout: seconds that a metrics scrape waits for the jobs' database. Default: 5.
        identity: random id of this server process.
        failure: why the last attempt to load the configured models failed; empty if it did not.
    """

    settings: Settings
    limits: Limits
    auth: AuthService
    segmenter: SegmentationService
    metrics: Metrics
    traces: Traces | None
    uploads: BodyBudget
    bodies: BodyBudget
    jobs: JobQueue
    admission: Admission
    rasters: RasterFiles
    raster_slots: RasterSlots
    load_pause: float = LOAD_PAUSE
    backlog_timeout: float = 5.0
    identity: str = field(default_factory=lambda: str(uuid4()))
    failure: str = ""
    _was_ready: bool = field(default=False, repr=False)
    _supervisor: Supervisor = field(default_factory=Supervisor, repr=False)

    @property
    def ready(self) -> bool:
        """Whether the configured models were loaded once; unloading them does not undo that."""
        if not self._was_ready and self.segmenter.has_loaded():
            self._become_ready()
        return self._was_ready

    @property
    def background_tasks(self) -> Sequence[BackgroundTask]:
        """All background tasks that run now."""
        supervisors = (self._supervisor, self.auth.supervisor, self.jobs.supervisor)
        return [task for supervisor in supervisors for task in supervisor.tasks]

    @property
    def troubles(self) -> Sequence[str]:
        """What is wrong with background tasks, in words that reveal nothing of the server."""
        return [task.trouble for task in self.background_tasks if task.trouble]

    @property
    def task_context(self) -> TaskContext:
        """The parts that tasks need, whether a route or a job runs them."""
        return TaskContext(
            self.segmenter, self.limits, self.settings, self.metrics, self.rasters, self.traces
        )

    def _become_ready(self) -> None:
        self._was_ready = True
        logger.info("Ready")

    async def start(self) -> None:
        """Start loading models, read the API keys, and start the job workers."""
        await self.segmenter.start()
        self._supervisor.run("model loading", lambda _: self._load())
        await asyncio.gather(self.auth.start(), self.jobs.start(self.task_context))

    async def _load(self) -> None:
        pause = self.load_pause
        while not self.ready:
            try:
                await self.segmenter.load()
            except InferenceServerError as error:
                self.failure = error.message
                logger.error("Loading models failed: %s Retrying in %.0f s", error.message, pause)
            except Exception:
                self.failure = "Loading the models failed. See the server's log."
                logger.exception("Loading models failed; retrying in %.0f s", pause)
            else:
                if not self._was_ready:
                    self._become_ready()
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_LOAD_PAUSE)

    async def clear(self) -> None:
        """Unload all models and clear all caches; requests in progress are still answered."""
        await self.segmenter.clear()
        logger.info("Models unloaded and caches cleared")

    async def drain(self, hurry: asyncio.Event, delay: float) -> None:
        """Finish the requests and jobs in progress, then return.

        Args:
            hurry: once set, requests and jobs in progress are not waited for.
            delay: seconds during which the server reports that it is not ready, and still admits
                requests.
        """
        self.admission.leave()
        await _wait(delay, hurry.wait())
        self.admission.close()
        done = asyncio.gather(self.admission.idle(), self.jobs.drain())
        await _wait(self.settings.shutdown_timeout, hurry.wait(), done)
        if len(self.admission):
            logger.warning("Shutdown timeout: %d requests in progress get 503", len(self.admission))
            self.admission.drop()
            await _wait(_DROP_SECONDS, self.admission.idle())

    async def stop(self) -> None:
        """Stop job workers, authentication, models, threads and tracing."""
        await self.jobs.stop()
        await self.auth.stop()
        await self._supervisor.stop()
        self.segmenter.close()
        if self.traces is not None:
            await asyncio.to_thread(self.traces.close)
