"""How the parts of a process wake its workers, stop them, and cancel their jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class WorkSignal:
    """Wakes idle workers, and tells all workers to stop claiming jobs.

    Args:
        workers: number of regular workers.
    """

    def __init__(self, workers: int) -> None:
        self._event = asyncio.Event()
        self._draining = False
        self._workers = workers
        self._busy = 0
        self._cancelled: dict[str, asyncio.Event] = {}

    @property
    def draining(self) -> bool:
        """Whether workers are to claim no more jobs."""
        return self._draining

    @property
    def next(self) -> asyncio.Event:
        """Event of the next job. Get it before looking for jobs, so that none is missed."""
        return self._event

    def notify(self) -> None:
        """Wake all workers."""
        self._event.set()
        self._event = asyncio.Event()

    @property
    def all_busy(self) -> bool:
        """Whether all regular workers run jobs, so that those in reserve may claim some."""
        return self._busy >= self._workers

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count a regular worker as busy during the block."""
        self._busy += 1
        if self.all_busy:
            self.notify()  # those in reserve
        try:
            yield
        finally:
            self._busy -= 1

    @contextmanager
    def cancellable(self, job_id: str) -> Iterator[asyncio.Event]:
        """Return an event that `cancel` sets, during the block.

        Args:
            job_id: id of the job that a worker of this process runs.
        """
        event = self._cancelled[job_id] = asyncio.Event()
        try:
            yield event
        finally:
            if self._cancelled.get(job_id) is event:
                del self._cancelled[job_id]

    def cancel(self, job_id: str) -> None:
        """Tell the worker of a job, if this process runs it, that the job was cancelled."""
        if event := self._cancelled.get(job_id):
            event.set()

    def drain(self) -> None:
        """Wake all workers, and let each end after its current job."""
        self._draining = True
        self.notify()
