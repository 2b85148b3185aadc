"""Connections between ingresses and replicas under attack, overload and faults."""

from __future__ import annotations

import asyncio
import hmac
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from inference_server.cluster.channel import Channel, ReplicaLostError
from inference_server.cluster.listener import Address, ReplicaListener
from inference_server.cluster.wire import Frame, Kind
from inference_server.errors import ImageTooLargeError

pytestmark = pytest.mark.anyio

MIB = 1 << 20
LARGE = 32 * MIB
"""More bytes than the kernel takes for a connection that is not read."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def answer(method: str, *arguments: Any) -> Any:
    """Answer as the name of the method says."""
    if method == "size":
        return bytes(arguments[0])
    if method == "wait":
        await asyncio.Event().wait()
    if method == "drop":
        raise asyncio.CancelledError
    return arguments


@asynccontextmanager
async def listening(
    handshakes: int = 64, largest: int = 2 * LARGE
) -> AsyncIterator[tuple[ReplicaListener, Address]]:
    listener = ReplicaListener(answer, handshakes, largest)
    address = await listener.start("127.0.0.1")
    try:
        yield listener, address
    finally:
        await listener.drain(0)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def opened(address: Address) -> Streams:
    return await asyncio.open_connection(address.host, address.port)


def proof(address: Address, nonce: bytes, role: bytes = b"ingress") -> bytes:
    return hmac.digest(address.key, role + nonce, "sha256")


async def closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side has closed a connection without another byte."""
    async with asyncio.timeout(5):  # less than a handshake may take
        try:
            return await reader.read() == b""
        except ConnectionResetError:
            return True


async def test_strangers_cannot_use_up_a_replicas_connections() -> None:
    async with listening(handshakes=2) as (listener, address):
        strangers = [await opened(address) for _ in range(4)]
        for reader, _ in strangers[:2]:
            await reader.readexactly(32)
            assert await closed(reader)
        channel = await Channel.connect(address, LARGE)
        assert await channel.ask(1, 0, "echo", 1) == (1,), "a further one is served"
        assert len(listener._unproved) == 1
        await (await Channel.connect(address, LARGE)).ask(1, 0, "echo", 2)
        assert not channel.lost, "connections that have authenticated are not closed"
        for _, writer in strangers:
            writer.close()
        channel.close()


async def test_a_proof_cannot_be_reflected_or_replayed() -> None:
    async with listening() as (_, address):
        reader, writer = await opened(address)
        nonce = await reader.readexactly(32)
        seen = proof(address, nonce)
        writer.write(seen + nonce)
        returned = await reader.readexactly(32)
        assert returned == proof(address, nonce, b"replica")
        writer.close()
        for stolen in (seen, returned):
            reader, writer = await opened(address)
            await reader.readexactly(32)
            writer.write(stolen + bytes(32))
            assert await closed(reader)
            writer.close()


async def test_a_message_over_the_limit_is_not_received() -> None:
    """The header alone closes the connection."""
    async with listening(largest=1000) as (_, address):
        reader, writer = await opened(address)
        nonce = await reader.readexactly(32)
        writer.write(proof(address, nonce) + bytes(32))
        await reader.readexactly(32)
        writer.write(struct.pack("!IQBII", 1001, 0, Kind.ASK, 1, 0))
        assert await closed(reader)
        writer.close()


async def test_messages_that_are_too_large_are_errors_of_their_requests() -> None:
    async with listening(largest=MIB) as (listener, address):
        channel = await Channel.connect(address, MIB)
        for method, argument in (("echo", bytes(MIB)), ("size", MIB)):
            with pytest.raises(ImageTooLargeError, match=str(MIB)) as told:
                await channel.ask(1, 0, method, argument)
            assert told.value.status == 413
        assert await channel.ask(1, 0, "echo", 1) == (1,)
        assert (channel.asking, listener.ongoing) == (0, 0)
        channel.close()


async def test_answers_that_are_not_read_keep_their_places() -> None:
    async with listening() as (listener, address):
        channel = await Channel.connect(address, 2 * LARGE)
        assert channel._transport is not None
        channel._transport.pause_reading()
        asked = [asyncio.create_task(channel.ask(2, 0, "size", LARGE)) for _ in range(2)]
        (connection,) = listener._connections
        await until(lambda: not connection.written.is_set())
        for each in asked:
            each.cancel()
        await asyncio.wait(asked)
        channel.send(Frame(99, Kind.ROOM, 2, 7))
        await until(lambda: connection.waiting == 7)  # it has read the cancellations
        assert listener.ongoing == 2
        assert listener.admit(2) is Kind.BUSY
        channel._transport.resume_reading()
        await until(lambda: not listener.ongoing)
        channel.close()


async def test_cancelled_requests_that_were_not_sent_count() -> None:
    """Otherwise clients that hang up fill an ingress's memory while a replica does not read."""
    async with listening() as (listener, address):
        channel = await Channel.connect(address, 2 * LARGE)
        await until(lambda: listener._connections)
        (connection,) = listener._connections
        assert connection._transport is not None
        connection._transport.pause_reading()
        asked = asyncio.create_task(channel.ask(2, 0, "echo", bytes(LARGE)))
        await until(lambda: not channel.written.is_set())
        asked.cancel()
        await asyncio.wait([asked])
        assert channel.asking == 1
        connection._transport.resume_reading()
        await until(lambda: not channel.asking)
        channel.close()


async def test_a_request_that_a_replica_drops_is_lost_and_not_silent() -> None:
    async with listening() as (_, address):
        channel = await Channel.connect(address, LARGE)
        async with asyncio.timeout(60):
            with pytest.raises(ReplicaLostError):
                await channel.ask(1, 0, "drop")
        assert not channel.lost
        assert await channel.ask(1, 0, "echo", 1) == (1,)
        channel.close()


async def test_a_cancelled_connection_attempt_is_closed() -> None:
    ended = asyncio.Event()
    begun = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.set()
        assert await closed(reader)
        ended.set()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connecting = asyncio.create_task(Channel.connect(Address("127.0.0.1", port, b""), LARGE))
        await begun.wait()
        await asyncio.sleep(0)
        connecting.cancel()
        async with asyncio.timeout(5):
            await ended.wait()


async def test_a_retired_connection_closes_when_its_last_request_is_cancelled() -> None:
    async with listening() as (listener, address):
        channel = await Channel.connect(address, LARGE)
        asked = asyncio.create_task(channel.ask(1, 0, "wait"))
        await until(lambda: listener.ongoing)
        channel.retire()
        assert not channel.lost
        asked.cancel()
        await until(lambda: channel.lost)


def test_an_address_does_not_tell_its_key() -> None:
    assert "secret" not in repr(Address("127.0.0.1", 1, b"secret"))
