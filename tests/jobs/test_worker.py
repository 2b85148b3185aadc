"""Workers: tasks that succeed, fail, time out, or lose their lease."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from inference_server.auth import Tenant
from inference_server.errors import (
    CapacityError,
    DeadlineError,
    ImageError,
    ModelUnavailableError,
    StorageError,
)
from inference_server.jobs import JobQueue, JobTiming, Lease, Status
from inference_server.jobs.models import JOBS
from inference_server.jobs.task import ResultFile, Task, TaskResult
from inference_server.jobs.worker_locks import WorkerLocks
from inference_server.settings import Settings
from tests.databases import prepare
from tests.jobs.submitting import content_of, queued, task_context

pytestmark = pytest.mark.anyio

ALICE = Tenant("alice")
FILE = ResultFile("preview.png", "image/png", b"\x89PNG")


TIMING = JobTiming()
FAST_RENEWALS = JobTiming(renewals=6000)
"""Ten renewals a second of a lease of 600 seconds."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Body(BaseModel):
    number: int = 1


Run = Callable[..., Awaitable[TaskResult]]


async def _answer(state: Any, tenant: Tenant, body: Body, timings: Any) -> TaskResult:
    return TaskResult(None, lambda: {"number": body.number, "tenant": tenant.name})


@asynccontextmanager
async def working(
    directory: Path, run: Run = _answer, timing: JobTiming = TIMING, **changes: Any
) -> AsyncIterator[JobQueue]:
    """Run a queue whose only task is this function.

    Its leases are long, so that a busy machine does not let them expire.
    """
    if not changes.get("database_url"):
        prepare(directory)
    values = {"data_dir": str(directory), "job_retry_pause": 0.05, "job_lease": 600, **changes}
    settings = Settings(**values)
    jobs = JobQueue(settings, {"task": Task(Body, run, lambda body: [])}, timing)
    state = task_context(settings)
    await jobs.start(state)
    await asyncio.wait_for(jobs.storage.tried.wait(), 120)  # `start` waits only 5 s
    try:
        yield jobs
    finally:
        await jobs.stop()


async def ended(
    jobs: JobQueue, job_id: str, seconds: float = 120, tenant: Tenant = ALICE
) -> Status:
    end = time.monotonic() + seconds
    while True:
        status = await jobs.status(job_id, tenant)
        assert status is not None
        if status.state in ("COMPLETED", "FAILED"):
            return status
        assert time.monotonic() < end, status
        await asyncio.sleep(0.02)


async def outcome(directory: Path, run: Run, payload: bytes = b"{}", **changes: Any) -> Status:
    async with working(directory, run, **changes) as jobs:
        return await ended(jobs, await queued(jobs, ALICE, "task", payload))


def failing(*errors: Exception) -> tuple[Run, list[float]]:
    """Return a task that raises these in turn and then succeeds, and the times of its runs."""
    times: list[float] = []

    async def run(state: Any, tenant: Tenant, body: Body, timings: Any) -> TaskResult:
        times.append(time.time())  # the clock that due times use
        if len(times) <= len(errors):
            raise errors[len(times) - 1]
        return await _answer(state, tenant, body, timings)

    return run, times


async def test_json(tmp_path: Path) -> None:
    # Without polling: the submit wakes the worker.
    async with working(tmp_path, timing=JobTiming(poll=600)) as jobs:
        job_id = await queued(jobs, ALICE, "task", b'{"number": 7}')
        status = await ended(jobs, job_id)
        assert status.state == "COMPLETED"
        assert status.seconds is not None
        assert 0 < status.seconds < 60
        stored = await content_of(jobs, job_id, "output.json")
        assert stored is not None
        assert orjson.loads(stored) == {"number": 7, "tenant": "alice"}


async def test_files_and_text(tmp_path: Path) -> None:
    async def run(state: Any, tenant: Tenant, body: Body, timings: Any) -> TaskResult:
        if body.number == 2:
            return TaskResult(None, lambda: "iVBORw==")
        return TaskResult(None, files=lambda: (FILE,))

    async with working(tmp_path, run) as jobs:
        job_id = await queued(jobs, ALICE, "task", b"{}")
        await ended(jobs, job_id)
        assert [f.name for f in await jobs.files(job_id)] == ["preview.png"]
        job_id = await queued(jobs, ALICE, "task", b'{"number": 2}')
        await ended(jobs, job_id)
        stored = await content_of(jobs, job_id, "output.json")
        assert stored is not None
        assert orjson.loads(stored) == "iVBORw=="


async def test_a_client_error_fails_at_once(tmp_path: Path) -> None:
    run, times = failing(ImageError("It is no image."))
    status = await outcome(tmp_path, run)
    assert (status.state, status.error) == ("FAILED", "It is no image.")
    assert len(times) == 1


async def test_a_body_that_is_no_longer_valid_fails(tmp_path: Path) -> None:
    status = await outcome(tmp_path, _answer, b'{"number": "x"}')
    assert status.state == "FAILED"
    assert status.error is not None
    assert status.error.startswith("number: ")


@pytest.mark.parametrize(
    "error",
    [
        CapacityError("full", 0.01),
        DeadlineError("late"),
        ModelUnavailableError("no weights"),
        ValueError("a bug"),
    ],
)
async def test_a_transient_error_is_retried_after_a_pause(tmp_path: Path, error: Exception) -> None:
    run, times = failing(error, error)
    status = await outcome(tmp_path, run, job_retry_pause=0.1)
    assert status.state == "COMPLETED"
    assert len(times) == 3
    assert times[1] - times[0] >= 0.1
    assert times[2] - times[1] >= 0.2


@pytest.mark.parametrize(
    ("error", "told"),
    [(CapacityError("full", 0.01), "full"), (ValueError("secret"), "Internal error")],
)
async def test_retries_are_limited(tmp_path: Path, error: Exception, told: str) -> None:
    run, times = failing(*[error] * 9)
    status = await outcome(tmp_path, run, job_attempts=2)
    assert status.state == "FAILED"
    assert status.error is not None
    assert status.error.startswith(told)
    assert "secret" not in status.error
    assert len(times) == 2


async def test_a_job_has_a_deadline(tmp_path: Path) -> None:
    async def run(*_: Any) -> TaskResult:
        await asyncio.sleep(60)
        raise AssertionError

    status = await outcome(tmp_path, run, job_attempts=1, request_timeout=0.1)
    assert status.error == "The request took longer than 0.1 seconds."


async def test_a_result_that_is_too_large_fails(tmp_path: Path) -> None:
    async def run(*_: Any) -> TaskResult:
        return TaskResult(None, files=lambda: (ResultFile("a.png", "image/png", bytes(1_600_000)),))

    status = await outcome(tmp_path, run, job_result_mb=1)
    assert status.state == "FAILED"
    assert status.error is not None
    assert status.error.startswith("The result has 1.53 MiB; the limit is 1 MiB.")
    assert "INFERENCE_JOB_RESULT_MB" in status.error


@pytest.mark.parametrize(
    ("share", "most"), [(0.5, "at most 0.5 MiB (0.5 of 1 MiB)"), (1, "at most 1 MiB (1 of 1 MiB)")]
)
async def test_a_result_that_the_storage_can_never_hold_fails(
    tmp_path: Path, share: float, most: str
) -> None:
    """The error does not say to submit the job again."""

    async def run(*_: Any) -> TaskResult:
        return TaskResult(None, files=lambda: (ResultFile("a.png", "image/png", bytes(1_600_000)),))

    status = await outcome(tmp_path, run, job_storage_mb=1, job_storage_share=share)
    assert status.state == "FAILED"
    assert status.error is not None
    assert status.error.startswith("The result has 1.53 MiB; the jobs of one API key can take")
    assert most in status.error
    assert "INFERENCE_JOB_STORAGE_MB" in status.error
    assert "again" not in status.error


async def test_the_lease_of_a_long_job_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TIMING.renewals >= 2, "the first one comes before the lease expires"
    runs, ends = [], []
    renewed = asyncio.Event()

    async def run(state: Any, tenant: Tenant, body: Body, timings: Any) -> TaskResult:
        runs.append(1)
        await renewed.wait()
        return await _answer(state, tenant, body, timings)

    async with working(tmp_path, run, FAST_RENEWALS) as jobs:
        renew, loop = jobs.storage.repository.renew, asyncio.get_running_loop()

        def noting(lease: Lease) -> bool:
            held = renew(lease)
            with jobs.storage.repository._database.reading() as connection:
                ends.append(connection.execute(select(JOBS.c.due)).scalar_one())
            if len(ends) == 3:
                loop.call_soon_threadsafe(renewed.set)
            return held

        monkeypatch.setattr(jobs.storage.repository, "renew", noting)
        before = time.time()
        job_id = await queued(jobs, ALICE, "task", b"{}")
        assert (await ended(jobs, job_id)).state == "COMPLETED"
    assert len(runs) == 1
    assert before + 600 < ends[0] < ends[1] < ends[2], "each renewal extends the lease"


async def test_a_job_whose_lease_was_lost_is_dropped(tmp_path: Path) -> None:
    """The task is cancelled, and its outcome changes nothing."""
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def run(*_: Any) -> TaskResult:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    # A running process; jobs of a crashed one would be requeued.
    other = WorkerLocks(tmp_path / "workers")
    async with working(tmp_path, run, FAST_RENEWALS, job_workers=1) as jobs:
        job_id = await queued(jobs, ALICE, "task", b"{}")
        await begun.wait()
        with jobs.storage.repository._database.writing() as connection:
            changes = update(JOBS).values(token=JOBS.c.token + 1, owner=other.name)
            connection.execute(changes.values(due=time.time() + 600))
        await asyncio.wait_for(cancelled.wait(), 60)
        status = await jobs.status(job_id, ALICE)
        assert status is not None
        assert status.state == "PROCESSING"
    other.close()


async def test_a_shutdown_requeues_jobs_at_once(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def hang(*_: Any) -> TaskResult:
        begun.set()
        await asyncio.sleep(60)
        raise AssertionError

    async with working(tmp_path, hang, job_attempts=1) as jobs:
        job_id = await queued(jobs, ALICE, "task", b"{}")
        await begun.wait()
    async with working(tmp_path, job_attempts=1) as jobs:
        # Without waiting for the lease of 600 seconds.
        assert (await ended(jobs, job_id, 60)).state == "COMPLETED"
    with pytest.raises(StorageError, match="stopping"):
        await queued(jobs, ALICE, "task", b"{}")


async def test_a_worker_that_is_woken_while_it_is_stopped_ends(tmp_path: Path) -> None:
    """A cancellation that comes with a signal is not lost: the stop would never end."""
    alone: dict[str, Any] = {"job_workers": 1, "job_reserve_workers": 0}
    async with working(tmp_path, timing=JobTiming(poll=600), **alone) as jobs:
        await ended(jobs, await queued(jobs, ALICE, "task", b"{}"))
        (worker,) = jobs._workers
        while not jobs._signal.next._waiters:
            await asyncio.sleep(0.005)
        jobs._signal.notify()
        worker.cancel()
        await asyncio.wait([worker], timeout=60)
        assert worker.cancelled()


async def test_a_temporary_database_failure_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with working(tmp_path) as jobs:
        finish, calls = jobs.storage.repository.finish, []

        def flaky(*arguments: Any) -> bool:
            calls.append(1)
            if len(calls) < 3:
                raise OperationalError("insert", {}, Exception("disk full"))
            return finish(*arguments)

        monkeypatch.setattr(jobs.storage.repository, "finish", flaky)
        job_id = await queued(jobs, ALICE, "task", b"{}")
        assert (await ended(jobs, job_id)).state == "COMPLETED"
        assert len(calls) == 3


async def test_a_database_that_cannot_be_opened_leaves_the_server_running(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings(data_dir=str(tmp_path / "file" / "data"))
    jobs = JobQueue(settings, {})
    state = task_context(settings)
    with pytest.raises(StorageError, match="being opened"):
        await queued(jobs, ALICE, "task", b"{}")
    await jobs.start(state)
    await asyncio.wait_for(jobs.storage.tried.wait(), 120)
    with pytest.raises(StorageError, match="is unavailable"):
        await queued(jobs, ALICE, "task", b"{}")
    await jobs.stop()


async def test_without_workers_jobs_are_left_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with working(tmp_path, job_workers=0) as front:
        claims: list[object] = []
        claim = front.storage.repository.claim

        def recorded(*arguments: Any, **options: Any) -> Any:
            claims.append(arguments)
            return claim(*arguments, **options)

        monkeypatch.setattr(front.storage.repository, "claim", recorded)
        job_id = await queued(front, ALICE, "task", b"{}")
        status = await front.status(job_id, ALICE)
        assert status is not None
        assert status.state == "QUEUED"
        async with working(tmp_path) as other:
            assert (await ended(other, job_id)).state == "COMPLETED"
        assert claims == []


async def test_slow_jobs_of_one_tenant_do_not_hold_up_another(tmp_path: Path) -> None:
    """A worker in reserve takes jobs of tenants that have none in progress."""
    go, running = asyncio.Event(), []

    async def run(state: Any, tenant: Tenant, body: Body, timings: Any) -> TaskResult:
        running.append(tenant.name)
        if tenant == ALICE:
            await go.wait()
        return await _answer(state, tenant, body, timings)

    bob = Tenant("bob")
    async with working(tmp_path, run, job_workers=1, job_reserve_workers=1) as jobs:
        slow = [await queued(jobs, ALICE, "task", b"{}") for _ in range(3)]
        for _ in range(2):
            await ended(jobs, await queued(jobs, bob, "task", b"{}"), tenant=bob)
        # Only one of Alice's: she has no more workers than before.
        assert running == ["alice", "bob", "bob"]
        go.set()
        for job_id in slow:
            assert (await ended(jobs, job_id)).state == "COMPLETED"


@pytest.mark.parametrize(("regular", "reserve", "count"), [(1, 0, 1), (2, 1, 3), (0, 1, 0)])
async def test_a_process_without_workers_has_none_in_reserve(
    tmp_path: Path, regular: int, reserve: int, count: int
) -> None:
    settings: dict[str, Any] = {"job_workers": regular, "job_reserve_workers": reserve}
    async with working(tmp_path, **settings) as jobs:
        assert len(jobs._workers) == count
