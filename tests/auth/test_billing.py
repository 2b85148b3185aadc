"""Usage and refunds wait for the database, whatever it raises, and are bounded."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import Collection
from typing import Any, cast

import pytest
from sqlalchemy.exc import OperationalError

from inference_server.auth.billing import Ledger, Receipt
from inference_server.auth.keys import Key, Tenant
from inference_server.auth.repository import Charge, KeyRepository, Usage, day_of

pytestmark = pytest.mark.anyio

FAILURES = [
    OperationalError("begin", {}, Exception("database is locked")),
    sqlite3.OperationalError("database is locked"),
    OSError(24, "Too many open files"),
    RuntimeError("can't start new thread"),
    MemoryError(),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Store:
    """A repository whose next calls fail."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.used: Counter[str] = Counter()
        self.credits: Counter[str] = Counter()
        self.refunds = 0

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop()

    def add(self, used: Collection[Usage]) -> None:
        self._fail()
        for each in used:
            self.used[each.key_id] += each.requests

    def give_back(self, charge: Charge) -> None:
        self._fail()
        self.refunds += 1
        self.credits[charge.key_id] += charge.credits

    def forget_usage(self, before: str) -> None:
        self._fail()


@pytest.fixture
def store() -> Store:
    return Store()


def ledger_of(store: Store, most: int = 1000) -> Ledger:
    ledger = Ledger(400, most)
    ledger.store = cast("KeyRepository", store)
    return ledger


def key(name: str) -> Key:
    return Key(name, Tenant(f"key/{name}"), frozenset(), (), has_credits=True)


def receipt(name: str, cost: int = 3) -> Receipt:
    return Receipt(Charge(name, cost, day_of()), 7)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__module__)
async def test_what_could_not_be_written_is_written_later_once(
    store: Store, failure: Exception
) -> None:
    ledger = ledger_of(store)
    store.failures = [failure] * 4
    ledger.count(key("a"), failed=False)
    for _ in range(2):
        await ledger.refund(receipt("a"))
    with pytest.raises(type(failure)):
        await ledger.flush()
    ledger.count(key("a"), failed=True)
    ledger.count(key("b"), failed=False)
    with pytest.raises(type(failure)):
        await ledger.flush()
    assert store.failures == []
    assert (store.used, store.credits) == (Counter(), Counter())
    for _ in range(2):
        await ledger.flush()
    assert store.used == {"a": 2, "b": 1}
    assert store.credits == {"a": 6}
    assert store.refunds == 1, "one statement per key and day"
    await ledger.close()


async def test_what_is_counted_while_a_write_fails_is_kept(store: Store) -> None:
    ledger = ledger_of(store)
    ledger.count(key("a"), failed=False)
    loop = asyncio.get_running_loop()

    def failing(used: object) -> None:
        asyncio.run_coroutine_threadsafe(count(), loop).result(60)
        raise OSError

    async def count() -> None:
        ledger.count(key("a"), failed=False)
        ledger.count(key("b"), failed=False)

    store.add = failing  # type: ignore[method-assign]
    with pytest.raises(OSError):
        await ledger.flush()
    del store.add
    await ledger.flush()
    assert store.used == {"a": 2, "b": 1}
    await ledger.close()


async def test_old_usage_is_deleted_even_if_that_failed_once(store: Store) -> None:
    ledger = ledger_of(store)
    forgotten: list[str] = []

    def forget(before: str) -> None:
        forgotten.append(before)
        if len(forgotten) == 1:
            raise OSError

    store.forget_usage = forget  # type: ignore[method-assign]
    ledger.count(key("a"), failed=False)
    with pytest.raises(OSError):
        await ledger.flush()
    for _ in range(3):
        ledger.count(key("a"), failed=False)
        await ledger.flush()
    assert len(forgotten) == 2
    assert store.used == {"a": 4}, "what was written is not written again"
    await ledger.close()


async def test_what_waits_is_bounded(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    ledger = ledger_of(store, most=2)
    store.failures = [OSError()] * 4
    for name in ("a", "b", "c", "a", "d"):
        ledger.count(key(name), failed=False)
        await ledger.refund(receipt(name))
    assert ledger.lost == 4
    assert caplog.text.count("more than 2 records wait") == 1
    store.failures = []
    await ledger.flush()
    assert store.used == {"a": 2, "b": 1}
    # What is paid back at once does not wait.
    assert store.credits["a"] == 6
    ledger.count(key("c"), failed=False)
    await ledger.flush()
    assert store.used["c"] == 1
    await ledger.close()


async def test_what_is_lost_at_the_end_is_told(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    ledger = ledger_of(store)
    store.failures = [OSError("gone")] * 2
    ledger.count(key("a"), failed=False)
    await ledger.refund(receipt("a"))
    await ledger.close()
    assert "1 records of usage and 1 of refunds are lost: gone" in caplog.text


async def test_a_charge_of_a_request_that_has_gone_is_paid_back(store: Store) -> None:
    ledger = ledger_of(store)
    began, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def take(charge: Charge) -> int:
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(cast("Any", go_on.wait()), loop).result(60)
        return 4

    store.take = take  # type: ignore[attr-defined]
    charge = Charge("a", 3, day_of())
    taking = asyncio.create_task(ledger.take(key("a"), charge))
    await began.wait()
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    go_on.set()
    while not ledger._refunds:
        await asyncio.sleep(0)
    await ledger.flush()
    assert store.credits == {"a": 3}
    await ledger.close()
