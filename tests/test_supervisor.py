"""Background tasks live through any exception, and say when they do not work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import pytest
from sqlalchemy.exc import OperationalError

from inference_server.errors import StorageError
from inference_server.supervisor import PATIENCE, BackgroundTask, Backoff, Supervisor

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Time:
    """A clock that only moves when somebody sleeps; it notes how long."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def supervisor(time: Time) -> Supervisor:
    return Supervisor(time, time.sleep)


async def _cancelled() -> None:
    """Wait for something that somebody else cancels."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


def _raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        StorageError("gone"),
        OperationalError("select", {}, Exception("database is locked")),
        OSError(24, "Too many open files"),
        RuntimeError("can't start new thread"),
        MemoryError(),
        AssertionError(),
        SystemExit(3),
        asyncio.CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_task_lives_through_any_exception(
    supervisor: Supervisor, time: Time, error: BaseException
) -> None:
    calls: list[str] = []
    done = asyncio.Event()

    async def step(state: BackgroundTask) -> None:
        assert supervisor.tasks == [state]
        calls.append(state.trouble)
        if len(calls) <= 4:
            raise error
        if len(calls) == 6:
            done.set()
            await asyncio.Event().wait()

    running = supervisor.repeat("purge", step, 10, Backoff(1, 5))
    await asyncio.wait_for(done.wait(), 60)
    assert time.slept == [1, 2, 4, 5, 10], "a back-off that is bounded, then the usual pause"
    assert calls == ["", *(f"purge has failed for {seconds} s" for seconds in (1, 3, 7, 12)), ""]
    (state,) = supervisor.tasks
    assert state.failures == 4
    await supervisor.stop()
    assert running.cancelled()
    assert supervisor.tasks == []


async def test_what_it_waits_for_may_be_cancelled(supervisor: Supervisor, time: Time) -> None:
    calls: list[int] = []

    async def work(task: BackgroundTask) -> None:
        calls.append(1)
        if len(calls) == 1:
            await _cancelled()

    await asyncio.wait_for(supervisor.run("keys", work), 60)
    assert (len(calls), time.slept) == (2, [1])


async def test_a_stop_ends_a_task_that_loses_a_cancellation(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference_server.supervisor.CANCEL_AGAIN", 0.01)
    waits = asyncio.Event()

    async def work(task: BackgroundTask) -> None:
        waits.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    running = supervisor.run("job worker 1", work)
    await waits.wait()
    await asyncio.wait_for(supervisor.stop(), 60)
    assert running.cancelled()


async def test_a_task_that_returns_ends(supervisor: Supervisor, time: Time) -> None:
    async def work(task: BackgroundTask) -> None:
        pass

    await supervisor.run("opening", work)
    await asyncio.sleep(0)
    assert supervisor.tasks == []
    assert time.slept == []


async def test_a_long_task_says_that_it_works(supervisor: Supervisor, time: Time) -> None:
    told: list[str] = []
    again = asyncio.Event()

    async def work(task: BackgroundTask) -> None:
        told.append(task.trouble)
        if len(told) == 1:
            raise ValueError
        task.well()
        told.append(task.trouble)
        again.set()
        time.now += 10 * PATIENCE
        await asyncio.Event().wait()

    supervisor.run("job worker 1", work)
    await asyncio.wait_for(again.wait(), 60)
    assert told == ["", "job worker 1 has failed for 1 s", ""]
    (state,) = supervisor.tasks
    assert state.trouble == "", "a job may take any time"
    await supervisor.stop()


async def test_a_step_that_never_ends_is_told(supervisor: Supervisor, time: Time) -> None:
    begun = asyncio.Event()

    async def step(task: BackgroundTask) -> None:
        begun.set()
        await asyncio.Event().wait()

    supervisor.repeat("keys", step, 5, Backoff(5, 5))
    await asyncio.wait_for(begun.wait(), 60)
    (state,) = supervisor.tasks
    time.now = 10 + PATIENCE
    assert state.trouble == ""
    time.now += 1
    assert state.trouble == f"keys has not finished for {time.now:.0f} s"
    await supervisor.stop()


@pytest.mark.parametrize(("pause", "slept"), [(30, [1, 2, 4, 5, 5, 30]), (0.5, [0.5] * 6)])
async def test_a_task_with_a_long_pause_is_retried_soon(
    supervisor: Supervisor, time: Time, pause: float, slept: list[float]
) -> None:
    """So that it works again, and says so, soon after an outage is over."""
    calls: list[int] = []
    done = asyncio.Event()

    async def step(task: BackgroundTask) -> None:
        calls.append(1)
        if len(calls) <= 5:
            raise StorageError("gone")
        if len(calls) == 7:
            done.set()
            await asyncio.Event().wait()

    supervisor.repeat("purge", step, pause)
    await asyncio.wait_for(done.wait(), 60)
    assert time.slept == slept
    await supervisor.stop()


async def test_a_step_of_many_steps_says_that_it_works(supervisor: Supervisor, time: Time) -> None:
    told: list[str] = []
    done = asyncio.Event()

    async def step(task: BackgroundTask) -> None:
        told.append(task.trouble)
        if len(told) == 1:
            raise StorageError("gone")
        for _ in range(3):
            task.well()
            time.now += 30 + PATIENCE
            told.append(task.trouble)
        done.set()
        await asyncio.Event().wait()

    supervisor.repeat("purge", step, 30)
    await asyncio.wait_for(done.wait(), 60)
    assert told == ["", "purge has failed for 1 s", "", "", ""]
    await supervisor.stop()


async def test_the_log_says_each_reason_once_and_no_statement(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inference_server.supervisor")
    secret = OperationalError("insert", {"content": "private"}, Exception("database is locked"))
    errors = [secret, secret, secret, ValueError("a bug")]

    async def work(task: BackgroundTask) -> None:
        if errors:
            raise errors.pop(0)

    await supervisor.run("usage", work)
    assert [record.getMessage() for record in caplog.records] == [
        "Background task usage failed: database is locked",
        "Background task usage failed: ValueError: a bug",
        "Background task usage works again after 15 s",
    ]
    assert [bool(record.exc_info) for record in caplog.records] == [False, True, False]
    assert "private" not in caplog.text
