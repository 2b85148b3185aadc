"""Requests from an ingress to replicas over their own connections, here all in one process."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from inference_server.cluster.channel import Channel, RemoteError, ReplicaUnreachableError
from inference_server.cluster.dispatch import Dispatcher
from inference_server.cluster.listener import Address, ReplicaListener
from inference_server.cluster.ring import Member, Ring, publish, ring_of
from inference_server.errors import CapacityError, TransientError

pytestmark = pytest.mark.anyio

NAMES = ("a", "b", "c")

LARGEST = 1 << 26
"""Maximum size of a message in bytes."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def ring_with(members: dict[str, Member], spill: int) -> Ring:
    """Return a ring that Ray's own router built."""
    router = ConsistentHashRouter.__new__(ConsistentHashRouter)
    router._num_virtual_nodes, router._num_fallback_replicas = 100, spill
    where = DeploymentID("visual", "test")
    router._deployment_id = where
    router._rebuild_ring(frozenset(ReplicaID(name, where) for name in members))
    owners = [replica.unique_id for replica in router._ring_replicas]
    return Ring(members, router._ring_hashes, owners, spill)


@dataclass
class Replica:
    """A listener whose answers wait until they are released.

    Attributes:
        name: its unique id.
        asked: arguments of the requests that have begun.
        begun: set when a request begins.
        release: answers wait for it.
        cancelled: set when a request is cancelled.
    """

    name: str
    asked: list[Any] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    listener: ReplicaListener = field(init=False)
    address: Address = field(init=False)

    async def start(self) -> None:
        self.listener = ReplicaListener(self._answer, 64, LARGEST)
        self.address = await self.listener.start("127.0.0.1")

    async def _answer(self, method: str, *arguments: Any) -> Any:
        self.asked.append((method, *arguments))
        self.begun.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if method == "drop" and len(self.asked) == 1:
            raise asyncio.CancelledError
        if method == "fail":
            raise ZeroDivisionError
        return self.name, arguments

    def kill(self) -> None:
        """Break all connections and refuse new ones, as a killed process does."""
        assert self.listener._server is not None
        self.listener._server.close()
        for connection in list(self.listener._connections):
            connection.abort()


@dataclass
class Cluster:
    """Replicas, and a dispatcher that calls them.

    Attributes:
        replicas: the replicas by name.
        ring: the ring that the dispatcher sees.
        dispatcher: the dispatcher.
    """

    replicas: dict[str, Replica]
    ring: Ring
    dispatcher: Dispatcher

    def ranked(self, session: str) -> list[Replica]:
        """Return the replicas that may serve a session, its owner first."""
        return [self.replicas[member.name] for member in self.ring.ranked(session)]

    def ask(self, session: str, method: str = "ask", *arguments: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(self.dispatcher.ask(session, method, *arguments))


@asynccontextmanager
async def cluster(
    *, spill: int = 1, limit: int = 1, queue: int = 8, patience: float = 60.0
) -> AsyncIterator[Cluster]:
    replicas = {name: Replica(name) for name in NAMES}
    for replica in replicas.values():
        await replica.start()
    members = {each.name: Member(each.name, each.address, limit) for each in replicas.values()}
    ring = ring_with(members, spill)
    dispatcher = Dispatcher("visual", lambda: ring, queue, patience, LARGEST, retry_pause=0.0)
    try:
        yield Cluster(replicas, ring, dispatcher)
    finally:
        dispatcher.close()
        for replica in replicas.values():
            replica.release.set()
            replica.kill()


async def test_a_call_and_its_result_cross_the_connection() -> None:
    async with cluster() as running:
        owner, _ = running.ranked("s")
        owner.release.set()
        large = bytes(3_000_000)
        assert await running.ask("s", "ask", large, {"x": 1}) == (owner.name, (large, {"x": 1}))
        assert await running.ask("s", "file") == (owner.name, ())
        assert [each[0] for each in owner.asked] == ["ask", "file"]
        owner.begun.clear()
        with pytest.raises(RemoteError, match="ZeroDivisionError"):
            await running.ask("s", "fail")


@pytest.mark.parametrize("spill", [0, 1, 2])
def test_the_ring_ranks_replicas_as_ray_does(spill: int) -> None:
    address = Address("127.0.0.1", 1, b"")
    members = {name: Member(name, address, 1) for name in NAMES}
    ring = ring_with(members, spill)
    router = ConsistentHashRouter.__new__(ConsistentHashRouter)
    router._num_virtual_nodes, router._num_fallback_replicas = 100, spill
    where = DeploymentID("visual", "test")
    router._deployment_id = where
    router._rebuild_ring(frozenset(ReplicaID(name, where) for name in members))
    owners = set()
    for number in range(100):
        session = f"session {number}"
        ranked = [member.name for member in ring.ranked(session)]
        assert ranked == [r.unique_id for r in router._lookup_ranked_replicas(session)]
        owners.add(ranked[0])
        rest = [member.name for member in ring.ranked(session, {ranked[0]})]
        assert ranked[0] not in rest
        assert rest[: len(ranked) - 1] == ranked[1:]
    assert owners == set(NAMES)


def test_replicas_without_an_address_are_called_through_serve() -> None:
    assert Address.of({}) is None
    address = Address("127.0.0.1", 9, b"\1\2")
    assert Address.of(address.published()) == address
    ring = ring_with({"a": Member("a", address, 1)}, 0)
    publish("test", "known", ring)
    assert ring_of("test", "known") is ring
    assert ring_of("test", "other") is None
    publish("test", "known", None)
    assert ring_of("test", "known") is None


async def test_a_busy_owner_spills_and_then_requests_wait_in_order() -> None:
    async with cluster() as running:
        owner, second = running.ranked("s")
        first = running.ask("s", "ask", 1)
        await owner.begun.wait()
        spilled = running.ask("s", "ask", 2)
        await second.begun.wait()
        waiting = [running.ask("s", "ask", number) for number in (3, 4)]
        while running.dispatcher._waiting.get(owner.name, 0) < 2:
            await asyncio.sleep(0)
        owner.begun.clear()
        owner.release.set()
        assert await first == (owner.name, (1,))
        assert [await each for each in waiting] == [(owner.name, (3,)), (owner.name, (4,))]
        second.release.set()
        assert await spilled == (second.name, (2,))
        third = next(each for each in running.replicas.values() if each not in (owner, second))
        assert not third.asked, "no more replicas than INFERENCE_CLUSTER_SPILL allows"


async def test_a_replica_that_answers_late_keeps_its_images() -> None:
    """Ray's own router passes over a replica that does not report its queue within 0.1 s."""
    async with cluster(limit=4) as running:
        owner, second = running.ranked("s")
        asked = [running.ask("s", "ask", number) for number in range(4)]
        while len(owner.asked) < 4:
            await asyncio.sleep(0)
        assert not any(each.done() for each in asked)
        owner.release.set()
        assert {(await each)[0] for each in asked} == {owner.name}
        assert not second.asked


async def test_a_lost_replica_is_retried_once_on_the_next_owner() -> None:
    async with cluster(spill=0) as running:
        (owner,) = running.ranked("s")
        asked = running.ask("s")
        await owner.begun.wait()
        after = running.ring.ranked("s", {owner.name})[0].name
        running.replicas[after].release.set()
        owner.kill()
        assert await asked == (after, ())
        # Until Serve notices the loss, requests do not wait for the dead replica.
        assert await running.ask("s") == (after, ())
        assert len(owner.asked) == 1


async def test_two_lost_replicas_are_an_error() -> None:
    async with cluster(spill=0) as running:
        (owner,) = running.ranked("s")
        asked = running.ask("s")
        await owner.begun.wait()
        after = running.replicas[running.ring.ranked("s", {owner.name})[0].name]
        owner.kill()
        await after.begun.wait()
        after.kill()
        with pytest.raises(TransientError, match="Two replicas of visual were lost") as told:
            await asked
        assert told.value.status == 503
        assert int(told.value.headers["retry-after"]) > 0


async def test_a_dropped_request_is_retried_on_its_replica() -> None:
    """Its connection is fine, so the replica keeps its images."""
    async with cluster() as running:
        owner, second = running.ranked("s")
        owner.release.set()
        asked = running.ask("s", "drop", 1)
        async with asyncio.timeout(60):
            assert await asked == (owner.name, (1,))
        assert (len(owner.asked), len(second.asked)) == (2, 0)


async def test_a_replica_that_stays_unreachable_is_tried_less_often() -> None:
    """An attempt to connect may take seconds, for which the requests of its images wait."""
    async with cluster() as running:
        owner, second = running.ranked("s")
        second.release.set()
        owner.kill()
        dispatcher = running.dispatcher

        def pause() -> float:
            return dispatcher._avoided[owner.name] - asyncio.get_running_loop().time()

        pauses = []
        for _ in range(5):
            dispatcher._avoided.clear()
            assert (await running.ask("s"))[0] == second.name
            pauses.append(pause())
        for seconds, most in zip(pauses, (1, 2, 4, 8, 8), strict=True):
            assert most / 2 < seconds <= most
        dispatcher._avoided.clear()
        replaced = Replica(owner.name)
        await replaced.start()
        replaced.release.set()
        running.replicas[owner.name] = replaced
        running.ring.members[owner.name] = Member(owner.name, replaced.address, 1)
        assert (await running.ask("s"))[0] == owner.name
        replaced.kill()
        while not dispatcher._channels[owner.name].result().lost:
            await asyncio.sleep(0)
        assert (await running.ask("s"))[0] == second.name
        assert pause() <= 1


async def test_a_stopping_replica_finishes_and_takes_no_more() -> None:
    async with cluster(spill=0, limit=4) as running:
        (owner,) = running.ranked("s")
        begun = running.ask("s", "ask", 1)
        await owner.begun.wait()
        draining = asyncio.create_task(owner.listener.drain(60))
        await asyncio.sleep(0)
        after = running.ring.ranked("s", {owner.name})[0].name
        running.replicas[after].release.set()
        assert await running.ask("s", "ask", 2) == (after, (2,))
        assert not draining.done()
        owner.release.set()
        assert await begun == (owner.name, (1,))
        await draining


async def test_the_drain_of_a_replica_is_bounded() -> None:
    async with cluster(spill=0) as running:
        (owner,) = running.ranked("s")
        asked = running.ask("s")
        await owner.begun.wait()
        await owner.listener.drain(0)
        asked.cancel()


async def test_a_cancelled_request_is_cancelled_in_the_replica() -> None:
    async with cluster() as running:
        owner, _ = running.ranked("s")
        asked = running.ask("s")
        await owner.begun.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await owner.cancelled.wait()
        owner.release.set()
        assert (await running.ask("s"))[0] == owner.name, "its place is free again"


async def test_the_work_of_a_lost_ingress_is_cancelled() -> None:
    async with cluster() as running:
        owner, _ = running.ranked("s")
        asked = running.ask("s")
        await owner.begun.wait()
        (connecting,) = running.dispatcher._channels.values()
        connecting.result().abort()
        await owner.cancelled.wait()
        asked.cancel()


async def test_waiting_requests_are_bounded_in_number() -> None:
    async with cluster(spill=0, queue=2) as running:
        (owner,) = running.ranked("s")
        asked = [running.ask("s")]
        await owner.begun.wait()
        asked += [running.ask("s") for _ in range(2)]
        while running.dispatcher._waiting.get(owner.name, 0) < 2:
            await asyncio.sleep(0)
        with pytest.raises(CapacityError, match="Too many requests wait for visual") as told:
            await running.ask("s")
        assert (told.value.status, told.value.full) == (429, "queue")
        owner.release.set()
        assert [await each for each in asked] == [(owner.name, ())] * 3


async def test_waiting_requests_are_bounded_in_time() -> None:
    async with cluster(spill=0, patience=0.0) as running:
        (owner,) = running.ranked("s")
        begun = running.ask("s")
        await owner.begun.wait()
        with pytest.raises(TransientError, match="No visual replica was free within 0 seconds"):
            await running.ask("s")
        owner.release.set()
        assert await begun == (owner.name, ()), "a request that has begun has no such limit"


async def test_waiting_requests_count_for_autoscaling() -> None:
    async with cluster(spill=0) as running:
        (owner,) = running.ranked("s")
        asked = [running.ask("s") for _ in range(3)]
        while owner.listener.load < 3:
            await asyncio.sleep(0)
        assert owner.listener.ongoing == 1
        owner.release.set()
        await asyncio.gather(*asked)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


async def test_nothing_is_unpickled_without_the_key(tmp_path: Path) -> None:
    async with cluster() as running:
        owner, _ = running.ranked("s")
        address = owner.address
        wrong = Address(address.host, address.port, b"not the key")
        with pytest.raises(ReplicaUnreachableError):
            await Channel.connect(wrong, LARGEST)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        assert len(await reader.readexactly(32)) == 32
        payload = pickle.dumps(("ask", (Touch(tmp_path / "touched"),)))
        writer.write(bytes(64) + payload)
        assert await reader.read() == b"", "closed without an answer"
        writer.close()
        assert not owner.asked
        assert not (tmp_path / "touched").exists()


async def test_an_ingress_trusts_only_a_replica_with_the_key() -> None:
    """It unpickles what the replica sends."""

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(32))
        await reader.readexactly(64)
        writer.write(bytes(32))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(pretend, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ReplicaUnreachableError):
            await Channel.connect(Address("127.0.0.1", port, b"key"), LARGEST)
