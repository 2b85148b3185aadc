"""The parts that a running server is made of."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass, field

from inference_server.api.middleware.admission import Admission
from inference_server.api.middleware.body_budget import BodyBudget
from inference_server.auth import AuthService
from inference_server.errors import InferenceServerError
from inference_server.jobs import Jobs
from inference_server.jobs.task import TaskContext
from inference_server.observability.metrics import Metrics
from inference_server.observability.tracing import Traces
from inference_server.segmentation.service import SegmentationService
from inference_server.settings import Settings
from schemas.common import Limits

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 300.0
"""Seconds between attempts to load models that could not be loaded."""


_DROP_SECONDS = 5.0
"""What it may take to answer requests that are not waited for."""


async def _wait(seconds: float, *first: Awaitable[object]) -> None:
    """Wait until the first of these has come, or some time has passed."""
    tasks = [asyncio.ensure_future(each) for each in first]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class ServerContext:
    """What requests are answered with, from start-up to shut-down.

    Attributes:
        settings: of the server.
        limits: bounds of requests.
        gate: who may call, how often, and for how many credits.
        segmenter: images and prompts to masks.
        metrics: what is measured.
        traces: where spans go, if anywhere.
        uploads: room for the files of forms.
        bodies: room for JSON bodies.
        jobs: requests that are answered later.
        admission: how many requests are answered at a time, and until when.
        failure: why the configured models could not be loaded.
    """

    settings: Settings
    limits: Limits
    gate: AuthService
    segmenter: SegmentationService
    metrics: Metrics
    traces: Traces | None
    uploads: BodyBudget
    bodies: BodyBudget
    jobs: Jobs
    admission: Admission
    failure: str = ""
    _was_ready: bool = field(default=False, repr=False)
    _loading: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def ready(self) -> bool:
        """The configured models were loaded once; unloading them does not undo that."""
        if not self._was_ready and self.segmenter.has_loaded():
            self._become_ready()
        return self._was_ready

    @property
    def task_context(self) -> TaskContext:
        """What tasks need of this server, whether a route or a job runs them."""
        return TaskContext(self.segmenter, self.limits, self.settings, self.metrics, self.traces)

    def _become_ready(self) -> None:
        self._was_ready = True
        logger.info("Ready")

    async def start(self) -> None:
        """Begin loading the configured models, look who may call, and begin to work on jobs."""
        await self.segmenter.start()
        self._loading = asyncio.create_task(self._load())
        await asyncio.gather(self.gate.start(), self.jobs.start(self.task_context))

    async def _load(self) -> None:
        pause = _FIRST_PAUSE
        while not self.ready:
            try:
                await self.segmenter.load()
            except InferenceServerError as error:
                self.failure = error.message
                logger.error("Not ready: %s Trying again in %.0f s.", error.message, pause)
            except Exception:
                self.failure = "The models could not be loaded; the server's log says why."
                logger.exception("Not ready: trying to load again in %.0f s", pause)
            else:
                if not self._was_ready:
                    self._become_ready()
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def clear(self) -> None:
        """Unload every model and forget every image; what is under way is answered all the same."""
        await self.segmenter.clear()
        logger.info("Models and caches were cleared")

    async def drain(self, hurry: asyncio.Event, delay: float) -> None:
        """End well: what was let in is answered, and jobs at hand are finished.

        Args:
            hurry: when set, what is under way is not waited for.
            delay: seconds during which the server says that it is not ready, and still takes work.
        """
        self.admission.leave()
        await _wait(delay, hurry.wait())
        self.admission.close()
        done = asyncio.gather(self.admission.idle(), self.jobs.drain())
        await _wait(self.settings.shutdown_timeout, hurry.wait(), done)
        if len(self.admission):
            logger.warning("Not waited for: %d requests get 503", len(self.admission))
            self.admission.drop()
            await _wait(_DROP_SECONDS, self.admission.idle())

    async def stop(self) -> None:
        """Let go of jobs, models and threads."""
        await self.jobs.stop()
        await self.gate.stop()
        if self._loading is not None:
            self._loading.cancel()
        self.segmenter.close()
        if self.traces is not None:
            await asyncio.to_thread(self.traces.close)
