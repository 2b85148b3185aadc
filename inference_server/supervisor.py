"""Background tasks: restarted after any exception, and reported while they do not work.

Every task that a server runs beside its requests is started here: job workers, key refresh, usage,
purge, worker locks, model loading. None of them can end unnoticed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from inference_server.errors import InferenceServerError, StorageError

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds beyond its pause after which a repeated task that has not finished counts as stuck."""

CANCEL_AGAIN = 5.0
"""Seconds after which tasks that have not ended at a stop are cancelled again."""

_EXPECTED = (StorageError, SQLAlchemyError, OSError)
"""Errors of the surroundings; the log needs no traceback of them."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses after failures, in seconds.

    Attributes:
        first: pause after the first failure; doubles with each further one.
        most: longest pause.
    """

    first: float = 1.0
    most: float = 30.0

    def after(self, failures: int) -> float:
        """Return the pause after this many consecutive failures, at least one."""
        return min(self.most, self.first * 2.0 ** min(failures - 1, 60))


_RETRY = Backoff(1.0, 5.0)
"""Default pauses after failures of a repeated task."""


class BackgroundTask:
    """The state of a background task.

    Args:
        name: short stable name, for logs, probes and metrics.
        clock: monotonic clock in seconds.
        allowed: seconds without success after which the task counts as stuck; None if a step may
            take any time.

    Attributes:
        name: short stable name.
        failures: number of failures since the server started.
    """

    def __init__(self, name: str, clock: Callable[[], float], allowed: float | None) -> None:
        self.name = name
        self.failures = 0
        self._clock = clock
        self._allowed = allowed
        self._in_a_row = 0
        self._well_at = self._failing_since = clock()
        self._reason = ""

    @property
    def trouble(self) -> str:
        """What is wrong, in words that reveal nothing of the server; empty if it works."""
        now = self._clock()
        if self._in_a_row:
            return f"{self.name} has failed for {now - self._failing_since:.0f} s"
        if self._allowed is not None and now - self._well_at > self._allowed:
            return f"{self.name} has not finished for {now - self._well_at:.0f} s"
        return ""

    def well(self) -> None:
        """Report that the task works."""
        now = self._clock()
        if self._in_a_row:
            seconds = now - self._failing_since
            logger.info("Background task %s works again after %.0f s", self.name, seconds)
        self._in_a_row, self._reason, self._well_at = 0, "", now

    def failed(self, error: BaseException) -> int:
        """Record a failure, and log it unless the last one had the same reason.

        Args:
            error: the reason.

        Returns:
            The number of consecutive failures.
        """
        if not self._in_a_row:
            self._failing_since = self._clock()
        self._in_a_row += 1
        self.failures += 1
        reason = _in_short(error)
        if reason != self._reason:
            trace = None if isinstance(error, _EXPECTED) else error
            logger.error("Background task %s failed: %s", self.name, reason, exc_info=trace)
        self._reason = reason
        return self._in_a_row


class Supervisor:
    """Runs background tasks until it is stopped.

    Args:
        clock: monotonic clock in seconds; tests replace it.
        sleep: waits for some seconds; tests replace it.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._running: dict[asyncio.Task[None], BackgroundTask] = {}

    @property
    def tasks(self) -> Sequence[BackgroundTask]:
        """The tasks that have not ended."""
        return list(self._running.values())

    def repeat(
        self,
        name: str,
        step: Callable[[BackgroundTask], Awaitable[object]],
        pause: float,
        backoff: Backoff | None = None,
    ) -> asyncio.Task[None]:
        """Call a function again and again, whatever it raises.

        Args:
            name: name of the task.
            step: the function. If it consists of many steps, it reports the success of each with
                `BackgroundTask.well`.
            pause: seconds between two calls.
            backoff: pauses after failures. Default: 1 to 5 seconds, and never longer than `pause`:
                a task with a long pause is to work again soon after what it needs is back.
        """
        backoff = backoff or Backoff(min(pause, _RETRY.first), min(pause, _RETRY.most))
        task = BackgroundTask(name, self._clock, pause + backoff.most + PATIENCE)

        async def run(task: BackgroundTask) -> None:
            while True:
                await step(task)
                task.well()
                await self._sleep(pause)

        return self._start(task, run, backoff)

    def run(
        self,
        name: str,
        work: Callable[[BackgroundTask], Awaitable[object]],
        backoff: Backoff | None = None,
    ) -> asyncio.Task[None]:
        """Call a function, and call it again if it raises; the task ends when it returns.

        Args:
            name: name of the task.
            work: the function. If it runs for long, it reports success with `BackgroundTask.well`.
            backoff: pauses after failures. Default: 1 to 30 seconds.
        """
        return self._start(BackgroundTask(name, self._clock, None), work, backoff or Backoff())

    async def stop(self) -> None:
        """Cancel all tasks, and wait until they have ended."""
        running = set(self._running)
        while running:
            for each in running:
                each.cancel()
            # What a task waits for may lose a cancellation, as `asyncio.wait_for` of Python 3.11
            # can: a server must not wait for such a task for ever.
            _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN)

    def _start(
        self,
        task: BackgroundTask,
        work: Callable[[BackgroundTask], Awaitable[object]],
        backoff: Backoff,
    ) -> asyncio.Task[None]:
        running = asyncio.create_task(self._live(task, work, backoff), name=task.name)
        self._running[running] = task
        running.add_done_callback(self._running.pop)
        return running

    async def _live(
        self,
        task: BackgroundTask,
        work: Callable[[BackgroundTask], Awaitable[object]],
        backoff: Backoff,
    ) -> None:
        while True:
            try:
                await work(task)
            except (Exception, SystemExit) as error:  # a thread's `SystemExit` would end the server
                failures = task.failed(error)
            except asyncio.CancelledError as error:
                current = asyncio.current_task()
                if current is None or current.cancelling():
                    raise
                failures = task.failed(error)  # what the task waited for was cancelled, not it
            else:
                task.well()
                return
            await self._sleep(backoff.after(failures))


def _in_short(error: BaseException) -> str:
    """The reason for a failure, without statements and their parameters, which may be images."""
    if isinstance(error, SQLAlchemyError):
        return str(getattr(error, "orig", None) or type(error).__name__).strip()
    if isinstance(error, InferenceServerError):
        return error.message
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
