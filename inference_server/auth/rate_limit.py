"""How often a key may ask for work: windows that move with time, in memory or in Redis."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence

from limits import RateLimitItem, parse_many
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter as SharedLimiter
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from redis.exceptions import RedisError

from inference_server.errors import RateError

logger = logging.getLogger(__name__)

_UNITS = {"s": "second", "sec": "second", "m": "minute", "min": "minute", "h": "hour", "d": "day"}
_SHORT = re.compile(r"(?<![a-z])(s|sec|m|min|h|d)(?![a-z])", re.IGNORECASE)
_MOST, _MOST_RATES, _LONGEST = 100_000, 4, 366 * 86400
"""Each request of a window is remembered until the window has passed it."""

_REDIS_SECONDS, _REDIS_PAUSE = 1.0, 5.0
"""Seconds to wait for Redis, and to do without it after it failed."""


def parse_rate(text: str) -> tuple[RateLimitItem, ...]:
    """Reads a rate such as `10/s`, `100/minute` or `10/s; 5000/day`.

    Raises:
        ValueError: it is none, or more than is kept in memory.
    """
    try:
        rates = tuple(parse_many(_SHORT.sub(lambda unit: _UNITS[unit[0].lower()], text)))
    except ValueError:
        raise ValueError(
            f"{text!r} is no rate: write it like 10/s, 100/minute or 10/s; 5000/day"
        ) from None
    if len(rates) > _MOST_RATES:
        raise ValueError(f"at most {_MOST_RATES} rates hold for a key")
    for rate in rates:
        if not 1 <= rate.amount <= _MOST:
            raise ValueError(f"a rate is of 1 to {_MOST} requests; credits count more")
        if rate.get_expiry() > _LONGEST:
            raise ValueError("a rate is of a year at most")
    return rates


class Rates:
    """Counts the requests of keys.

    Args:
        redis_url: where servers count together; empty counts in this process's memory. While Redis
            does not answer, each server counts for itself.
    """

    def __init__(self, redis_url: str = "") -> None:
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._redis: RedisStorage | None = None
        self._without_until = 0.0
        if redis_url:
            self._redis = RedisStorage(
                f"async+{redis_url}",
                implementation="redispy",
                key_prefix="inference-rates",
                socket_timeout=_REDIS_SECONDS,
                socket_connect_timeout=_REDIS_SECONDS,
            )
            self._shared = SharedLimiter(self._redis)

    async def count(self, key_id: str, rates: Sequence[RateLimitItem]) -> None:
        """Count a request of a key.

        Raises:
            RateError: the key has asked too often; nothing is counted then.
        """
        if not rates:
            return
        if self._redis is not None and time.monotonic() >= self._without_until:
            try:
                return await self._count_shared(key_id, rates)
            except (RedisError, OSError) as error:
                self._without_until = time.monotonic() + _REDIS_PAUSE
                logger.error(
                    "Redis does not answer (%s): rates are counted by each server for itself",
                    type(error).__name__,
                )
        for rate in rates:
            if not self._own.test(rate, key_id):
                raise _refusal(rate, self._own.get_window_stats(rate, key_id).reset_time)
        for rate in rates:
            self._own.hit(rate, key_id)

    async def _count_shared(self, key_id: str, rates: Sequence[RateLimitItem]) -> None:
        for rate in rates[1:]:
            if not await self._shared.test(rate, key_id):
                raise await self._shared_refusal(rate, key_id)
        for rate in rates:
            # Another server may have counted since: only this one decides.
            if not await self._shared.hit(rate, key_id):
                raise await self._shared_refusal(rate, key_id)

    async def _shared_refusal(self, rate: RateLimitItem, key_id: str) -> RateError:
        stats = await self._shared.get_window_stats(rate, key_id)
        return _refusal(rate, stats.reset_time)

    async def close(self) -> None:
        """Close the connections."""
        if self._redis is not None:
            await self._redis.bridge.get_connection().aclose()  # type: ignore[attr-defined]


def _refusal(rate: RateLimitItem, reset_time: float) -> RateError:
    return RateError(
        f"This API key may ask {rate}: try again when Retry-After says.",
        reset_time - time.time(),
    )
