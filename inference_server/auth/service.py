"""Authentication, rate limits and billing in a running server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from inference_server.auth.billing import Ledger
from inference_server.auth.keys import ANONYMOUS, Key, KeyRing, id_of
from inference_server.auth.rate_limit import RateLimiter
from inference_server.auth.repository import Charge, KeyRepository, Secret, day_of
from inference_server.database import Database, in_short
from inference_server.errors import AuthError, ScopeError, StorageError
from inference_server.settings import Settings
from inference_server.settings.types import SCOPES, Scope
from inference_server.supervisor import Backoff, Supervisor

logger = logging.getLogger(__name__)

Work = Literal["concept", "visual", "automatic", "embed"]
"""A unit of work, which has a cost in credits."""

_HOW_TO_SEND = (
    "Send it in one of six ways: query parameter `api_key`, field `api_key` of a JSON body or, "
    "before the file, of a form, header `Authorization: Bearer KEY`, header `x-api-key: KEY`, "
    "HTTP Basic with the key as password, or header `Token: KEY`."
)


@dataclass(frozen=True, slots=True)
class AuthTiming:
    """Intervals in seconds.

    Attributes:
        poll: how often changed keys are loaded and usage is written, also after a failure.
        open_timeout: how long a start waits for the database before it continues without it.
        open_pause: pause before another attempt to open the database.
    """

    poll: float = 1.0
    open_timeout: float = 5.0
    open_pause: float = 5.0


DEFAULT_TIMING = AuthTiming()


class AuthService:
    """Authenticates keys: those in the settings, and a copy of those in the database.

    Only requests that cost credits wait for the database, and they wait in a thread.

    Args:
        settings: the server's settings.
        timing: intervals; tests shorten them.

    Attributes:
        is_open: whether authentication is off; nothing is then counted or charged.
        ledger: charges credits and records usage.
        supervisor: runs the background tasks that load keys and write usage.
    """

    def __init__(self, settings: Settings, timing: AuthTiming = DEFAULT_TIMING) -> None:
        self._settings = settings
        self._timing = timing
        self.is_open = settings.auth == "off"
        self._ring = KeyRing(settings.api_keys, settings.api_key_scopes)
        self._rates = RateLimiter(settings.redis_url)
        self.ledger = Ledger(settings.usage_days, settings.usage_pending)
        self.supervisor = Supervisor()
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
        self._tried = asyncio.Event()
        # A thread of its own, so that a slow disk that holds up charges does not hold up keys.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="keys")

    async def start(self) -> None:
        """Load the stored keys, and keep them up to date in the background.

        If the database cannot be opened, this returns after a timeout and attempts continue.
        """
        if self.is_open:
            return
        timing = self._timing
        # Apart, so that usage that waits for a lock does not hold up keys.
        pauses = Backoff(timing.poll, timing.open_pause)
        self.supervisor.repeat("keys", lambda _: self._refresh(), timing.poll, pauses)
        self.supervisor.repeat("usage", lambda _: self.ledger.flush(), timing.poll, pauses)
        with suppress(TimeoutError):
            async with asyncio.timeout(timing.open_timeout):
                await self._tried.wait()
        if not self._ring and not any(map(_is_active, self._stored.values())):
            logger.warning(
                "No API key is configured, so every request gets 401. Create one with "
                "`inference-server keys create`, set INFERENCE_API_KEYS or INFERENCE_AUTH=off, or "
                "use `inference-server serve`, which generates a key for the run."
            )

    async def stop(self) -> None:
        """Write the recorded usage, and close the database."""
        await self.supervisor.stop()
        await self.ledger.close()
        await self._rates.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._database is not None:
            await asyncio.to_thread(self._database.close)

    def authenticate(self, candidate: str | None, scope: Scope | None = None) -> Key:
        """Authenticate a key and return its owner, permissions and limits.

        This may be called in any thread.

        Args:
            candidate: the key from the request; None if it has none.
            scope: the required scope; None accepts every valid key.

        Raises:
            AuthError: the key is missing or wrong, has expired or was revoked.
            ScopeError: the key lacks the required scope.
            StorageError: the key may be a stored one, and the database has been unavailable for
                longer than `INFERENCE_KEY_GRACE`.
        """
        key = ANONYMOUS if self.is_open else self._recognised(candidate)
        if scope is not None and scope not in key.scopes:
            raise ScopeError(
                f"This API key lacks the required scope `{scope}`; it has "
                f"{' and '.join(f'`{each}`' for each in SCOPES if each in key.scopes)}. Use "
                "another key, or add the scope with `inference-server keys set`."
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
        if time.monotonic() - self._seen > self._settings.key_grace + self._timing.poll:
            raise StorageError(
                "This API key cannot be checked because the key database is unavailable; try "
                "again. The server's log has the reason."
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
        """Count a segmentation request against the key's rates.

        Raises:
            RateError: a rate is exceeded.
        """
        await self._rates.count(key.id, key.rates)

    def bill(self, key: Key, work: Iterable[Work]) -> Charge | None:
        """Compute the cost of a request's work; return None if authentication is off."""
        if self.is_open:
            return None
        return Charge(key.id, sum(self._costs[each] for each in work), day_of())

    async def _refresh(self) -> None:
        """Open the database if it is not open, and load the stored keys if they have changed."""
        begin = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            if self._database is None:
                self._database = await loop.run_in_executor(
                    self._threads, Database.of, self._settings
                )
            store = self.ledger.store = self.ledger.store or KeyRepository(self._database)
            change, found = await loop.run_in_executor(self._threads, store.secrets, self._change)
        except (SQLAlchemyError, OSError, RuntimeError) as error:
            why = in_short(error) if isinstance(error, SQLAlchemyError) else error
            raise StorageError(
                f"The key database is unavailable: {why}. Stored keys stay valid for "
                f"{self._settings.key_grace:g} s; requests that cost credits get 503."
            ) from error
        finally:
            self._tried.set()
        if found is not None:
            if found or self._stored:
                usable = sum(map(_is_active, found.values()))
                logger.info("%d API keys in the database are active", usable)
            self._change, self._stored = change, found
        self._seen = begin


def _is_active(secret: Secret) -> bool:
    return secret.stored.state == "active"
