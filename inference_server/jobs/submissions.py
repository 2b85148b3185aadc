"""Submissions that are not answered are undone: their client cannot ask for the job."""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
import threading
from collections.abc import Coroutine

from inference_server.auth import Charge
from inference_server.errors import InferenceServerError, StorageError
from inference_server.jobs.models import Accepted, Submission
from inference_server.jobs.storage import JobStorage

logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 5.0
"""Seconds that a stopping server has to undo submissions."""


class Submissions:
    """Stores submissions as jobs, and undoes those that a client got no response for.

    What cannot be undone because the database is unavailable stays in memory and is retried; it is
    lost only if the process ends. It is at most one entry per request that failed meanwhile.

    Args:
        storage: the database of the jobs.
        pause: seconds before another attempt to undo a submission.
    """

    def __init__(self, storage: JobStorage, pause: float) -> None:
        self._storage = storage
        self._pause = pause
        self._undoing: set[asyncio.Task[None]] = set()

    async def accept(self, submission: Submission) -> Accepted:
        """Store a submission; see `JobRepository.submit`.

        If the caller is cancelled, or the database fails, what was stored all the same is undone.
        """
        repository = self._storage.repository
        job_id, abandoned = secrets.token_hex(16), threading.Event()
        submit = functools.partial(repository.submit, submission, job_id, abandoned)
        stored = asyncio.ensure_future(self._storage.write(submit))
        try:
            # The thread goes on after a cancellation, and its outcome decides what to undo.
            return await asyncio.shield(stored)
        except (asyncio.CancelledError, StorageError):
            abandoned.set()
            self._start(self._undo_outcome(stored, job_id, submission.bill))
            raise

    def undo(self, accepted: Accepted, bill: Charge | None) -> None:
        """Undo an accepted submission in the background; see `JobRepository.undo`.

        Args:
            accepted: the job of the submission.
            bill: what the submission was charged.
        """
        self._start(self._undo(accepted.job_id, bill))

    async def close(self) -> None:
        """Wait a few seconds for what is being undone."""
        if not self._undoing:
            return
        _, late = await asyncio.wait(self._undoing, timeout=_CLOSE_SECONDS)
        for task in late:
            task.cancel()
        if late:
            logger.error("%d submissions without a response could not be undone", len(late))

    def _start(self, undo: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(undo)
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)

    async def _undo_outcome(
        self, stored: asyncio.Future[Accepted], job_id: str, bill: Charge | None
    ) -> None:
        try:
            job_id = (await stored).job_id
        except StorageError:
            pass  # the connection may have been lost after the commit
        except InferenceServerError:
            return
        await self._undo(job_id, bill)

    async def _undo(self, job_id: str, bill: Charge | None) -> None:
        while True:
            try:
                if await self._storage.write(self._storage.repository.undo, job_id, bill):
                    logger.info("Job %s undone: its submission got no response", job_id)
                return
            except StorageError:
                await asyncio.sleep(self._pause)
            except Exception:
                logger.exception("Job %s cannot be undone; trying again", job_id)
                await asyncio.sleep(self._pause)
