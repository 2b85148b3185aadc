"""The job database of a process: opened in the background, and accessed in threads."""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from inference_server.database import Database, in_short
from inference_server.errors import StorageError
from inference_server.jobs.repository import JobRepository
from inference_server.jobs.results import ResultReader
from inference_server.jobs.retention import Retention
from inference_server.jobs.signing import LinkSigner
from inference_server.jobs.worker_locks import WorkerLocks
from inference_server.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS = 4
"""Threads for requests that write, and as many for those that read."""

_SPARE_THREADS = 3
"""Threads for crashes, purge and locks, beside one thread per worker."""

_UNAVAILABLE = "The job database is unavailable; try again. The server's log has the reason."


class JobStorage:
    """Opens the job database, and calls its blocking methods in threads.

    Workers, requests that write and requests that read have threads of their own, so that none of
    them waits for a lock that only another one needs.

    Args:
        settings: the server's settings.

    Attributes:
        tried: set after the first attempt to open the database, whether it succeeded or not.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database: Database | None = None
        self._repository: JobRepository | None = None
        self._results: ResultReader | None = None
        self._retention: Retention | None = None
        self._failure = "The job database is being opened; try again."
        self.tried = asyncio.Event()
        self._threads, self._writers, self._readers = (
            ThreadPoolExecutor(count, thread_name_prefix=name)
            for name, count in (
                ("jobs", settings.job_workers + settings.job_reserve_workers + _SPARE_THREADS),
                ("jobs-write", _THREADS),
                ("jobs-read", _THREADS),
            )
        )
        self._close: list[Callable[[], None]] = []

    @property
    def repository(self) -> JobRepository:
        """The jobs in the database.

        Raises:
            StorageError: the database is unavailable.
        """
        if self._repository is None:
            raise StorageError(self._failure)
        return self._repository

    @property
    def results(self) -> ResultReader:
        """The result files in the database.

        Raises:
            StorageError: the database is unavailable.
        """
        if self._results is None:
            raise StorageError(self._failure)
        return self._results

    @property
    def retention(self) -> Retention:
        """What is done to stored jobs from time to time.

        Raises:
            StorageError: the database is unavailable.
        """
        if self._retention is None:
            raise StorageError(self._failure)
        return self._retention

    @property
    def links(self) -> LinkSigner:
        """Signs and verifies links to result files.

        Raises:
            StorageError: the database, which holds the signing secret, is unavailable.
        """
        if self._database is None:
            raise StorageError(self._failure)
        # Anew each time, as the secret is another one if the database was replaced.
        return LinkSigner(self._database.secret)

    async def call(self, work: Callable[..., T], *arguments: object) -> T:
        """Call a blocking function in a thread of the workers.

        Args:
            work: the function, which uses the database.
            *arguments: its arguments.

        Returns:
            The function's result.

        Raises:
            StorageError: the database is unavailable.
        """
        return await self._call(self._threads, work, *arguments)

    async def write(self, work: Callable[..., T], *arguments: object) -> T:
        """Call a function that writes for a request; see `call`."""
        return await self._call(self._writers, work, *arguments)

    async def read(self, work: Callable[..., T], *arguments: object) -> T:
        """Call a function that only reads for a request; see `call`."""
        return await self._call(self._readers, work, *arguments)

    async def _call(
        self, threads: ThreadPoolExecutor, work: Callable[..., T], *arguments: object
    ) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(threads, copy_context().run, work, *arguments)
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            why = in_short(error) if isinstance(error, SQLAlchemyError) else str(error)
            logger.error("The job database is unavailable: %s", why)
            raise StorageError(_UNAVAILABLE) from error

    async def open(self) -> WorkerLocks:
        """Open the database.

        Returns:
            The locks by which processes on this machine notice that another one crashed.

        Raises:
            StorageError: the database cannot be opened.
        """
        settings = self._settings
        directory = Path(settings.data_dir)
        database: Database | None = None
        try:
            database = await self.call(Database.of, settings)
            locks = WorkerLocks(directory / "workers" if database.is_sqlite else None)
        except (StorageError, OSError, RuntimeError) as error:
            if database is not None:
                await asyncio.to_thread(database.close)
            where = "INFERENCE_DATABASE_URL" if settings.database_url else str(directory)
            self._failure = _UNAVAILABLE
            raise StorageError(f"Jobs are not accepted: {where}: {error}") from error
        finally:
            self.tried.set()
        self._database = database
        self._repository = JobRepository(database, settings)
        self._results = ResultReader(database)
        self._retention = Retention(database, settings)
        requeue = functools.partial(_requeue, self._repository, locks.name)
        self._close += [database.close, locks.close, requeue]
        where = "PostgreSQL" if settings.database_url else str(directory.absolute())
        logger.info("Jobs are stored in %s; %d workers", where, settings.job_workers)
        return locks

    async def close(self) -> None:
        """Requeue this process's unfinished jobs, and close the database."""
        self._repository = self._results = self._retention = self._database = None
        self._failure = "The server is stopping."
        # A claim may still be running in a thread. Requeue after the last thread has ended.
        for threads in (self._threads, self._writers, self._readers):
            await asyncio.to_thread(threads.shutdown)
        for close in reversed(self._close):
            await asyncio.to_thread(close)


def _requeue(repository: JobRepository, worker: str) -> None:
    """Requeue the unfinished jobs of a process that stops."""
    try:
        count = repository.requeue(worker, counts=False)
    except SQLAlchemyError as error:
        logger.error("Unfinished jobs wait until their leases expire: %s", in_short(error))
    else:
        if count:
            logger.info("%d unfinished jobs were requeued", count)
