"""The gate of a running server: who may come in, how often, and for how many credits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from inference_server.auth.billing import Ledger
from inference_server.auth.keys import ANONYMOUS, Key, KeyRing, id_of
from inference_server.auth.rate_limit import Rates
from inference_server.auth.repository import Charge, KeyRepository, Secret, day_of
from inference_server.database import Database, in_short
from inference_server.errors import AuthError, ScopeError, StorageError
from inference_server.setting_types import SCOPES, Scope
from inference_server.settings import Settings

logger = logging.getLogger(__name__)

Work = Literal["concept", "visual", "automatic", "embed"]
"""What a request may ask for; each has a cost."""

_HOW_TO_SEND = (
    "Send it in one of five ways: query parameter `api_key`, field `api_key` of a JSON body or, "
    "before the file, of a form, header `Authorization: Bearer KEY`, header `x-api-key: KEY`, or "
    "HTTP Basic with the key as password."
)
_POLL_SECONDS = 1.0
"""Between looks for changed keys. Usage is written down as often."""

_OPEN_SECONDS, _OPEN_PAUSE = 5.0, 5.0
"""Seconds that a start waits for the database, and between attempts after that."""


class AuthService:
    """Recognises keys: those of the settings, and those of the database as last seen.

    Nothing here waits for the database but requests that cost credits, and those wait in a thread.

    Args:
        settings: of the server.

    Attributes:
        is_open: everybody may come in, and nothing is counted.
        ledger: what keys pay and use.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.is_open = settings.auth == "off"
        self._ring = KeyRing(settings.api_keys, settings.api_key_scopes)
        self._rates = Rates(settings.redis_url)
        self.ledger = Ledger(settings.usage_days)
        self._costs: Mapping[Work, int] = {
            "concept": settings.cost_concept,
            "visual": settings.cost_visual,
            "automatic": settings.cost_automatic,
            "embed": settings.cost_embed,
        }
        self._stored: Mapping[str, Secret] = {}
        self._change: str | None = None
        self._seen = -float("inf")
        self._database: Database | None = None
        self._running: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        # Of their own: credits that wait for a slow disk must not hold up what keys are.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="keys")

    async def start(self) -> None:
        """Look at the stored keys, and go on doing so; a database that is gone is tried again."""
        if self.is_open:
            return
        self._running = asyncio.create_task(self._run())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._tried.wait(), _OPEN_SECONDS)
        if not self._ring and not any(map(_is_active, self._stored.values())):
            logger.warning(
                "No API key is configured, so every request will be answered with 401. Make one "
                "with `inference-server keys create`, or set INFERENCE_API_KEYS, or "
                "INFERENCE_AUTH=off, or use `inference-server serve`, which makes a key for the "
                "run."
            )

    async def stop(self) -> None:
        """Write down what was used."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self.ledger.close()
        await self._rates.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._database is not None:
            await asyncio.to_thread(self._database.close)

    def authenticate(self, candidate: str | None, scope: Scope | None = None) -> Key:
        """Tells whose key this is. May be called in any thread.

        Args:
            candidate: what a request brought.
            scope: what is asked for; None if any key may.

        Raises:
            AuthError: the key is missing or wrong, has expired or was revoked.
            ScopeError: it may not do this.
            StorageError: it may be a stored one, but these were not seen for too long.
        """
        key = ANONYMOUS if self.is_open else self._recognised(candidate)
        if scope is not None and scope not in key.scopes:
            raise ScopeError(
                f"This API key has not the scope `{scope}`, which this needs, but "
                f"{' and '.join(f'`{each}`' for each in SCOPES if each in key.scopes)}. Use "
                "another key, or give it the scope with `inference-server keys set`."
            )
        return key

    def _recognised(self, candidate: str | None) -> Key:
        if not candidate:
            raise AuthError(f"The API key is missing. {_HOW_TO_SEND}")
        if key := self._ring.find(candidate):
            return key
        wrong = AuthError(f"The API key is wrong. {_HOW_TO_SEND}")
        key_id = id_of(candidate)
        if key_id is None:
            raise wrong
        if time.monotonic() - self._seen > self._settings.key_grace + _POLL_SECONDS:
            raise StorageError(
                "This API key cannot be checked now, as the keys' database cannot be used: try "
                "again. The server's log says why."
            )
        secret = self._stored.get(key_id)
        if secret is None or not secret.is_of(candidate):
            raise wrong
        state = secret.stored.state
        if state == "revoked":
            raise AuthError("The API key was revoked. Ask for a new one.")
        if state == "expired":
            raise AuthError("The API key has expired. Ask for a new one.")
        return secret.key

    async def admit(self, key: Key) -> None:
        """Count a request for work.

        Raises:
            RateError: the key asks more often than it may.
        """
        await self._rates.count(key.id, key.rates)

    def bill(self, key: Key, work: Iterable[Work]) -> Charge | None:
        """What a key has to pay for work; None where nothing is counted."""
        if self.is_open:
            return None
        return Charge(key.id, sum(self._costs[each] for each in work), day_of())

    async def _run(self) -> None:
        store = await self._open()
        self.ledger.store = store
        failing = False
        while True:
            try:
                await self._look(store)
            except SQLAlchemyError as error:
                if not failing:
                    logger.error(
                        "The keys' database cannot be used: %s. Stored keys go on working for "
                        "%g s, those that need credits get 503",
                        in_short(error),
                        self._settings.key_grace,
                    )
                failing = True
            except Exception:
                logger.exception("The stored keys cannot be read")
            else:
                if failing:
                    logger.info("The keys' database can be used again")
                failing = False
                self._tried.set()
                await self.ledger.flush()
            await asyncio.sleep(_POLL_SECONDS)

    async def _look(self, store: KeyRepository) -> None:
        """See whether keys were changed."""
        begin = time.monotonic()
        loop = asyncio.get_running_loop()
        change, found = await loop.run_in_executor(self._threads, store.secrets, self._change)
        if found is not None:
            if found or self._stored:
                usable = sum(map(_is_active, found.values()))
                logger.info("%d API keys of the database may be used", usable)
            self._change, self._stored = change, found
        self._seen = begin

    async def _open(self) -> KeyRepository:
        """Open the database, however often that takes."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        told = ""
        while True:
            try:
                self._database = await loop.run_in_executor(
                    self._threads, Database, Path(settings.data_dir), settings.database_url
                )
                return KeyRepository(self._database)
            except (SQLAlchemyError, OSError, RuntimeError) as error:
                why = in_short(error) if isinstance(error, SQLAlchemyError) else str(error)
                if why != told:
                    logger.error("Stored keys cannot be used, as their database cannot: %s", why)
                told = why
            self._tried.set()
            await asyncio.sleep(_OPEN_PAUSE)


def _is_active(secret: Secret) -> bool:
    return secret.stored.state == "active"
