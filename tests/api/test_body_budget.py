"""The minimum rate of request bodies, on a simulated clock."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import pytest

from inference_server.api.middleware.body_budget import BodyBudget, BodyPace
from inference_server.errors import CapacityError, ImageTooLargeError, SlowBodyError

KiB, MiB = 1 << 10, 1 << 20
PACE = BodyPace(timeout=100, min_rate=8 * KiB, window=10)


class Loop(asyncio.SelectorEventLoop):
    """An event loop that skips idle time."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        self._loop.now += timeout or 0.0
        return super().select(0)


def received(
    steps: Iterable[tuple[float, int]],
    budget: BodyBudget | None = None,
    timeout: float | None = None,
) -> int:
    """Return the received bytes of a body that is sent in (pause, size) steps."""
    budget = budget or BodyBudget(100, 1, PACE, "ROOM")

    async def stream() -> AsyncGenerator[bytes, None]:
        for pause, size in steps:
            await asyncio.sleep(pause)
            yield bytes(size)

    async def receive() -> int:
        over = ImageTooLargeError("too large")
        opened = budget.reserve_for(stream(), 50 * MiB, over, has_key=True, timeout=timeout)
        async with opened as reservation:
            return sum([len(chunk) async for chunk in reservation.chunks()])

    loop = Loop()
    try:
        return loop.run_until_complete(receive())
    finally:
        loop.close()
        assert budget.nbytes == 0


def test_a_body_at_the_rate_arrives() -> None:
    assert received([(0.5, 5 * KiB)] * 100) == 500 * KiB
    assert received([(9, 79 * KiB), (0.5, 2 * KiB), (9.4, 80 * KiB)]) == 161 * KiB


def test_a_small_body_may_take_a_window() -> None:
    assert received([(2, 100)] * 4) == 400
    with pytest.raises(SlowBodyError, match="INFERENCE_MIN_RATE_KB"):
        received([(2, 100)] * 6)


@pytest.mark.parametrize(
    "steps",
    [
        [(0, MiB), (11, 1)],
        [(0.5, 3 * KiB)] * 100,
        [(0, MiB)] * 8 + [(1, 1)] * 30,
    ],
    ids=["stalls", "slow", "trickles"],
)
def test_a_body_below_the_rate_is_refused(steps: list[tuple[float, int]]) -> None:
    with pytest.raises(SlowBodyError, match="slower than 8 KiB/s, measured over 10 seconds"):
        received(steps)


def test_the_whole_body_has_a_deadline() -> None:
    assert received([(1, 100 * KiB)] * 99)
    with pytest.raises(SlowBodyError, match="INFERENCE_BODY_TIMEOUT"):
        received([(1, 100 * KiB)] * 101)


def test_the_share_of_requests_without_a_key() -> None:
    budget = BodyBudget(8, 0.25, PACE, "ROOM")
    budget.reserve(2 * MiB, has_key=False)
    with pytest.raises(CapacityError, match="INFERENCE_KEYLESS_BODY_PERCENT") as caught:
        budget.reserve(1, has_key=False)
    assert caught.value.full == "keyless_bodies"
    budget.reserve(6 * MiB, has_key=True)
    with pytest.raises(CapacityError, match="ROOM"):
        budget.reserve(1, has_key=True)


def test_a_valid_key_ends_the_share() -> None:
    budget = BodyBudget(8, 0.25, PACE, "ROOM")

    async def stream() -> AsyncGenerator[bytes, None]:
        for _ in range(4):
            yield bytes(MiB)

    async def receive() -> None:
        over = ImageTooLargeError("too large")
        opened = budget.reserve_for(stream(), 50 * MiB, over, has_key=False)
        async with opened as reservation:
            async for _ in reservation.chunks():
                reservation.show_key()
                assert budget.keyless == 0
            assert budget.nbytes == 4 * MiB

    asyncio.run(receive())
    assert (budget.nbytes, budget.keyless) == (0, 0)


def test_the_share_of_a_tenant() -> None:
    budget = BodyBudget(8, 0.25, PACE, "ROOM", 3, "SHARE")
    budget.reserve(3 * MiB, has_key=True, tenant="a")
    with pytest.raises(CapacityError, match="SHARE") as caught:
        budget.reserve(1, has_key=True, tenant="a")
    assert caught.value.full == "tenant_bodies"
    budget.reserve(3 * MiB, has_key=True, tenant="b")
    budget.share(-1, "a")
    budget.reserve(1, has_key=True, tenant="a")
    with pytest.raises(CapacityError, match="SHARE"):
        budget.reserve(1, has_key=True, tenant="a")
    assert budget.nbytes == 6 * MiB + 1


@pytest.mark.parametrize("known", [True, False])
def test_a_body_counts_in_the_share_of_its_tenant(known: bool) -> None:
    """Whether its key is known before it or found in it."""
    budget = BodyBudget(20, 1, PACE, "ROOM", 3, "SHARE")

    async def stream() -> AsyncGenerator[bytes, None]:
        for _ in range(4):
            yield bytes(MiB)

    async def receive() -> None:
        over = ImageTooLargeError("too large")
        tenant = "a" if known else None
        opened = budget.reserve_for(stream(), 50 * MiB, over, has_key=known, tenant=tenant)
        async with opened as reservation:
            async for _ in reservation.chunks():
                if reservation.nbytes == 2 * MiB:
                    reservation.show_key("a")

    for _ in range(2):  # what was taken is given back
        with pytest.raises(CapacityError, match="SHARE"):
            asyncio.run(receive())
        assert budget.nbytes == budget.keyless == 0
    budget.reserve(3 * MiB, has_key=True, tenant="a")


def test_a_body_may_have_more_time() -> None:
    assert received([(1, 100 * KiB)] * 101, timeout=200)
