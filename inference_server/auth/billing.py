"""What keys pay and use, in a running server: the database is written to beside the requests."""

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
_REFUND_SECONDS = 2.0
"""For which an answer waits until its credits are given back; they are so later all the same."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a request has paid.

    Attributes:
        charge: what it costs.
        left: credits that the key has left; None if it needs none, and nothing was taken.
    """

    charge: Charge
    left: int | None


class Ledger:
    """Takes credits at once, and writes usage down in batches.

    What cannot be written waits in memory until it can, and is lost only with the process. That is
    at most a line for each key and day, and a charge for each request under way.

    Args:
        usage_days: how long usage is kept.

    Attributes:
        store: the keys; None while their database was not opened yet.
    """

    def __init__(self, usage_days: int) -> None:
        self.store: KeyRepository | None = None
        self._usage_days = usage_days
        self._used: dict[tuple[str, str], Usage] = {}
        self._refunds: deque[Charge] = deque()
        self._giving = asyncio.Lock()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="credits")
        self._forgotten = ""

    async def take(self, key: Key, charge: Charge) -> Receipt:
        """Take what a request costs.

        Raises:
            CreditsError: the key has not enough.
            StorageError: the key needs credits, and their database cannot be used.
        """
        if not key.has_credits or charge.credits == 0:
            return Receipt(charge, None)
        if self.store is None:
            raise _unusable()
        taking = self._threads.submit(self.store.take, charge)
        try:
            return Receipt(charge, await asyncio.wrap_future(taking))
        except asyncio.CancelledError:
            # The request is over, but a thread may be about to take its credits all the same.
            def undo(done: Future[int | None]) -> None:
                if not done.cancelled() and done.exception() is None:
                    self._refunds.append(charge)

            taking.add_done_callback(undo)
            raise
        except SQLAlchemyError as error:
            logger.error("Credits cannot be taken: %s", in_short(error))
            raise _unusable() from error

    async def refund(self, receipt: Receipt) -> None:
        """Give back what a request has paid."""
        if receipt.left is None:
            return
        self._refunds.append(receipt.charge)
        giving = asyncio.create_task(self._give_back())
        # An answer need not wait for a database that hangs; `flush` tries what is left.
        await asyncio.wait([giving], timeout=_REFUND_SECONDS)

    def count(self, key: Key, *, failed: bool, cost: int = 0) -> None:
        """Remember a request, to be written down soon.

        Args:
            key: that asked.
            failed: it did not succeed.
            cost: in credits, of a key that needs none; others' were counted when they were taken.
        """
        day = day_of()
        self._merge([Usage(key.id, day, 1, int(failed), cost)])

    async def flush(self) -> None:
        """Write down what is remembered, as far as the database lets us."""
        await self._give_back()
        if self.store is None or not self._used:
            return
        used, self._used = list(self._used.values()), {}
        try:
            await self._call(self.store.add, used)
        except SQLAlchemyError as error:
            self._merge(used)
            logger.error("Usage of keys is written down later: %s", in_short(error))
            return
        if self._forgotten != day_of():
            self._forgotten = day_of()
            await self._forget(self.store)

    async def close(self) -> None:
        """Write down what is left, and stop."""
        await self.flush()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _give_back(self) -> None:
        # Whoever comes second waits until what the first has taken on is given back too.
        async with self._giving:
            while self._refunds and self.store is not None:
                charge = self._refunds.popleft()
                try:
                    await self._call(self.store.give_back, charge)
                except SQLAlchemyError as error:
                    self._refunds.append(charge)
                    logger.error("Credits are given back later: %s", in_short(error))
                    return

    async def _forget(self, store: KeyRepository) -> None:
        before = datetime.now(UTC) - timedelta(days=self._usage_days)
        try:
            await self._call(store.forget_usage, day_of(before))
        except SQLAlchemyError as error:
            logger.error("Old usage of keys is forgotten tomorrow: %s", in_short(error))

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
        "Credits cannot be counted now, as the keys' database cannot be used: try again. The "
        "server's log says why."
    )
