"""Submissions whose client gets no response are undone."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from inference_server.errors import CapacityError, StorageError
from inference_server.jobs import Accepted, RequestKey, Submission
from inference_server.jobs.models import JOBS
from inference_server.jobs.storage import JobStorage
from inference_server.jobs.submissions import Submissions
from inference_server.settings import Settings
from tests.jobs.test_repository import count

pytestmark = pytest.mark.anyio

ASKED = Submission("alice", "task", b"{}")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[JobStorage]:
    opened = JobStorage(Settings(data_dir=str(tmp_path), job_queue_size=2))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def submissions(storage: JobStorage) -> Submissions:
    return Submissions(storage, pause=0.0)


async def undone(submissions: Submissions) -> None:
    """Wait until nothing is left to be undone."""
    assert submissions._undoing
    while submissions._undoing:
        await asyncio.wait(submissions._undoing, timeout=60)


def failure() -> OperationalError:
    return OperationalError("update", {}, Exception("the disk is gone"))


class PausedCall:
    """Wraps a method of the repository, and pauses its calls before or after the work.

    Args:
        method: The method to call.
        first: Pause before the work instead of after it.
    """

    def __init__(self, method: Any, *, first: bool) -> None:
        self._method = method
        self._first = first
        self.reached, self.go = threading.Event(), threading.Event()

    def _wait(self) -> None:
        self.reached.set()
        assert self.go.wait(60)

    def __call__(self, *arguments: Any) -> Any:
        if self._first:
            self._wait()
        found = self._method(*arguments)
        if not self._first:
            self._wait()
        return found


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
async def test_a_cancelled_submission_leaves_no_job(
    storage: JobStorage, submissions: Submissions, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    repository = storage.repository
    held = PausedCall(repository.submit, first=first)
    monkeypatch.setattr(repository, "submit", held)
    task = asyncio.create_task(submissions.accept(ASKED))
    await asyncio.to_thread(held.reached.wait, 60)
    assert count(repository, JOBS) == (0 if first else 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    held.go.set()
    await undone(submissions)
    assert count(repository, JOBS) == 0


async def test_a_locked_database(
    storage: JobStorage, submissions: Submissions, tmp_path: Path
) -> None:
    """The client leaves while the transaction waits for the lock."""
    other = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
    other.execute("begin immediate")
    task = asyncio.create_task(submissions.accept(ASKED))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(task, 0.1)
    other.execute("rollback")
    other.close()
    await undone(submissions)
    assert count(storage.repository, JOBS) == 0


async def test_a_commit_whose_outcome_is_unknown(
    storage: JobStorage, submissions: Submissions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection was lost after the commit: the client is told that it failed."""
    repository = storage.repository
    submit = repository.submit

    def lost(*arguments: Any) -> Accepted:
        submit(*arguments)
        raise failure()

    monkeypatch.setattr(repository, "submit", lost)
    with pytest.raises(StorageError):
        await submissions.accept(ASKED)
    await undone(submissions)
    assert count(repository, JOBS) == 0


async def test_an_undo_waits_for_the_database(
    storage: JobStorage, submissions: Submissions, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = storage.repository
    undo, failures = repository.undo, [failure(), failure()]

    def unreliable(*arguments: Any) -> bool:
        if failures:
            raise failures.pop()
        return undo(*arguments)

    monkeypatch.setattr(repository, "undo", unreliable)
    submissions.undo(await submissions.accept(ASKED), None)
    await undone(submissions)
    assert count(repository, JOBS) == 0


async def test_an_undo_is_of_the_job_that_was_found(
    storage: JobStorage, submissions: Submissions
) -> None:
    named = Submission("alice", "task", b"{}", key=RequestKey("k", "r"))
    first, again = await submissions.accept(named), await submissions.accept(named)
    assert again == Accepted(first.job_id, repeated=True)
    for left in (1, 0):
        submissions.undo(again, None)
        await undone(submissions)
        assert count(storage.repository, JOBS) == left


async def test_a_refused_submission_has_nothing_to_undo(submissions: Submissions) -> None:
    for _ in range(2):
        await submissions.accept(ASKED)
    with pytest.raises(CapacityError):
        await submissions.accept(ASKED)
    assert not submissions._undoing
