"""Billing in a running server: charges credits, and writes usage in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from inference_server.auth.keys import Key
from inference_server.auth.repository import Charge, KeyRepository, Usage, day_of
from inference_server.database import in_short
from inference_server.errors import StorageError

logger = logging.getLogger(__name__)

_THREADS = 4

_KeyDay = tuple[str, str]
"""Id of a key, and UTC date."""

REFUND_TIMEOUT = 2.0
"""Seconds for which a response waits for its refund; a later refund is made all the same."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A request's charge.

    Attributes:
        charge: the request's cost.
        left: the key's remaining credits; None if nothing was charged, because the key has no
            credit balance or the request costs nothing.
    """

    charge: Charge
    left: int | None


class Ledger:
    """Charges credits immediately, and writes usage in batches.

    What cannot be written stays in memory and is retried, so it is lost only if the process ends,
    or if there is too much of it: one record of usage and one of refunds per key and day.

    Args:
        usage_days: days for which usage is kept.
        most_pending: maximum number of records of each kind that wait for the database.
        refund_timeout: seconds for which a response waits for its refund.

    Attributes:
        store: the keys in the database; None until it is open.
        lost: number of changes that were dropped because too many waited.
    """

    def __init__(
        self, usage_days: int, most_pending: int, refund_timeout: float = REFUND_TIMEOUT
    ) -> None:
        self.store: KeyRepository | None = None
        self.lost = 0
        self._usage_days = usage_days
        self._most_pending = most_pending
        self._refund_timeout = refund_timeout
        self._used: dict[_KeyDay, Usage] = {}
        self._refunds: dict[_KeyDay, int] = {}
        self._giving = asyncio.Lock()
        self._flushing = asyncio.Lock()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="credits")
        self._forgotten = ""

    async def take(self, key: Key, charge: Charge) -> Receipt:
        """Charge a request.

        Args:
            key: the key that pays.
            charge: the request's cost.

        Returns:
            The receipt, for a refund.

        Raises:
            CreditsError: the key has insufficient credits.
            StorageError: the key has a credit balance, and the database is unavailable.
        """
        if not key.has_credits or charge.credits == 0:
            return Receipt(charge, None)
        if self.store is None:
            raise _unusable()
        loop = asyncio.get_running_loop()
        taking = self._threads.submit(self.store.take, charge)
        try:
            return Receipt(charge, await asyncio.wrap_future(taking))
        except asyncio.CancelledError:
            # The request has ended, but the thread may still charge it.
            def undo(done: Future[int | None]) -> None:
                if not done.cancelled() and done.exception() is None:
                    loop.call_soon_threadsafe(self._owe, charge)

            taking.add_done_callback(undo)
            raise
        except SQLAlchemyError as error:
            logger.error("Credits cannot be charged: %s", in_short(error))
            raise _unusable() from error

    async def refund(self, receipt: Receipt) -> None:
        """Refund a request.

        Args:
            receipt: the receipt of its charge.
        """
        if receipt.left is None:
            return
        self._owe(receipt.charge)
        giving = asyncio.create_task(self._give_back())
        # A response does not wait for a database that hangs; `flush` retries later.
        await asyncio.wait([giving], timeout=self._refund_timeout)
        giving.add_done_callback(_ignore)

    def count(self, key: Key, *, failed: bool, cost: int = 0) -> None:
        """Record a request's usage; `flush` writes it.

        Args:
            key: the request's key.
            failed: whether the request failed.
            cost: cost in credits if the key has no credit balance; otherwise 0, because charging
                it has recorded its cost.
        """
        day = day_of()
        self._merge(Usage(key.id, day, 1, int(failed), cost))

    async def flush(self) -> None:
        """Write pending refunds and usage.

        Raises:
            SQLAlchemyError: the database is unavailable; the next call tries again.
        """
        await self._give_back()
        async with self._flushing:
            if self.store is None or not self._used:
                return
            used, self._used = self._used, {}
            written = False
            try:
                await self._call(self.store.add, list(used.values()))
                written = True
            finally:
                if not written:  # also after errors that nobody thought of
                    newer, self._used = self._used, used
                    for each in newer.values():
                        self._merge(each)
            if self._forgotten != day_of():
                await self._forget(self.store)
                self._forgotten = day_of()

    async def close(self) -> None:
        """Write what is pending, and stop the threads."""
        try:
            await self.flush()
        except Exception as error:
            why = in_short(error) if isinstance(error, SQLAlchemyError) else error
            logger.error(
                "%d records of usage and %d of refunds are lost: %s",
                len(self._used),
                len(self._refunds),
                why,
            )
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _owe(self, charge: Charge) -> None:
        """Queue a refund."""
        key = charge.key_id, charge.day
        if self._has_room(self._refunds, key):
            self._refunds[key] = self._refunds.get(key, 0) + charge.credits

    async def _give_back(self) -> None:
        """Write the pending refunds."""
        # A second caller also waits for the refund that the first one is making.
        async with self._giving:
            while self._refunds and self.store is not None:
                key = next(iter(self._refunds))
                owed = self._refunds.pop(key)
                key_id, day = key
                written = False
                try:
                    await self._call(self.store.give_back, Charge(key_id, owed, day))
                    written = True
                finally:
                    if not written:
                        self._refunds[key] = self._refunds.get(key, 0) + owed

    async def _forget(self, store: KeyRepository) -> None:
        before = datetime.now(UTC) - timedelta(days=self._usage_days)
        await self._call(store.forget_usage, day_of(before))

    def _merge(self, new: Usage) -> None:
        key = new.key_id, new.day
        if not self._has_room(self._used, key):
            return
        old = self._used.get(key, Usage(*key))
        self._used[key] = Usage(
            new.key_id,
            new.day,
            old.requests + new.requests,
            old.failures + new.failures,
            old.credits + new.credits,
        )

    def _has_room(self, pending: Mapping[_KeyDay, object], key: _KeyDay) -> bool:
        """Whether a change of a key can wait for the database; count it as lost otherwise."""
        if key in pending or len(pending) < self._most_pending:
            return True
        if not self.lost:
            logger.error(
                "Usage and refunds are being lost: more than %d records wait for the database",
                self._most_pending,
            )
        self.lost += 1
        return False

    async def _call(self, work: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _ignore(done: asyncio.Task[None]) -> None:
    """Retrieve the error of a refund; `flush` meets it again, and reports it."""
    if not done.cancelled():
        done.exception()


def _unusable() -> StorageError:
    return StorageError(
        "Credits cannot be charged because the key database is unavailable; try again. The "
        "server's log has the reason."
    )
