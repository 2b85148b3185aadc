"""Admission: a bound, an end, and clients that leave."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect

from inference_server.api.middleware.admission import Admission
from inference_server.errors import CapacityError, StoppingError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Visitor:
    """A request whose work ends, and whose client leaves, when it is told to."""

    def __init__(self, admission: Admission) -> None:
        self.finish, self.leave = asyncio.Event(), asyncio.Event()
        self.cancelled = False
        self.task = asyncio.create_task(self._visit(admission))

    async def _work(self) -> str:
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return "answer"

    async def _disconnected(self) -> None:
        await self.leave.wait()

    async def _visit(self, admission: Admission) -> str:
        with admission.enter() as visit:
            visit.begin()
            return await visit.run(self._work(), self._disconnected())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_as_many_as_there_is_room_for() -> None:
    admission = Admission(2)
    visitors = [Visitor(admission) for _ in range(3)]
    await turns()
    assert len(admission) == 2
    with pytest.raises(CapacityError, match="INFERENCE_MAX_REQUESTS") as caught:
        await asyncio.wait_for(visitors[2].task, 60)
    assert int(caught.value.headers["retry-after"]) >= 1
    visitors[0].finish.set()
    assert await visitors[0].task == "answer"
    late = Visitor(admission)
    await turns()
    for visitor in (visitors[1], late):
        visitor.finish.set()
        assert await visitor.task == "answer"
    assert len(admission) == 0


async def test_who_has_not_sent_everything_takes_no_place() -> None:
    admission = Admission(1)
    with admission.enter() as slow, admission.enter() as quick:
        assert (len(admission), admission.working) == (2, 0)
        quick.begin()
        quick.begin()
        assert admission.working == 1
        with pytest.raises(CapacityError):
            slow.begin()
    assert (len(admission), admission.working) == (0, 0)


async def test_who_leaves_cancels_the_work() -> None:
    admission = Admission(1)
    visitor = Visitor(admission)
    await turns()
    visitor.leave.set()
    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(visitor.task, 60)
    assert visitor.cancelled
    assert len(admission) == 0


async def test_a_deadline_is_no_disconnected() -> None:
    admission = Admission(1)
    visitor = Visitor(admission)
    await turns()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(visitor.task, 0.01)
    assert visitor.cancelled
    assert len(admission) == 0


async def test_the_end_waits_for_those_inside_and_lets_nobody_in() -> None:
    admission = Admission(9)
    await asyncio.wait_for(admission.idle(), 60)
    visitor = Visitor(admission)
    await turns()
    admission.leave()
    assert admission.leaving
    second = Visitor(admission)
    await turns()
    assert len(admission) == 2, "about to stop is not stopped"
    admission.close()
    with pytest.raises(StoppingError) as caught:
        await asyncio.wait_for(Visitor(admission).task, 60)
    assert caught.value.status == 503
    assert int(caught.value.headers["retry-after"]) >= 1
    idle = asyncio.create_task(admission.idle())
    for each in (visitor, second):
        await turns()
        assert not idle.done()
        each.finish.set()
        assert await each.task == "answer"
    await asyncio.wait_for(idle, 60)


async def test_those_who_are_dropped_are_told_why() -> None:
    admission = Admission(9)
    visitors = [Visitor(admission) for _ in range(3)]
    await turns()
    admission.close()
    admission.drop()
    for visitor in visitors:
        with pytest.raises(StoppingError):
            await asyncio.wait_for(visitor.task, 60)
        assert visitor.cancelled
    await asyncio.wait_for(admission.idle(), 60)
