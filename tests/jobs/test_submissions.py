"""Submissions whose client gets no response are undone."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from inference_server.errors import CapacityError, StorageError
from inference_server.jobs import Accepted, RequestKey, Submission
from inference_server.jobs.models import JOBS
from inference_server.jobs.storage import JobStorage
from inference_server.jobs.submissions import Submissions
from inference_server.jobs.undo_marks import UndoMarks
from inference_server.settings import Settings
from inference_server.supervisor import Backoff, Supervisor
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
def marks(tmp_path: Path) -> UndoMarks:
    return UndoMarks(tmp_path / "undo")


@pytest.fixture
def submissions(storage: JobStorage, marks: UndoMarks) -> Submissions:
    return Submissions(storage, marks, most_pending=3)


@pytest.fixture
async def supervisor(submissions: Submissions) -> AsyncIterator[Supervisor]:
    """Undoes submissions in the background."""
    running = Supervisor()
    running.run("job undo", submissions.run, Backoff(0.001, 0.001))
    yield running
    await running.stop()


async def undone(submissions: Submissions) -> None:
    """Wait until nothing is left to be undone."""
    assert submissions.pending
    await until(lambda: not submissions.pending)


async def until(done: Callable[[], object]) -> None:
    """Wait until a condition holds; background tasks run meanwhile."""
    async with asyncio.timeout(60):
        while not done():
            await asyncio.sleep(0.005)


def outage(monkeypatch: pytest.MonkeyPatch, storage: JobStorage) -> Callable[[], None]:
    """Let undoing fail until the returned function is called."""
    repository, over = storage.repository, threading.Event()
    undo = repository.undo

    def unreliable(submission_id: str) -> bool:
        if not over.is_set():
            raise failure()
        return undo(submission_id)

    monkeypatch.setattr(repository, "undo", unreliable)
    return over.set


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


@pytest.mark.usefixtures("supervisor")
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


@pytest.mark.usefixtures("supervisor")
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


@pytest.mark.usefixtures("supervisor")
@pytest.mark.parametrize("error", [failure(), ValueError("a bug")], ids=["lost", "bug"])
async def test_a_commit_whose_outcome_is_unknown(
    storage: JobStorage,
    submissions: Submissions,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    """The connection was lost after the commit: the client is told that it failed."""
    repository = storage.repository
    submit = repository.submit
    named = Submission("alice", "task", b"{}", key=RequestKey("k", "r"))
    kept = await submissions.accept(named)

    def lost(*arguments: Any) -> Accepted:
        submit(*arguments)
        raise error

    monkeypatch.setattr(repository, "submit", lost)
    for asked in (ASKED, named):
        with pytest.raises((StorageError, ValueError)):
            await submissions.accept(asked)
        await undone(submissions)
        assert count(repository, JOBS) == 1
    # The one that was repeated without a response is no longer held by the repetition.
    submissions.undo(kept)
    await undone(submissions)
    assert count(repository, JOBS) == 0


async def test_an_undo_waits_for_the_database_and_is_reported(
    storage: JobStorage,
    submissions: Submissions,
    supervisor: Supervisor,
    marks: UndoMarks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = outage(monkeypatch, storage)
    (task,) = supervisor.tasks
    for _ in range(2):
        submissions.undo(await submissions.accept(ASKED))
    # The first may fail three times before the second is accepted.
    await until(lambda: task.failures >= 3 and len(marks.load()) == 2)
    assert task.trouble.startswith("job undo has failed for ")
    ends()
    await undone(submissions)
    await until(lambda: not task.trouble)
    assert count(storage.repository, JOBS) == 0
    assert marks.load() == []


async def test_one_that_cannot_be_undone_does_not_hold_up_others(
    storage: JobStorage,
    submissions: Submissions,
    supervisor: Supervisor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repository = storage.repository
    bad, good = [await submissions.accept(ASKED) for _ in range(2)]
    undo = repository.undo

    def partly(submission_id: str) -> bool:
        if submission_id == bad.submission_id:
            raise ValueError("a bug")
        return undo(submission_id)

    monkeypatch.setattr(repository, "undo", partly)
    for each in (bad, good):
        submissions.undo(each)
    await until(lambda: submissions.pending == 1)
    assert count(repository, JOBS) == 1
    (task,) = supervisor.tasks
    await until(lambda: task.trouble)


async def test_submissions_to_undo_are_bounded(
    storage: JobStorage, submissions: Submissions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there are too many, others are refused instead of being charged for nothing."""
    ends = outage(monkeypatch, storage)
    for _ in range(2):
        submissions.undo(await submissions.accept(ASKED))
    with pytest.raises(CapacityError):  # of `INFERENCE_JOB_QUEUE_SIZE`
        await submissions.accept(ASKED)
    submissions.undo(Accepted("x", submission_id="f" * 32))
    with pytest.raises(StorageError, match="INFERENCE_JOB_UNDO_PENDING"):
        await submissions.accept(ASKED)
    ends()
    await submissions.close()
    assert (await submissions.accept(ASKED)).job_id


async def test_an_undo_survives_a_restart(
    storage: JobStorage,
    submissions: Submissions,
    marks: UndoMarks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = outage(monkeypatch, storage)
    submissions.undo(await submissions.accept(ASKED))
    await submissions.close()
    ends()
    assert count(storage.repository, JOBS) == 1
    after, supervisor = Submissions(storage, marks, most_pending=3), Supervisor()
    supervisor.run("job undo", after.run)
    await until(lambda: count(storage.repository, JOBS) == 0 and not marks.load())
    await supervisor.stop()


async def test_a_stop_does_not_wait_long_for_a_submission(
    storage: JobStorage, marks: UndoMarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outcome is known later: it is undone after a restart, if anything was stored."""
    submissions = Submissions(storage, marks, most_pending=3, close_seconds=0.01)
    repository = storage.repository
    held = PausedCall(repository.submit, first=False)
    monkeypatch.setattr(repository, "submit", held)
    task = asyncio.create_task(submissions.accept(ASKED))
    await asyncio.to_thread(held.reached.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await submissions.close()
    held.go.set()
    assert count(repository, JOBS) == 1
    (marked,) = marks.load()
    assert repository.undo(marked)


async def test_without_a_directory_for_marks_an_undo_waits_in_memory(
    storage: JobStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submissions = Submissions(storage, UndoMarks(tmp_path / "away" / "undo"), most_pending=3)
    supervisor, ends = Supervisor(), outage(monkeypatch, storage)
    supervisor.run("job undo", submissions.run, Backoff(0.001, 0.001))
    submissions.undo(await submissions.accept(ASKED))
    (task,) = supervisor.tasks
    await until(lambda: task.failures >= 2)
    assert not (tmp_path / "away").exists()
    ends()
    await undone(submissions)
    assert count(storage.repository, JOBS) == 0
    await supervisor.stop()


@pytest.mark.usefixtures("supervisor")
async def test_an_undo_is_of_one_submission(storage: JobStorage, submissions: Submissions) -> None:
    named = Submission("alice", "task", b"{}", key=RequestKey("k", "r"))
    first, again = await submissions.accept(named), await submissions.accept(named)
    assert again == Accepted(first.job_id, repeated=True)
    for each, left in ((again, 1), (again, 1), (first, 0)):
        submissions.undo(each)
        await undone(submissions)
        assert count(storage.repository, JOBS) == left


async def test_a_refused_submission_has_nothing_to_undo(submissions: Submissions) -> None:
    for _ in range(2):
        await submissions.accept(ASKED)
    with pytest.raises(CapacityError):
        await submissions.accept(ASKED)
    assert not submissions.pending


def test_marks_are_files_of_their_own(tmp_path: Path) -> None:
    marks = UndoMarks(tmp_path / "a" / "undo", parents=True)
    assert marks.load() == []
    marks.add(["a" * 32, "b" * 32])
    marks.add(["a" * 32])
    (tmp_path / "a" / "undo" / "README").touch()
    assert marks.load() == ["a" * 32, "b" * 32]
    for _ in range(2):
        marks.remove("a" * 32)
    assert marks.load() == ["b" * 32]
