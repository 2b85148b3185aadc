"""Progress and cancellation of running jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference_server.auth import Tenant
from inference_server.jobs import Attempt, JobProgress, JobTiming
from inference_server.jobs.task import TaskContext, TaskResult
from tests.jobs.submitting import queued
from tests.jobs.test_worker import ALICE, Body, _answer, ended, failing, working

pytestmark = pytest.mark.anyio

LAST = JobProgress(9, 10, 2, 31)
RARELY = JobTiming(watch=600)
"""A worker that learns of a cancellation from its own process only."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_a_share_is_between_0_and_1() -> None:
    assert JobProgress(0, 0).share == 0
    assert JobProgress(1, 4).share == 0.25
    assert JobProgress(5, 4).share == 1
    assert JobProgress.load(LAST.dump()) == LAST
    assert JobProgress.load(None) is None


class Gate:
    """A task that reports, and goes on when it is told."""

    def __init__(self, *reports: JobProgress) -> None:
        self.reports = reports
        self.begun, self.go, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def run(self, context: TaskContext, *rest: Any) -> TaskResult:
        assert context.attempt is not None
        for each in self.reports:
            context.attempt.report(each)
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return await _answer(context, *rest)


async def until(done: Callable[[], Any]) -> None:
    """Wait until a coroutine returns something true."""
    async with asyncio.timeout(60):
        while not await done():
            await asyncio.sleep(0.01)


async def test_progress_is_in_the_status_and_stays_with_the_result(tmp_path: Path) -> None:
    gate = Gate(JobProgress(1, 10), LAST, JobProgress(3, 10))  # the last one is no progress
    async with working(tmp_path, gate.run) as jobs:
        job_id = await queued(jobs, ALICE, "task", b"{}")

        async def told() -> bool:
            status = await jobs.status(job_id, ALICE)
            assert status is not None
            return status.progress == LAST

        await until(told)
        gate.go.set()
        assert (await ended(jobs, job_id)).progress == LAST


async def test_a_job_without_windows_has_no_progress(tmp_path: Path) -> None:
    async with working(tmp_path) as jobs:
        assert (await ended(jobs, await queued(jobs, ALICE, "task", b"{}"))).progress is None


async def test_progress_is_written_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand reports are two writes: the first one, and the result's."""
    first, written = asyncio.Event(), []

    async def run(context: TaskContext, *rest: Any) -> TaskResult:
        assert context.attempt is not None
        context.attempt.report(JobProgress(0, 1000))
        await first.wait()
        for done in range(1000):
            context.attempt.report(JobProgress(done + 1, 1000))
            await asyncio.sleep(0)
        return await _answer(context, *rest)

    async with working(tmp_path, run, job_progress_interval=600) as jobs:
        report, loop = jobs.storage.repository.report, asyncio.get_running_loop()

        def noted(lease: Any, progress: JobProgress) -> bool:
            written.append(progress.done)
            held = report(lease, progress)
            loop.call_soon_threadsafe(first.set)
            return held

        monkeypatch.setattr(jobs.storage.repository, "report", noted)
        status = await ended(jobs, await queued(jobs, ALICE, "task", b"{}"))
        assert status.progress == JobProgress(1000, 1000)
    assert written == [0]


async def test_an_attempt_that_is_repeated_begins_again(tmp_path: Path) -> None:
    """What the failed one reported is not told any more."""
    fail, runs = failing(ValueError("a bug"))

    async def run(context: TaskContext, *rest: Any) -> TaskResult:
        assert context.attempt is not None
        context.attempt.report(LAST)
        await asyncio.sleep(0)
        return await fail(context, *rest)

    async with working(tmp_path, run, job_retry_pause=600) as jobs:
        job_id = await queued(jobs, ALICE, "task", b"{}")

        async def waits() -> bool:
            status = await jobs.status(job_id, ALICE)
            assert status is not None
            return bool(runs) and (status.state, status.progress) == ("QUEUED", None)

        await until(waits)


async def test_a_raster_has_a_time_limit_of_its_own(tmp_path: Path) -> None:
    """It replaces the limit of other jobs; here it is the shorter one, so nothing has to pass."""

    async def run(context: TaskContext, tenant: Tenant, body: Body, timings: Any) -> TaskResult:
        assert context.attempt is not None
        context.attempt.extend()
        await asyncio.Event().wait()
        raise AssertionError

    async with working(tmp_path, run, request_timeout=600, job_raster_timeout=0.1) as jobs:
        status = await ended(jobs, await queued(jobs, ALICE, "task", b"{}"))
    assert status.error is not None
    assert status.error.startswith("The raster took longer than 0.1 seconds.")
    assert "INFERENCE_JOB_RASTER_TIMEOUT" in status.error


class TestCancelled:
    async def test_a_running_job_is_dropped_at_once(self, tmp_path: Path) -> None:
        gate = Gate(LAST)
        async with working(tmp_path, gate.run, RARELY, job_workers=1) as jobs:
            job_id = await queued(jobs, ALICE, "task", b"{}")
            await gate.begun.wait()
            deleted = await jobs.delete(job_id, ALICE)
            assert deleted is not None
            assert (deleted.state, deleted.kind) == ("PROCESSING", "task")
            await asyncio.wait_for(gate.cancelled.wait(), 60)
            assert await jobs.status(job_id, ALICE) is None
            assert await jobs.delete(job_id, ALICE) is None
            # The worker is free again.
            gate.go.set()
            other = await queued(jobs, ALICE, "task", b"{}")
            assert (await ended(jobs, other)).state == "COMPLETED"

    async def test_another_process_drops_it_soon(self, tmp_path: Path) -> None:
        gate = Gate()
        timing = replace(RARELY, watch=0.01)
        async with working(tmp_path, gate.run, timing) as worker:
            job_id = await queued(worker, ALICE, "task", b"{}")
            await gate.begun.wait()
            async with working(tmp_path, job_workers=0) as other:
                assert await other.delete(job_id, ALICE) is not None
            await asyncio.wait_for(gate.cancelled.wait(), 60)

    async def test_a_waiting_job_never_runs(self, tmp_path: Path) -> None:
        ran: list[int] = []

        async def run(context: TaskContext, tenant: Tenant, body: Body, rest: Any) -> TaskResult:
            ran.append(body.number)
            return await _answer(context, tenant, body, rest)

        async with working(tmp_path, job_workers=0) as front:
            gone = await queued(front, ALICE, "task", b'{"number": 1}')
            kept = await queued(front, ALICE, "task", b'{"number": 2}')
            assert await front.delete(gone, Tenant("bob")) is None
            assert await front.delete(gone, ALICE) is not None
        async with working(tmp_path, run) as jobs:
            assert (await ended(jobs, kept)).state == "COMPLETED"
        assert ran == [2]


async def test_an_attempt_begins_without_reports() -> None:
    attempt = Attempt(10)
    attempt.extend()  # has no deadline yet
    assert (attempt.latest, attempt.limit) == (None, None)
