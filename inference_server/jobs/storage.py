"""The job database of a process: opened in the background, and accessed in threads."""

from __future__ import annotations

import asyncio
import functools
import logging
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
from inference_server.jobs.signing import LinkSigner
from inference_server.jobs.worker_locks import WorkerLocks
from inference_server.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SPARE_THREADS = 4
"""Threads for requests, beside one thread per worker."""


_UNAVAILABLE = "The job database is unavailable; try again. The server's log has the reason."


class JobStorage:
    """Opens the job database, and calls its blocking methods in threads.

    Args:
        settings: the server's settings.
        open_pause: seconds before another attempt to open the database.

    Attributes:
        tried: set after the first attempt to open the database, whether it succeeded or not.
    """

    def __init__(self, settings: Settings, open_pause: float) -> None:
        self._settings = settings
        self._open_pause = open_pause
        self._repository: JobRepository | None = None
        self._results: ResultReader | None = None
        self._links: LinkSigner | None = None
        self._failure = "The job database is being opened; try again."
        self.tried = asyncio.Event()
        self._threads = ThreadPoolExecutor(
            settings.job_workers + _SPARE_THREADS, thread_name_prefix="jobs"
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
    def links(self) -> LinkSigner:
        """Signs and verifies links to result files.

        Raises:
            StorageError: the database, which holds the signing secret, is unavailable.
        """
        if self._links is None:
            raise StorageError(self._failure)
        return self._links

    async def call(self, work: Callable[..., T], *arguments: object) -> T:
        """Call a blocking function in a thread.

        Args:
            work: the function, which uses the database.
            *arguments: its arguments.

        Returns:
            The function's result.

        Raises:
            StorageError: the database is unavailable.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, copy_context().run, work, *arguments)
        except SQLAlchemyError as error:
            logger.error("The job database is unavailable: %s", in_short(error))
            raise StorageError(_UNAVAILABLE) from error

    async def open(self) -> WorkerLocks:
        """Open the database, and retry until that succeeds.

        Returns:
            The locks by which processes on this machine notice that another one crashed.
        """
        settings = self._settings
        directory = Path(settings.data_dir)
        while True:
            try:
                database = await self.call(lambda: Database(directory, settings.database_url))
                self._close.append(database.close)
                locks = WorkerLocks(directory / "workers" if database.is_sqlite else None)
            except (StorageError, OSError, RuntimeError) as error:
                where = "INFERENCE_DATABASE_URL" if settings.database_url else str(directory)
                self._failure = _UNAVAILABLE
                logger.error("Jobs are not accepted: %s: %s", where, error)
                self.tried.set()
                await asyncio.sleep(self._open_pause)
                continue
            self._repository = JobRepository(database, settings)
            self._results = ResultReader(database)
            requeue = functools.partial(_requeue, self._repository, locks.name)
            self._close += [locks.close, requeue]
            self._links = LinkSigner(database.secret)
            self.tried.set()
            where = "PostgreSQL" if settings.database_url else str(directory.absolute())
            logger.info("Jobs are stored in %s; %d workers", where, settings.job_workers)
            return locks

    async def close(self) -> None:
        """Requeue this process's unfinished jobs, and close the database."""
        self._repository = self._results = self._links = None
        self._failure = "The server is stopping."
        # A claim may still be running in a thread. Requeue after the last thread has ended.
        await asyncio.to_thread(self._threads.shutdown)
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
