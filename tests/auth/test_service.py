"""Keys are kept up to date, whatever else happens to the database."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from inference_server.auth import AuthService, AuthTiming, KeyRepository
from inference_server.database import Database
from inference_server.errors import AuthError
from inference_server.settings import Settings

pytestmark = pytest.mark.anyio

FAST = AuthTiming(poll=0.01, open_pause=0.01)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def keys(tmp_path: Path) -> KeyRepository:
    """The keys, as the command line has them."""
    return KeyRepository(Database(tmp_path))


@pytest.fixture
async def service(tmp_path: Path, keys: KeyRepository) -> AsyncIterator[AuthService]:
    settings = Settings(data_dir=str(tmp_path), database_lock_timeout=0.05, key_grace=600)
    running = AuthService(settings, FAST)
    await running.start()
    yield running
    await running.stop()


async def until(done: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end, "the condition did not hold in time"
        await asyncio.sleep(0.01)


def accepts(service: AuthService, key: str) -> bool:
    try:
        service.authenticate(key)
    except AuthError:
        return False
    return True


async def assert_keys_follow(service: AuthService, keys: KeyRepository) -> None:
    """A new key is accepted, and refused once it is revoked."""
    key, made = await asyncio.to_thread(keys.create, "new")
    await until(lambda: accepts(service, key))
    await asyncio.to_thread(keys.revoke, made.id)
    await until(lambda: not accepts(service, key))


@pytest.mark.parametrize("jump", [-3600, 3600])
async def test_a_clock_that_is_set_ends_no_key(
    service: AuthService, keys: KeyRepository, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    """Neither one in use, nor the time for which keys are valid without their database."""
    key, _ = await asyncio.to_thread(keys.create, "old")
    await until(lambda: accepts(service, key))
    really = time.time
    monkeypatch.setattr(time, "time", lambda: really() + jump)
    assert accepts(service, key)
    await assert_keys_follow(service, keys)


async def test_usage_that_waits_for_a_lock_does_not_hold_up_keys(
    service: AuthService, keys: KeyRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, made = keys.create("used")
    await until(lambda: accepts(service, key))
    add, waits, go_on = KeyRepository.add, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> None:
        waits.set()
        assert go_on.wait(60)
        add(*arguments)

    monkeypatch.setattr(KeyRepository, "add", slow)
    service.ledger.count(service.authenticate(key), failed=False)
    await asyncio.to_thread(waits.wait, 60)
    await assert_keys_follow(service, keys)
    go_on.set()
    await until(lambda: keys.usage("2000-01-01", made.id))


async def test_a_locked_database_changes_nothing_for_keys_and_loses_no_usage(
    service: AuthService, keys: KeyRepository, tmp_path: Path
) -> None:
    key, made = keys.create("used")
    await until(lambda: accepts(service, key))
    usage = next(task for task in service.supervisor.tasks if task.name == "usage")
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)) as other:
        other.execute("begin immediate")
        service.ledger.count(service.authenticate(key), failed=False)
        await until(lambda: usage.failures >= 2)
        assert "usage has failed" in usage.trouble
        assert accepts(service, key)
        seen = service._seen
        await until(lambda: service._seen > seen)
        other.execute("rollback")
    await until(lambda: keys.usage("2000-01-01", made.id))
    await until(lambda: not usage.trouble)
    assert [used.requests for used in keys.usage("2000-01-01", made.id)] == [1]
    await assert_keys_follow(service, keys)


@pytest.mark.parametrize("method", ["secrets", "add"])
async def test_each_task_lives_through_any_exception(
    service: AuthService, keys: KeyRepository, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    key, made = keys.create("used")
    await until(lambda: accepts(service, key))
    failures: list[BaseException] = [
        OSError(24, "Too many open files"),
        RuntimeError("can't start new thread"),
        sqlite3.OperationalError("database is locked"),
        OperationalError("select", {}, Exception("no such table")),
        MemoryError(),
        SystemExit(1),
    ]
    real = getattr(KeyRepository, method)

    def unreliable(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*arguments)

    monkeypatch.setattr(KeyRepository, method, unreliable)
    service.ledger.count(service.authenticate(key), failed=False)
    await until(lambda: not failures)
    await until(lambda: keys.usage("2000-01-01", made.id))
    await assert_keys_follow(service, keys)
    await until(lambda: not any(task.trouble for task in service.supervisor.tasks))
