"""Billing in a running server: charges credits, and writes usage in the background."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
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

    What cannot be written stays in memory and is retried; it is lost only if the process ends. It
    is at most one record per key and day, and one refund per request in flight.

    Args:
        usage_days: days for which usage is kept.
        refund_timeout: seconds for which a response waits for its refund.

    Attributes:
        store: the keys in the database; None until it is open.
    """

    def __init__(self, usage_days: int, refund_timeout: float = REFUND_TIMEOUT) -> None:
        self.store: KeyRepository | None = None
        self._usage_days = usage_days
        self._refund_timeout = refund_timeout
        self._used: dict[tuple[str, str], Usage] = {}
        self._refunds: deque[Charge] = deque()
        self._giving = asyncio.Lock()
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
        taking = self._threads.submit(self.store.take, charge)
        try:
            return Receipt(charge, await asyncio.wrap_future(taking))
        except asyncio.CancelledError:
            # The request has ended, but the thread may still charge it.
            def undo(done: Future[int | None]) -> None:
                if not done.cancelled() and done.exception() is None:
                    self._refunds.append(charge)

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
        self._refunds.append(receipt.charge)
        giving = asyncio.create_task(self._give_back())
        # A response does not wait for a database that hangs; `flush` retries later.
        await asyncio.wait([giving], timeout=self._refund_timeout)

    def count(self, key: Key, *, failed: bool, cost: int = 0) -> None:
        """Record a request's usage; `flush` writes it.

        Args:
            key: the request's key.
            failed: whether the request failed.
            cost: cost in credits if the key has no credit balance; otherwise 0, because charging
                it has recorded its cost.
        """
        day = day_of()
        self._merge([Usage(key.id, day, 1, int(failed), cost)])

    async def flush(self) -> None:
        """Write pending refunds and usage; what fails is retried by the next call."""
        await self._give_back()
        if self.store is None or not self._used:
            return
        used, self._used = list(self._used.values()), {}
        try:
            await self._call(self.store.add, used)
        except SQLAlchemyError as error:
            self._merge(used)
            logger.error("Usage cannot be written; retrying later: %s", in_short(error))
            return
        if self._forgotten != day_of():
            self._forgotten = day_of()
            await self._forget(self.store)

    async def close(self) -> None:
        """Write what is pending, and stop the threads."""
        await self.flush()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _give_back(self) -> None:
        # A second caller also waits for the refund that the first one is making.
        async with self._giving:
            while self._refunds and self.store is not None:
                charge = self._refunds.popleft()
                try:
                    await self._call(self.store.give_back, charge)
                except SQLAlchemyError as error:
                    self._refunds.append(charge)
                    logger.error("Credits cannot be refunded; retrying later: %s", in_short(error))
                    return

    async def _forget(self, store: KeyRepository) -> None:
        before = datetime.now(UTC) - timedelta(days=self._usage_days)
        try:
            await self._call(store.forget_usage, day_of(before))
        except SQLAlchemyError as error:
            logger.error("Old usage cannot be deleted; retrying tomorrow: %s", in_short(error))

    def _merge(self, used: list[Usage]) -> None:
        for new in used:
            old = self._used.get((new.key_id, new.day), Usage(new.key_id, new.day))
            self._used[new.key_id, new.day] = Usage(
                new.key_id,
                new.day,
                old.requests + new.requests,
                old.failures + new.failures,
                old.credits + new.credits,
            )

    async def _call(self, work: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _unusable() -> StorageError:
    return StorageError(
        "Credits cannot be charged because the key database is unavailable; try again. The "
        "server's log has the reason."
    )
