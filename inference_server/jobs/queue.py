"""The job queue of a serving process: endpoints submit to it, and its workers run the jobs."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from inference_server.auth import Tenant
from inference_server.jobs.models import (
    Accepted,
    Backlog,
    Deleted,
    Facts,
    Status,
    StoredFile,
    Submission,
)
from inference_server.jobs.signing import LinkSigner
from inference_server.jobs.storage import JobStorage
from inference_server.jobs.submissions import Submissions
from inference_server.jobs.task import Task, TaskContext
from inference_server.jobs.timing import DEFAULT_TIMING, JobTiming
from inference_server.jobs.undo_marks import UndoMarks
from inference_server.jobs.work_signal import WorkSignal
from inference_server.jobs.worker import Worker
from inference_server.jobs.worker_locks import WorkerLocks
from inference_server.settings import Settings
from inference_server.supervisor import BackgroundTask, Backoff, Supervisor

logger = logging.getLogger(__name__)


class JobQueue:
    """The jobs of this process and of all others that share its database.

    Nothing here blocks the event loop: threads access the database.

    Args:
        settings: the server's settings.
        tasks: tasks that can run as jobs, by name.
        timing: intervals; tests shorten them.

    Attributes:
        supervisor: runs the workers and all other background tasks of the queue.
    """

    def __init__(
        self, settings: Settings, tasks: Mapping[str, Task], timing: JobTiming = DEFAULT_TIMING
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._timing = timing
        self.supervisor = Supervisor()
        self._storage = JobStorage(settings)
        marks = UndoMarks(Path(settings.data_dir) / "undo", parents=bool(settings.database_url))
        self._submissions = Submissions(self._storage, marks, settings.job_undo_pending)
        self._signal = WorkSignal(settings.job_workers)
        self._workers: list[asyncio.Task[None]] = []

    @property
    def storage(self) -> JobStorage:
        """The database of the jobs."""
        return self._storage

    @property
    def links(self) -> LinkSigner:
        """Signs and verifies links to result files.

        Raises:
            StorageError: the database is unavailable.
        """
        return self._storage.links

    async def start(self, context: TaskContext) -> None:
        """Open the database, and start the workers.

        If the database cannot be opened, this returns after a timeout and attempts continue.

        Args:
            context: what tasks need from this process.
        """
        opening = Backoff(self._timing.error_pause, self._timing.open_pause)
        self.supervisor.run("job database", lambda _: self._open(context), opening)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.open_timeout):
                await self._storage.tried.wait()

    async def drain(self) -> None:
        """Start no more jobs, and wait for the running ones to end."""
        self._signal.drain()
        if self._workers:
            await asyncio.wait(self._workers)

    async def stop(self) -> None:
        """Requeue unfinished jobs, and close the database."""
        await self.supervisor.stop()
        await self._submissions.close()
        await self._storage.close()

    async def submit(self, submission: Submission) -> Accepted:
        """Store a request as a job; see `JobRepository.submit`.

        A submission whose caller is cancelled is undone.
        """
        accepted = await self._submissions.accept(submission)
        # Links the request's id to the job's, which the job's own log lines have.
        word = "repeated" if accepted.repeated else "accepted"
        logger.info("Job %s (%s) %s", accepted.job_id, submission.kind, word)
        self._signal.notify()
        return accepted

    def undo(self, accepted: Accepted) -> None:
        """Undo a submission whose response was not sent; see `Submissions.undo`."""
        self._submissions.undo(accepted)

    async def delete(self, job_id: str, tenant: Tenant) -> Deleted | None:
        """Cancel a job, or delete its result; see `JobRepository.delete`.

        A worker of this process drops the attempt at once, others within a second.
        """
        deleted = await self._storage.write(self._storage.repository.delete, job_id, tenant.name)
        if deleted is not None:
            self._signal.cancel(job_id)
            logger.info("Job %s (%s) deleted: it was %s", job_id, deleted.kind, deleted.state)
        return deleted

    async def status(self, job_id: str, tenant: Tenant) -> Status | None:
        """Get a job's status; see `JobRepository.status`."""
        return await self._storage.read(self._storage.repository.status, job_id, tenant.name)

    async def backlog(self) -> Backlog:
        """Get the size of the queue; see `JobRepository.backlog`."""
        return await self._storage.read(self._storage.repository.backlog)

    async def files(self, job_id: str) -> Sequence[StoredFile]:
        """List the files of a result; see `ResultReader.files`."""
        return await self._storage.read(self._storage.results.files, job_id)

    async def find_file(self, job_id: str, name: str) -> tuple[StoredFile, float, Facts] | None:
        """Look up a file of a result; see `ResultReader.find`."""
        return await self._storage.read(self._storage.results.find, job_id, name)

    async def piece(self, job_id: str, name: str, offset: int, size: int) -> bytes | None:
        """Read a piece of a file; see `ResultReader.piece`."""
        return await self._storage.read(self._storage.results.piece, job_id, name, offset, size)

    async def _open(self, context: TaskContext) -> None:
        """Open the database, and start what works on it."""
        locks = await self._storage.open()
        settings, timing, start = self._settings, self._timing, self.supervisor
        if settings.host in ("0.0.0.0", "::") and not settings.public_url:  # noqa: S104
            logger.info(
                "Result links use the address of the client's connection. Behind a proxy, TLS or "
                "a container's port, set INFERENCE_PUBLIC_URL"
            )
        pauses = Backoff(timing.error_pause, timing.error_pause_most)
        keep = functools.partial(self._storage.call, locks.keep)
        start.repeat("worker lock", lambda _: keep(), timing.watch, pauses)
        start.repeat("crash watch", lambda _: self._requeue_of_dead(locks), timing.watch, pauses)
        start.run("job undo", self._submissions.run, pauses)
        start.repeat("job purge", lambda task: self._purge(locks, task), timing.purge, pauses)
        reserve = settings.job_reserve_workers if settings.job_workers else 0
        for number in range(settings.job_workers + reserve):
            worker = Worker(
                *(self._storage, self._signal, locks.name, self._tasks, context, timing),
                reserve=number >= settings.job_workers,
            )
            self._workers.append(start.run(f"job worker {number + 1}", worker.run, pauses))

    async def _requeue_of_dead(self, locks: WorkerLocks) -> None:
        """Requeue the jobs of crashed processes."""
        storage = self._storage
        for name in await storage.call(storage.repository.workers):
            if await storage.call(locks.is_dead, name):
                requeue = functools.partial(storage.repository.requeue, name, counts=True)
                count = await storage.call(requeue)
                logger.warning("A process crashed; its %d jobs were requeued", count)

    async def _purge(self, locks: WorkerLocks, task: BackgroundTask) -> None:
        """Delete expired jobs, in steps between which others can write.

        Args:
            locks: the locks of workers on this machine.
            task: told after each step, as many of them take minutes.
        """
        storage, retention = self._storage, self._storage.retention
        await storage.call(locks.sweep)
        if late := await storage.call(retention.pull_in):
            logger.warning("The clock was set back; %d waiting jobs were made due", late)
        while await storage.call(retention.purge):
            task.well()
            await asyncio.sleep(self._timing.purge_step)
        await storage.call(retention.compact)
