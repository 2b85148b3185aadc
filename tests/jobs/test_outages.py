"""Jobs are worked on again after any failure of what the queue needs."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from inference_server.errors import StorageError
from inference_server.jobs import JobQueue, JobRepository, JobTiming, Retention, Submission
from inference_server.jobs.undo_marks import UndoMarks
from inference_server.jobs.worker_locks import WorkerLocks
from tests.jobs.submitting import queued
from tests.jobs.test_worker import ALICE, _answer, ended, working

pytestmark = pytest.mark.anyio

EAGER = JobTiming(
    poll=0.01, watch=0.01, purge=0.01, error_pause=0.01, error_pause_most=0.01, open_pause=0.01
)
"""Intervals at which all tasks run many times within a test."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def until(done: Callable[[], object]) -> None:
    """Wait until a condition holds; the tasks of the queue run meanwhile."""
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end, "the condition did not hold in time"
        await asyncio.sleep(0.01)


Submit = Callable[[JobQueue], Awaitable[str]]


async def accepted(jobs: JobQueue) -> str:
    """Submit a job until it is accepted.

    With a short lock timeout, a task that writes at the moment may be in the way: on a busy machine
    it can be interrupted while it has the lock.
    """
    async with asyncio.timeout(60):
        while True:
            with suppress(StorageError):
                return await queued(jobs, ALICE, "task", b"{}")
            await asyncio.sleep(0.01)


async def assert_works(jobs: JobQueue, submit: Submit | None = None) -> None:
    """A job is done, and no task complains."""
    job_id = await (submit(jobs) if submit else queued(jobs, ALICE, "task", b"{}"))
    status = await ended(jobs, job_id)
    assert status.state == "COMPLETED"
    await until(lambda: not any(task.trouble for task in jobs.supervisor.tasks))
    names = {task.name for task in jobs.supervisor.tasks}
    of_workers = {"job worker 1", "job worker 2"}
    assert {"worker lock", "crash watch", "job purge", "job undo", *of_workers} <= names


def fail_own(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str, failures: list[BaseException]
) -> None:
    """Let a method of the objects that are made from now on fail, once for each failure.

    Servers of other tests in this process have objects of the same class.
    """
    made: list[object] = []
    make, real = owner.__init__, getattr(owner, method)  # type: ignore[misc]  # of the class

    def noted(self: object, *arguments: Any, **named: Any) -> None:
        made.append(self)
        make(self, *arguments, **named)

    def unreliable(self: object, *arguments: Any) -> Any:
        if any(self is each for each in made):
            with suppress(IndexError):  # several threads come here
                raise failures.pop()
        return real(self, *arguments)

    monkeypatch.setattr(owner, "__init__", noted)
    monkeypatch.setattr(owner, method, unreliable)


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (JobRepository, "claim"),
        (JobRepository, "workers"),
        (Retention, "pull_in"),
        (Retention, "purge"),
        (Retention, "compact"),
        (WorkerLocks, "keep"),
        (WorkerLocks, "sweep"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
async def test_each_task_lives_through_any_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    failures: list[BaseException] = []
    fail_own(monkeypatch, owner, method, failures)
    async with working(tmp_path, timing=EAGER) as jobs:
        failures += [
            OSError(24, "Too many open files"),
            RuntimeError("can't start new thread"),
            sqlite3.OperationalError("database is locked"),
            OperationalError("select", {}, Exception("no such table")),
            MemoryError(),
            SystemExit(1),
        ]
        # Others may fail as well, because of what the failing one left undone.
        await until(lambda: sum(task.failures for task in jobs.supervisor.tasks) >= 6)
        assert not failures
        await assert_works(jobs)


async def test_a_task_with_a_long_interval_works_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its next interval, and before all that it has to do is done."""
    failures: list[BaseException] = []
    fail_own(monkeypatch, Retention, "pull_in", failures)
    failures += [StorageError("gone")] * 3
    monkeypatch.setattr(Retention, "purge", lambda self: True)
    timing = replace(EAGER, purge=3600, purge_step=0.01)
    async with working(tmp_path, timing=timing) as jobs:
        await until(lambda: not failures)
        (purge,) = [task for task in jobs.supervisor.tasks if task.name == "job purge"]
        await until(lambda: purge.failures == 3 and not purge.trouble)


async def test_a_submission_is_undone_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with working(tmp_path, timing=EAGER, job_workers=0) as jobs:
        asked = Submission(ALICE.name, "task", b"{}")
        unanswered, answered = [await jobs.submit(asked) for _ in range(2)]
        failures: list[BaseException] = [StorageError("gone")] * 10_000
        with monkeypatch.context() as patch:

            def fails(submission_id: str) -> bool:
                raise failures.pop()

            patch.setattr(jobs.storage.repository, "undo", fails)
            jobs.undo(unanswered)
            await until(lambda: any(task.trouble for task in jobs.supervisor.tasks))
            await jobs.stop()
    async with working(tmp_path, timing=EAGER, job_workers=0) as jobs:
        while await jobs.status(unanswered.job_id, ALICE) is not None:
            await asyncio.sleep(0.01)
        assert await jobs.status(answered.job_id, ALICE) is not None


@pytest.mark.parametrize(("owner", "method"), [(WorkerLocks, "keep"), (UndoMarks, "load")])
async def test_an_opening_that_fails_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    failures: list[BaseException] = [OSError(24, "Too many files"), ValueError("a bug")]
    fail_own(monkeypatch, owner, method, failures)
    async with working(tmp_path, timing=EAGER) as jobs:
        await until(lambda: not failures and len(jobs.supervisor.tasks) >= 5)
        await assert_works(jobs)


async def test_a_locked_database_refuses_jobs_and_goes_on(tmp_path: Path) -> None:
    async with working(tmp_path, timing=EAGER, database_lock_timeout=0.05) as jobs:
        await assert_works(jobs, accepted)
        done = await accepted(jobs)
        assert (await ended(jobs, done)).state == "COMPLETED"
        with closing(sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)) as other:
            other.execute("begin immediate")
            for _ in range(3):
                with pytest.raises(StorageError, match="unavailable"):
                    await queued(jobs, ALICE, "task", b"{}")
            status = await jobs.status(done, ALICE)
            assert status is not None
            assert status.state == "COMPLETED", "reading needs no lock"
            other.execute("rollback")
        await assert_works(jobs, accepted)


async def test_a_lock_directory_that_is_removed_is_made_again(tmp_path: Path) -> None:
    async with working(tmp_path, timing=EAGER) as jobs:
        locks = tmp_path / "workers"
        (name,) = [file.name for file in locks.iterdir()]
        shutil.rmtree(locks)
        await until(lambda: (locks / name).exists())
        await assert_works(jobs)


async def test_a_data_directory_that_was_away_is_used_again(tmp_path: Path) -> None:
    data, away = tmp_path / "data", tmp_path / "away"
    async with working(data, timing=EAGER) as jobs:
        done = await queued(jobs, ALICE, "task", b"{}")
        assert (await ended(jobs, done)).state == "COMPLETED"
        link = jobs.links.path(done, "output.json", 1.0)
        data.rename(away)
        with pytest.raises(StorageError):
            await queued(jobs, ALICE, "task", b"{}")
        with pytest.raises(StorageError):
            await jobs.status(done, ALICE)
        await until(lambda: any(task.trouble for task in jobs.supervisor.tasks))
        assert not data.exists()
        away.rename(data)
        assert (await ended(jobs, done)).state == "COMPLETED"
        await assert_works(jobs)
        assert jobs.links.path(done, "output.json", 1.0) == link


async def test_a_data_directory_that_is_made_anew_is_used(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with working(data, timing=EAGER) as jobs:
        link = jobs.links.path("job", "output.json", 1.0)
        shutil.rmtree(data)
        data.mkdir()
        await assert_works(jobs)
        assert jobs.links.path("job", "output.json", 1.0) != link, "it has a secret of its own"


@pytest.mark.parametrize("jump", [-3600, 86400])
async def test_a_clock_that_is_set_delays_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    really = time.time
    runs: list[int] = []

    async def run(*arguments: Any) -> Any:
        runs.append(1)
        begun.set()
        await go_on.wait()
        return await _answer(*arguments)

    async with working(tmp_path, run, EAGER, job_workers=1) as jobs:
        under_way = await queued(jobs, ALICE, "task", b"{}")
        waiting = await queued(jobs, ALICE, "task", b"{}")
        await asyncio.wait_for(begun.wait(), 60)
        monkeypatch.setattr(time, "time", lambda: really() + jump)
        async with working(tmp_path, run, EAGER, job_workers=1) as other:
            # It takes what waits, and nothing whose lease holds.
            await until(lambda: len(runs) == 2)
            go_on.set()
            for job_id in (under_way, waiting):
                assert (await ended(other, job_id)).state == "COMPLETED"
            new = await queued(other, ALICE, "task", b"{}")
            assert (await ended(other, new)).state == "COMPLETED"
        assert len(runs) == 3, "each was tried once"
