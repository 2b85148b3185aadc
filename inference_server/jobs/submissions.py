"""Submissions that are not answered are undone: their client cannot ask for the job."""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
import threading

from inference_server.errors import InferenceServerError, StorageError
from inference_server.jobs.models import Accepted, Submission
from inference_server.jobs.storage import JobStorage
from inference_server.jobs.undo_marks import UndoMarks
from inference_server.supervisor import BackgroundTask

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""Seconds that a stopping server has to undo submissions."""


class Submissions:
    """Stores submissions as jobs, and undoes those that a client got no response for.

    What cannot be undone because the database is unavailable is retried, and marked in a file, so
    that it is undone after a restart.

    Args:
        storage: the database of the jobs.
        marks: the marks of submissions to undo.
        most_pending: maximum number of submissions to undo; while there are as many, others are
            refused. Requests in progress may exceed it.
        close_seconds: seconds that `close` takes at most.
    """

    def __init__(
        self,
        storage: JobStorage,
        marks: UndoMarks,
        most_pending: int,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self._storage = storage
        self._marks = marks
        self._most_pending = most_pending
        self._close_seconds = close_seconds
        self._waiting: dict[str, None] = {}
        self._marked: set[str] = set()
        self._undecided: dict[asyncio.Future[Accepted], str] = {}
        self._wake = asyncio.Event()

    @property
    def pending(self) -> int:
        """Number of submissions to undo, and of those that may have to be."""
        return len(self._waiting) + len(self._undecided)

    async def accept(self, submission: Submission) -> Accepted:
        """Store a submission; see `JobRepository.submit`.

        If the caller is cancelled, or the database fails, what was stored all the same is undone.

        Raises:
            StorageError: the database is unavailable, or too many submissions wait to be undone.
        """
        repository = self._storage.repository
        if self.pending >= self._most_pending:
            raise StorageError(
                f"{self.pending} submissions that got no response wait to be undone, because the "
                "job database is unavailable; try again. The limit is INFERENCE_JOB_UNDO_PENDING."
            )
        submission_id, abandoned = secrets.token_hex(16), threading.Event()
        submit = functools.partial(repository.submit, submission, submission_id, abandoned)
        stored = asyncio.ensure_future(self._storage.write(submit))
        try:
            # The thread goes on after a cancellation, and its outcome decides what to undo.
            return await asyncio.shield(stored)
        except BaseException as error:
            if not _is_refusal(error):
                abandoned.set()
                self._undecided[stored] = submission_id
                stored.add_done_callback(self._decide)
            raise

    def undo(self, accepted: Accepted) -> None:
        """Undo an accepted submission in the background; see `JobRepository.undo`.

        Args:
            accepted: the job of the submission.
        """
        self._add(accepted.submission_id)

    async def run(self, task: BackgroundTask) -> None:
        """Undo submissions until this is cancelled; after an error, the supervisor calls it again.

        Args:
            task: told that the database works.
        """
        for submission_id in await asyncio.to_thread(self._marks.load):
            self._marked.add(submission_id)
            self._waiting.setdefault(submission_id)
        while True:
            while self._waiting:
                await self._undo(next(iter(self._waiting)))
                task.well()
            task.well()  # there was nothing to undo
            self._wake.clear()
            await self._wake.wait()

    async def close(self) -> None:
        """Undo what is left, after `run` was cancelled; mark what cannot be undone in time."""
        try:
            async with asyncio.timeout(self._close_seconds):
                while self._undecided:
                    await asyncio.wait(self._undecided)
                while self._waiting:
                    await self._undo(next(iter(self._waiting)))
        except Exception:
            for submission_id in self._undecided.values():
                self._waiting.setdefault(submission_id)
            left = len(self._waiting)
            if await self._mark():
                logger.warning(
                    "%d submissions that got no response are undone at the next start", left
                )
            else:
                logger.error("%d submissions that got no response could not be undone", left)

    def _decide(self, stored: asyncio.Future[Accepted]) -> None:
        """Undo a submission without a response unless nothing was stored."""
        submission_id = self._undecided.pop(stored)
        # After an error of the database too: the connection may have been lost after the commit.
        if stored.cancelled() or not _is_refusal(stored.exception()):
            self._add(submission_id)

    def _add(self, submission_id: str) -> None:
        self._waiting[submission_id] = None
        self._wake.set()

    async def _undo(self, submission_id: str) -> None:
        try:
            if await self._storage.write(self._storage.repository.undo, submission_id):
                logger.info("A submission without a response was undone: %s", submission_id)
        except Exception:
            # The next attempt is at another one, in case that this one is the cause.
            del self._waiting[submission_id]
            self._waiting[submission_id] = None
            await self._mark()
            raise
        if submission_id in self._marked:
            await asyncio.to_thread(self._marks.remove, submission_id)
            self._marked.discard(submission_id)
        del self._waiting[submission_id]

    async def _mark(self) -> bool:
        """Mark what waits; return whether that was possible."""
        new = self._waiting.keys() - self._marked
        try:
            await asyncio.to_thread(self._marks.add, new)
        except OSError as error:
            logger.error("Submissions to undo are kept in memory only: %s", error)
            return False
        self._marked |= new
        return True


def _is_refusal(error: BaseException | None) -> bool:
    """Whether a submission was refused, so that certainly nothing was stored."""
    return isinstance(error, InferenceServerError) and not isinstance(error, StorageError)
