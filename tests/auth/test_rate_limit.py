"""Rate limits: parsed, and counted in memory and in a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_server.auth import parse_rate
from inference_server.auth.rate_limit import MovingWindows, RateLimiter
from inference_server.errors import RateError
from tests.auth.redis_server import Redis

pytestmark = pytest.mark.anyio


PATIENT = 60.0
"""Seconds to wait for Redis: a busy machine must not look like an outage."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    running = Redis(tmp_path)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        ("10/s", [(10, 1)]),
        ("10/S", [(10, 1)]),
        ("10 per second", [(10, 1)]),
        ("5/2m", [(5, 120)]),
        ("100/min; 5000/d", [(100, 60), (5000, 86400)]),
        ("7/hour", [(7, 3600)]),
        ("7/3h,9/days", [(7, 10800), (9, 86400)]),
    ],
)
def test_a_rate(text: str, windows: list[tuple[int, int]]) -> None:
    assert [(rate.amount, rate.get_expiry()) for rate in parse_rate(text)] == windows


@pytest.mark.parametrize(
    "text", ["", "10", "/s", "ten/s", "10/fortnight", "0/s", "-1/s", "1/99y", "100001/d", "1.5/s"]
)
def test_no_rate(text: str) -> None:
    with pytest.raises(ValueError):
        parse_rate(text)


async def refused(rates: RateLimiter, key: str, rate: str) -> RateError:
    with pytest.raises(RateError) as caught:
        await rates.count(key, parse_rate(rate))
    return caught.value


async def check(rates: RateLimiter) -> None:
    """Three requests per hour pass, per key; refused requests are not counted.

    Windows are hours, so that the pace of the machine does not matter.
    """
    for _ in range(3):
        await rates.count("one", parse_rate("3/h"))
    error = await refused(rates, "one", "3/h")
    assert error.status == 429
    assert error.reason == "rate"
    assert "3 per 1 hour" in error.message
    assert 1 <= int(error.headers["retry-after"]) <= 3600
    await rates.count("two", parse_rate("3/h"))
    # If one of two rates refuses a request, the other does not count it.
    both = "1/h; 2/d"
    await rates.count("three", parse_rate(both))
    for _ in range(5):
        assert "1 per 1 hour" in (await refused(rates, "three", both)).message
    await rates.count("three", parse_rate("2/d"))
    assert "2 per 1 day" in (await refused(rates, "three", "2/d")).message


async def test_in_memory() -> None:
    await check(RateLimiter())


async def test_no_rate_refuses_nothing() -> None:
    rates = RateLimiter()
    for _ in range(1000):
        await rates.count("free", ())


async def test_a_window_moves_on() -> None:
    passed = 0.0
    rates = RateLimiter(clock=lambda: passed)
    for _ in range(2):
        await rates.count("key", parse_rate("2/h"))
    error = await refused(rates, "key", "2/h")
    assert error.retry_after == 3600
    passed = error.retry_after - 600
    await refused(rates, "key", "2/h")
    passed = error.retry_after + 1
    await rates.count("key", parse_rate("2/h"))


async def test_a_clock_that_is_set_back_locks_no_key_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that is set forward let a key have more."""
    passed = 0.0
    rates = RateLimiter(clock=lambda: passed)
    for _ in range(5):
        await rates.count("key", parse_rate("5/10s"))
    now = time.time()
    for jump in (-3600, 86400):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda jump=jump: now + jump)
            assert (await refused(rates, "key", "5/10s")).retry_after <= 10
    passed = 10
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    await rates.count("key", parse_rate("5/10s"))


async def test_windows_that_are_empty_are_forgotten() -> None:
    passed = 0.0
    windows = MovingWindows(lambda: passed)
    (rate,) = parse_rate("5/10s")
    for number in range(100):
        windows.hit(f"key{number}", rate)
    passed = 61
    windows.hit("key", rate)
    assert list(windows._times) == [("key", rate)]


async def test_servers_share_rates_in_redis(redis: Redis) -> None:
    first, second = RateLimiter(redis.url, PATIENT), RateLimiter(redis.url, PATIENT)
    await check(first)
    await refused(second, "one", "3/h")
    # Concurrent requests through two servers: exactly as many pass as the rate allows.
    outcomes = await asyncio.gather(
        *(rates.count("many", parse_rate("5/h")) for rates in (first, second) for _ in range(10)),
        return_exceptions=True,
    )
    assert sum(outcome is None for outcome in outcomes) == 5
    assert all(isinstance(o, RateError) for o in outcomes if o is not None)
    await first.close()
    await second.close()


async def test_a_clock_that_is_set_back_locks_no_key_out_of_redis_for_long(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys' requests are forgotten by the clock of Redis, and `Retry-After` says so."""
    rates = RateLimiter(redis.url, PATIENT)
    for _ in range(3):
        await rates.count("key", parse_rate("3/h"))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86400)
    assert 3500 < (await refused(rates, "key", "3/h")).retry_after <= 3600
    # Redis itself forgets them: the library sets the period as the time to live.
    assert rates._redis is not None
    (name,) = await rates._redis.bridge.get_connection().keys("*")  # type: ignore[attr-defined]
    left = await rates._redis.bridge.get_connection().ttl(name)  # type: ignore[attr-defined]
    assert 3000 < left <= 3600
    await rates.close()


async def test_without_redis_each_server_counts_for_itself(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    rates = RateLimiter(redis.url, PATIENT, redis_pause=5.0, clock=lambda: now)
    await rates.count("before", parse_rate("1/h"))
    redis.stop()
    await check(rates)
    assert "Redis is unavailable" in caplog.text
    redis.start()
    other = RateLimiter(redis.url, PATIENT)
    now = 4.9
    await rates.count("paused", parse_rate("1/h"))
    await other.count("paused", parse_rate("1/h"))
    now = 5.0
    await rates.count("again", parse_rate("1/h"))
    await refused(other, "again", "1/h")
    await rates.close()
    await other.close()


async def test_the_redis_password_is_not_logged(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """A Redis that refuses the server's login counts as unavailable."""
    rates = RateLimiter(redis.url.replace("redis://", "redis://nobody:s3cret@"))
    await check(rates)
    await rates.close()
    assert "Redis is unavailable" in caplog.text
    assert "s3cret" not in caplog.text
