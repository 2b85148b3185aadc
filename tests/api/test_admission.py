"""Admission: the limit on requests, the stop, and clients that disconnect."""

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


class PendingRequest:
    """A request whose work finishes, or whose client disconnects, on an event."""

    def __init__(self, admission: Admission) -> None:
        self.finish, self.disconnect = asyncio.Event(), asyncio.Event()
        self.cancelled = False
        self.task = asyncio.create_task(self._run(admission))

    async def _work(self) -> str:
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return "answer"

    async def _disconnected(self) -> None:
        await self.disconnect.wait()

    async def _run(self, admission: Admission) -> str:
        with admission.enter() as visit:
            visit.begin()
            return await visit.run(self._work(), self._disconnected())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_requests_above_the_limit_are_refused() -> None:
    admission = Admission(2)
    requests = [PendingRequest(admission) for _ in range(3)]
    await turns()
    assert len(admission) == 2
    with pytest.raises(CapacityError, match="INFERENCE_MAX_REQUESTS") as caught:
        await asyncio.wait_for(requests[2].task, 60)
    assert int(caught.value.headers["retry-after"]) >= 1
    requests[0].finish.set()
    assert await requests[0].task == "answer"
    late = PendingRequest(admission)
    await turns()
    for request in (requests[1], late):
        request.finish.set()
        assert await request.task == "answer"
    assert len(admission) == 0


async def test_a_request_counts_once_it_has_arrived() -> None:
    admission = Admission(1)
    with admission.enter() as slow, admission.enter() as quick:
        assert (len(admission), admission.working) == (2, 0)
        quick.begin()
        quick.begin()
        assert admission.working == 1
        with pytest.raises(CapacityError):
            slow.begin()
    assert (len(admission), admission.working) == (0, 0)


async def test_a_disconnect_cancels_the_work() -> None:
    admission = Admission(1)
    request = PendingRequest(admission)
    await turns()
    request.disconnect.set()
    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(request.task, 60)
    assert request.cancelled
    assert len(admission) == 0


async def test_a_deadline_cancels_the_work() -> None:
    admission = Admission(1)
    request = PendingRequest(admission)
    await turns()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(request.task, 0.01)
    assert request.cancelled
    assert len(admission) == 0


async def test_a_stop_waits_for_requests_and_refuses_new_ones() -> None:
    admission = Admission(9)
    await asyncio.wait_for(admission.idle(), 60)
    request = PendingRequest(admission)
    await turns()
    admission.leave()
    assert admission.leaving
    second = PendingRequest(admission)
    await turns()
    assert len(admission) == 2, "requests are admitted until the stop"
    admission.close()
    with pytest.raises(StoppingError) as caught:
        await asyncio.wait_for(PendingRequest(admission).task, 60)
    assert caught.value.status == 503
    assert int(caught.value.headers["retry-after"]) >= 1
    idle = asyncio.create_task(admission.idle())
    for each in (request, second):
        await turns()
        assert not idle.done()
        each.finish.set()
        assert await each.task == "answer"
    await asyncio.wait_for(idle, 60)


async def test_dropped_requests_get_an_error() -> None:
    admission = Admission(9)
    requests = [PendingRequest(admission) for _ in range(3)]
    await turns()
    admission.close()
    admission.drop()
    for request in requests:
        with pytest.raises(StoppingError):
            await asyncio.wait_for(request.task, 60)
        assert request.cancelled
    await asyncio.wait_for(admission.idle(), 60)
