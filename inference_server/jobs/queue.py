"""The queue of a serving process: what routes submit to, and workers take from."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from inference_server.database import Database, in_short
from inference_server.errors import StorageError
from inference_server.jobs.models import Backlog, Status, StoredFile
from inference_server.jobs.repository import Store
from inference_server.jobs.signing import LinkSigner
from inference_server.jobs.task import ResultFile, Task, TaskContext
from inference_server.jobs.worker import Worker
from inference_server.jobs.worker_locks import WorkerLocks
from inference_server.settings import Settings

if TYPE_CHECKING:
    from inference_server.auth import Charge, Tenant

logger = logging.getLogger(__name__)

T = TypeVar("T")

_OPEN_SECONDS, _OPEN_PAUSE = 5.0, 10.0
"""Seconds that a start waits for the database, and between attempts after that."""

_WATCH_SECONDS = 1.0
_PURGE_SECONDS = 30.0
_SPARE_THREADS = 4


class Jobs:
    """Jobs of this process and of all others that share its database.

    Nothing here blocks the event loop: the database is spoken to in threads.

    Args:
        settings: of the server.
        tasks: what can be a job, by name.
    """

    def __init__(self, settings: Settings, tasks: Mapping[str, Task]) -> None:
        self._settings = settings
        self._tasks = tasks
        self._store: Store | None = None
        self._links: LinkSigner | None = None
        self._failure = "The jobs' database is being opened: try again."
        self._running: list[asyncio.Task[None]] = []
        self._workers: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self.draining = False
        """No more jobs are begun here."""
        self._tried = asyncio.Event()
        self._threads = ThreadPoolExecutor(
            settings.job_workers + _SPARE_THREADS, thread_name_prefix="jobs"
        )
        self._close: list[Callable[[], None]] = []

    @property
    def store(self) -> Store:
        """The jobs.

        Raises:
            StorageError: their database cannot be used.
        """
        if self._store is None:
            raise StorageError(self._failure)
        return self._store

    @property
    def links(self) -> LinkSigner:
        """What signs links to results.

        Raises:
            StorageError: the database with the secret cannot be used.
        """
        if self._links is None:
            raise StorageError(self._failure)
        return self._links

    async def start(self, context: TaskContext) -> None:
        """Open the database, and begin to work on what is in it.

        A database that cannot be opened now is tried again later.

        Args:
            context: what tasks need from this process.
        """
        self._running.append(asyncio.create_task(self._run(context)))
        await self.wait(self._tried, _OPEN_SECONDS)

    async def drain(self) -> None:
        """Begin no more jobs, and wait until those at hand have ended."""
        self.draining = True
        self._wake_all()
        if self._workers:
            await asyncio.wait(self._workers)

    async def stop(self) -> None:
        """Put what is not finished back into the queue, and close the database."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._store = self._links = None
        self._failure = "The server is stopping."
        # A claim may still be under way in a thread: only after the last one is nothing added.
        await asyncio.to_thread(self._threads.shutdown)
        for close in reversed(self._close):
            await asyncio.to_thread(close)

    async def call(self, work: Callable[..., T], *arguments: object) -> T:
        """Do something with the database in a thread.

        Raises:
            StorageError: the database cannot be used.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, copy_context().run, work, *arguments)
        except SQLAlchemyError as error:
            logger.error("The jobs' database cannot be used: %s", in_short(error))
            raise StorageError(
                "The jobs' database cannot be used now: try again. The server's log says why."
            ) from error

    async def wait(self, wake: asyncio.Event, seconds: float) -> None:
        """Wait until something was submitted here, or some time has passed."""
        with suppress(TimeoutError):
            await asyncio.wait_for(wake.wait(), seconds)

    @property
    def wake(self) -> asyncio.Event:
        """Is set with the next submit. To be fetched before the look that finds nothing."""
        return self._wake

    async def submit(
        self, tenant: Tenant, kind: str, payload: bytes, bill: Charge | None = None
    ) -> str:
        """Keep a request; see `Store.submit`."""
        job_id = await self.call(self.store.submit, tenant.name, kind, payload, bill)
        # With the request's id: the job's own lines have the job's.
        logger.info("Job %s (%s) was accepted", job_id, kind)
        self._wake_all()
        return job_id

    def _wake_all(self) -> None:
        self._wake.set()
        self._wake = asyncio.Event()

    async def status(self, job_id: str, tenant: Tenant) -> Status | None:
        """See `Store.status`."""
        return await self.call(self.store.status, job_id, tenant.name)

    async def backlog(self) -> Backlog:
        """See `Store.backlog`."""
        return await self.call(self.store.backlog)

    async def files(self, job_id: str) -> Sequence[StoredFile]:
        """See `Store.files`."""
        return await self.call(self.store.files, job_id)

    async def file(self, job_id: str, name: str) -> tuple[ResultFile, float] | None:
        """See `Store.file`."""
        return await self.call(self.store.file, job_id, name)

    async def _run(self, context: TaskContext) -> None:
        owners = await self._open()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(owners))
            for _ in range(self._settings.job_workers):
                worker = Worker(self, owners.name, self._tasks, context)
                self._workers.append(group.create_task(worker.run()))

    async def _open(self) -> WorkerLocks:
        """Open the database, however often that takes."""
        settings = self._settings
        directory = Path(settings.data_dir)
        while True:
            try:
                database = await self.call(lambda: Database(directory, settings.database_url))
                self._close.append(database.close)
                owners = WorkerLocks(directory / "workers" if database.is_sqlite else None)
            except (StorageError, OSError, RuntimeError) as error:
                where = "INFERENCE_DATABASE_URL" if settings.database_url else str(directory)
                self._failure = f"The jobs' database cannot be used: see the log about {where}."
                logger.error("Jobs are not accepted: %s: %s", where, error)
                self._tried.set()
                await asyncio.sleep(_OPEN_PAUSE)
                continue
            self._store = Store(database, settings)
            free = functools.partial(_free, self._store, owners.name)
            self._close += [owners.close, free]
            self._links = LinkSigner(database.secret)
            self._tried.set()
            where = "PostgreSQL" if settings.database_url else str(directory.absolute())
            logger.info("Jobs are kept in %s; %d workers", where, settings.job_workers)
            if settings.host in ("0.0.0.0", "::") and not settings.public_url:  # noqa: S104
                logger.info(
                    "Links of jobs name the address that a client's connection arrives at: behind "
                    "a proxy, TLS or a container's port, set INFERENCE_PUBLIC_URL"
                )
            return owners

    async def _watch(self, owners: WorkerLocks) -> None:
        """Free what the dead hold, and forget what has expired."""
        turns = 0
        while True:
            with suppress(StorageError):
                for name in await self.call(self.store.owners):
                    if owners.is_dead(name):
                        free = functools.partial(self.store.free, name, counts=True)
                        count = await self.call(free)
                        logger.warning("A process died at work on %d jobs: they begin anew", count)
                if turns % round(_PURGE_SECONDS / _WATCH_SECONDS) == 0:
                    owners.sweep()
                    await self.call(self.store.purge)
            turns += 1
            await asyncio.sleep(_WATCH_SECONDS)


def _free(store: Store, owner: str) -> None:
    """Put what a process that stops has not finished back into the queue."""
    try:
        count = store.free(owner, counts=False)
    except SQLAlchemyError as error:
        logger.error("Unfinished jobs are free when their leases end: %s", in_short(error))
    else:
        if count:
            logger.info("%d unfinished jobs went back into the queue", count)
