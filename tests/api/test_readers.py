"""Clients that read their responses slowly, or not at all."""

from __future__ import annotations

import asyncio
import heapq
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, cast

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from inference_server.api.lifecycle import ServerContext
from inference_server.api.protocol import server_config
from inference_server.api.readers import MeteredTransport, Readers
from inference_server.api.server import Server
from tests.api.serving import TIMEOUT, settings, until

KiB, MiB = 1 << 10, 1 << 20
SIZE = 64 * MiB
"""More than the buffers of both sockets hold."""

WINDOW = 10.0


class Clock:
    """The time and the timers of an event loop, moved by a test."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, int, Callable[[], None], asyncio.TimerHandle]] = []
        self._order = count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, work: Callable[[], None]) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self.now + delay, work, (), cast("Any", self))
        heapq.heappush(self.timers, (self.now + delay, next(self._order), work, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by the handle."""

    def get_debug(self) -> bool:
        return False

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers and self.timers[0][0] <= end:
            self.now, _, work, handle = heapq.heappop(self.timers)
            if not handle.cancelled():
                work()
        self.now = end


class Pipe:
    """A transport whose client reads what a test says."""

    def __init__(self) -> None:
        self.buffered = 0
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.buffered += len(data)

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def abort(self) -> None:
        self.aborted = True

    def read(self, size: int) -> None:
        self.buffered = max(0, self.buffered - size)


class Hall:
    """Connections of one server, without a server: 8 KiB/s over 10 s, 1 MiB in all."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.readers = Readers(
            settings(min_rate_kb=8, min_rate_window=WINDOW, response_memory_mb=1)
        )

    def enter(self) -> tuple[Pipe, MeteredTransport]:
        pipe, loop = Pipe(), cast("Any", self.clock)
        return pipe, MeteredTransport(cast("Any", pipe), self.readers, loop)


class TestRate:
    def test_who_reads_nothing_is_disconnected(self) -> None:
        hall = Hall()
        for size in (10, 500 * KiB):
            pipe, transport = hall.enter()
            transport.write(bytes(size))
            hall.clock.advance(WINDOW - 1)
            assert not pipe.aborted
            hall.clock.advance(1)
            assert pipe.aborted

    @pytest.mark.parametrize(("rate", "stays"), [(8.1, True), (7.9, False)])
    def test_who_reads_at_the_rate_stays(self, rate: float, stays: bool) -> None:
        hall = Hall()
        pipe, transport = hall.enter()
        transport.write(bytes(900 * KiB))
        while pipe.buffered and not pipe.aborted:
            pipe.read(round(rate * KiB))
            hall.clock.advance(1)
        assert pipe.aborted is not stays
        hall.clock.advance(3 * WINDOW)
        assert pipe.aborted is not stays

    def test_the_end_of_a_response_may_be_less_than_the_rate_asks_for(self) -> None:
        hall = Hall()
        pipe, transport = hall.enter()
        transport.write(bytes(10 * KiB))
        hall.clock.advance(WINDOW - 1)
        pipe.read(10 * KiB)
        hall.clock.advance(1)
        assert not pipe.aborted

    def test_a_response_late_in_a_window_has_a_window_of_its_own(self) -> None:
        """On a kept connection one response follows the other, each read at once."""
        hall = Hall()
        pipe, transport = hall.enter()
        for _ in range(5):
            transport.write(bytes(KiB))
            hall.clock.advance(0.1)
            pipe.read(KiB)
            hall.clock.advance(WINDOW - 0.2)
            transport.write(bytes(KiB))
            hall.clock.advance(0.1)
            assert not pipe.aborted
            pipe.read(KiB)
        transport.write(bytes(KiB))
        hall.clock.advance(2 * WINDOW)
        assert pipe.aborted

    def test_when_the_server_stops_the_window_is_shorter(self) -> None:
        hall = Hall()
        (deaf, first), (steady, second), (later, third) = (hall.enter() for _ in range(3))
        first.write(bytes(500 * KiB))
        second.write(bytes(500 * KiB))
        for transport in (first, second, third):
            transport.hurry(2)
        for _ in range(10):
            steady.read(9 * KiB)
            for transport in (first, second, third):
                transport.hurry(2)  # once more changes nothing
            hall.clock.advance(1)
        assert deaf.aborted
        assert not steady.aborted
        third.write(bytes(KiB))
        hall.clock.advance(2)
        assert later.aborted

    def test_a_lost_connection_is_forgotten(self) -> None:
        hall = Hall()
        pipe, transport = hall.enter()
        transport.write(bytes(KiB))
        transport.stop()
        hall.clock.advance(2 * WINDOW)
        assert not pipe.aborted
        assert not hall.readers._reading


class TestMemory:
    def test_the_slowest_readers_make_room(self) -> None:
        hall = Hall()
        (deaf, first), (steady, second), (new, third) = (hall.enter() for _ in range(3))
        first.write(bytes(400 * KiB))
        second.write(bytes(600 * KiB))
        hall.clock.advance(5)
        steady.read(300 * KiB)
        third.write(bytes(200 * KiB))
        assert (deaf.aborted, steady.aborted, new.aborted) == (False, False, False)
        third.write(bytes(200 * KiB))
        assert (deaf.aborted, steady.aborted, new.aborted) == (True, False, False)

    def test_a_single_response_may_be_larger(self) -> None:
        hall = Hall()
        pipe, transport = hall.enter()
        transport.write(bytes(3 * MiB))
        assert not pipe.aborted


async def in_one_piece(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-length", b"%d" % SIZE)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(SIZE)})


async def in_pieces(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(64):
        await send({"type": "http.response.body", "body": bytes(MiB), "more_body": True})
    await send({"type": "http.response.body"})


class NoWork:
    """What a server drains: nothing."""

    def __init__(self) -> None:
        self.settings = settings(shutdown_timeout=3600)

    async def drain(self, hurry: asyncio.Event, delay: float) -> None:
        """Ends at once."""


@contextmanager
def running(app: ASGIApp, **changes: Any) -> Iterator[tuple[Server, int, threading.Thread]]:
    """A server of an application: (the server, its port, its thread)."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = server_config(
        app, settings(**changes), log_config=None, lifespan="off", timeout_graceful_shutdown=3600
    )
    server = Server(config, lambda: cast("ServerContext", NoWork()))
    thread = threading.Thread(
        target=uvicorn.Server.run, args=(server, [listener]), daemon=True, name="readers"
    )
    thread.start()
    try:
        until(lambda: server.started)
        yield server, listener.getsockname()[1], thread
    finally:
        server.force_exit = server.should_exit = True
        thread.join(TIMEOUT)
        listener.close()
    assert not thread.is_alive()


def deaf_client(port: int, *headers: str) -> socket.socket:
    """Asks, and does not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(TIMEOUT)
    client.connect(("127.0.0.1", port))
    client.sendall("\r\n".join(["GET / HTTP/1.1", "host: x", *headers, "", ""]).encode())
    return client


@pytest.mark.parametrize("app", [in_one_piece, in_pieces])
@pytest.mark.parametrize("headers", [(), ("connection: close",)], ids=["kept", "closed"])
def test_a_connection_that_nobody_reads_is_closed(app: ASGIApp, headers: tuple[str, ...]) -> None:
    with running(app, min_rate_window=0.2, header_timeout=3600) as (server, port, _):
        state = server.server_state
        with deaf_client(port, *headers):
            until(lambda: state.total_requests or state.tasks)
            until(lambda: not state.connections and not state.tasks, 30)


@pytest.mark.parametrize("app", [in_one_piece, in_pieces])
@pytest.mark.parametrize("headers", [(), ("connection: close",)], ids=["kept", "closed"])
def test_a_stop_does_not_wait_for_who_does_not_read(app: ASGIApp, headers: tuple[str, ...]) -> None:
    with (
        running(app, min_rate_window=3600, keep_alive_timeout=3600) as (server, port, thread),
        deaf_client(port, *headers),
    ):
        state = server.server_state
        until(lambda: state.total_requests or state.tasks)
        server.handle_exit(signal.SIGTERM, None)
        thread.join(30)
        assert not thread.is_alive()


def test_who_reads_gets_everything_also_at_the_end() -> None:
    with running(in_one_piece) as (server, port, thread), ExitStack() as stack:
        client = stack.enter_context(deaf_client(port, "connection: close"))
        until(lambda: server.server_state.total_requests)
        server.handle_exit(signal.SIGTERM, None)
        received = 0
        while piece := client.recv(MiB):
            received += len(piece)
        assert received > SIZE
        thread.join(TIMEOUT)
        assert not thread.is_alive()
