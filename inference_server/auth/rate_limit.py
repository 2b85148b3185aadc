"""Rate limits per API key: moving windows, in memory or in Redis."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Sequence

from limits import RateLimitItem, parse_many
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter as SharedLimiter
from redis.exceptions import RedisError

from inference_server.errors import RateError

logger = logging.getLogger(__name__)

_UNITS = {"s": "second", "sec": "second", "m": "minute", "min": "minute", "h": "hour", "d": "day"}
_SHORT = re.compile(r"(?<![a-z])(s|sec|m|min|h|d)(?![a-z])", re.IGNORECASE)
_MOST, _MOST_RATES, _LONGEST = 100_000, 4, 366 * 86400
"""Bounds of a rate: a moving window stores one entry per request."""

_SWEEP_SECONDS = 60.0
"""Seconds between two searches for windows that have become empty."""

REDIS_TIMEOUT, REDIS_PAUSE = 1.0, 5.0
"""Seconds to wait for Redis, and to count locally after it failed."""


def parse_rate(text: str) -> tuple[RateLimitItem, ...]:
    """Parse rates such as `10/s`, `100/minute` or `10/s; 5000/day`.

    Args:
        text: rates, separated by semicolons; all of them apply.

    Returns:
        The rates.

    Raises:
        ValueError: the text is not a rate, or a rate is out of bounds.
    """
    try:
        rates = tuple(parse_many(_SHORT.sub(lambda unit: _UNITS[unit[0].lower()], text)))
    except ValueError:
        raise ValueError(
            f"{text!r} is not a rate; write it like 10/s, 100/minute or 10/s; 5000/day"
        ) from None
    if len(rates) > _MOST_RATES:
        raise ValueError(f"a key can have at most {_MOST_RATES} rates, not {len(rates)}")
    for rate in rates:
        if not 1 <= rate.amount <= _MOST:
            raise ValueError(
                f"a rate allows 1 to {_MOST} requests, not {rate.amount}; use credits for more"
            )
        if rate.get_expiry() > _LONGEST:
            raise ValueError("the period of a rate is at most a year")
    return rates


class MovingWindows:
    """Counts requests in this process, by a clock that does not jump when the system's is set.

    The class of the library reads the system clock: after that was set back by an hour, a key that
    had used up 5 requests per 10 seconds would be refused for an hour.

    Args:
        clock: monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: dict[tuple[str, RateLimitItem], deque[float]] = {}
        self._sweep_at = clock() + _SWEEP_SECONDS

    def wait(self, key_id: str, rate: RateLimitItem) -> float:
        """Return the seconds until a request of a key fits into its rate; 0 if it fits now."""
        now = self._clock()
        times = self._times.get((key_id, rate))
        if times is None:
            return 0.0
        _drop_before(times, now - rate.get_expiry())
        return 0.0 if len(times) < rate.amount else times[0] + rate.get_expiry() - now

    def hit(self, key_id: str, rate: RateLimitItem) -> None:
        """Count a request of a key, after `wait` returned 0."""
        now = self._clock()
        self._times.setdefault((key_id, rate), deque()).append(now)
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_SECONDS
            for known in list(self._times):
                _drop_before(self._times[known], now - known[1].get_expiry())
                if not self._times[known]:
                    del self._times[known]


def _drop_before(times: deque[float], begin: float) -> None:
    while times and times[0] <= begin:
        times.popleft()


class RateLimiter:
    """Counts the requests of each key.

    Args:
        redis_url: URL of a Redis that several servers share; empty counts in this process. While
            Redis is unavailable, each server counts for itself.
        redis_timeout: seconds to wait for Redis.
        redis_pause: seconds to count locally after Redis failed.
        clock: returns a monotonic time in seconds, for `redis_pause` and for what is counted in
            this process. Default: `time.monotonic`.
    """

    def __init__(
        self,
        redis_url: str = "",
        redis_timeout: float = REDIS_TIMEOUT,
        redis_pause: float = REDIS_PAUSE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._redis_pause = redis_pause
        self._own = MovingWindows(clock)
        self._redis: RedisStorage | None = None
        self._without_until = 0.0
        if redis_url:
            self._redis = RedisStorage(
                f"async+{redis_url}",
                implementation="redispy",
                key_prefix="inference-rates",
                socket_timeout=redis_timeout,
                socket_connect_timeout=redis_timeout,
            )
            self._shared = SharedLimiter(self._redis)

    async def count(self, key_id: str, rates: Sequence[RateLimitItem]) -> None:
        """Count a request.

        Args:
            key_id: id of the request's key.
            rates: the key's rates.

        Raises:
            RateError: a rate is exceeded; the request is then not counted.
        """
        if not rates:
            return
        if self._redis is not None and self._clock() >= self._without_until:
            try:
                return await self._count_shared(key_id, rates)
            except (RedisError, OSError) as error:
                self._without_until = self._clock() + self._redis_pause
                logger.error(
                    "Redis is unavailable (%s); this server counts rates for itself",
                    type(error).__name__,
                )
        for rate in rates:
            if wait := self._own.wait(key_id, rate):
                raise _refusal(rate, wait)
        for rate in rates:
            self._own.hit(key_id, rate)

    async def _count_shared(self, key_id: str, rates: Sequence[RateLimitItem]) -> None:
        for rate in rates[1:]:
            if not await self._shared.test(rate, key_id):
                raise await self._shared_refusal(rate, key_id)
        for rate in rates:
            # Another server may have counted meanwhile, so only `hit` decides.
            if not await self._shared.hit(rate, key_id):
                raise await self._shared_refusal(rate, key_id)

    async def _shared_refusal(self, rate: RateLimitItem, key_id: str) -> RateError:
        stats = await self._shared.get_window_stats(rate, key_id)
        # No longer than the period, after which Redis forgets the requests in any case: those that
        # were counted before a clock was set back are in the future.
        return _refusal(rate, min(stats.reset_time - time.time(), rate.get_expiry()))

    async def close(self) -> None:
        """Close the connections."""
        if self._redis is not None:
            await self._redis.bridge.get_connection().aclose()  # type: ignore[attr-defined]


def _refusal(rate: RateLimitItem, wait: float) -> RateError:
    return RateError(
        f"This API key exceeded its rate of {rate}; try again after Retry-After seconds.", wait
    )
