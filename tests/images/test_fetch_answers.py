"""Fetching: responses, size limits and deadlines."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.abc
import anyio.lowlevel
import h11
import pytest

from inference_server.errors import CapacityError, ImageTooLargeError
from tests.images.conftest import Answer, answering, fetcher, ok, redirect, refused, serve

pytestmark = pytest.mark.anyio

BODY = b"image" * 100


async def test_secrets_in_a_url_are_not_repeated() -> None:
    async with serve(answering(b"HTTP/1.1 404 Not Found\r\n\r\n")) as server:
        message = await refused(fetcher(), server.url("/a.png?signature=secret#secret"))
    assert f"{server.url('/a.png')} answered with status 404" in message
    assert "secret" not in message


@pytest.mark.parametrize("status", [302, 304, 400, 401, 403, 404, 500, 503])
async def test_other_responses_are_refused(status: int) -> None:
    async with serve(answering(f"HTTP/1.1 {status} Reason\r\n\r\n".encode())) as server:
        message = await refused(fetcher(), server.url())
    assert f"status {status}" in message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n12",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 200_000,
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: other\r\n\r\n",
    ],
)
async def test_broken_responses_are_refused_and_not_retried(content: bytes) -> None:
    async with serve(answering(content)) as server:
        message = await refused(fetcher(), server.url())
    assert "SSH" not in message


async def test_a_compressed_body_is_refused() -> None:
    async with serve(answering(ok(BODY, "Content-Encoding: gzip"))) as server:
        assert "compressed" in await refused(fetcher(), server.url())
    assert b"accept-encoding: identity" in server.requests[0].lower()


async def test_the_byte_limit_is_exact() -> None:
    for content in (ok(BODY), b"HTTP/1.1 200 OK\r\n\r\n" + BODY):
        async with serve(answering(content)) as server:
            assert await fetcher(max_bytes=len(BODY)).fetch(server.url()) == BODY
            message = await refused(
                fetcher(max_bytes=len(BODY) - 1), server.url(), ImageTooLargeError
            )
            assert "INFERENCE_MAX_IMAGE_MB" in message


async def test_an_announced_size_is_refused_before_the_body_comes() -> None:
    async def answer(stream: anyio.abc.ByteStream, path: bytes) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n")
        await stream.receive()  # the client closes without waiting for the body

    async with serve(answer) as server:
        await refused(fetcher(), server.url(), ImageTooLargeError)
        with anyio.fail_after(60):
            await server.closed.wait()


async def test_an_endless_body_is_cut_off_at_the_limit() -> None:
    sent = 0

    async def answer(stream: anyio.abc.ByteStream, path: bytes) -> None:
        nonlocal sent
        await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send(bytes(100_000))
            sent += 100_000

    async with serve(answer) as server:
        await refused(fetcher(max_bytes=1_000_000), server.url(), ImageTooLargeError)
        with anyio.fail_after(60):
            await server.closed.wait()
    assert sent < 20_000_000  # up to the size of the socket buffers


async def _silence(stream: anyio.abc.ByteStream, path: bytes) -> None:
    await stream.receive()


async def _slow_head(stream: anyio.abc.ByteStream, path: bytes) -> None:
    await stream.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await anyio.sleep(0.05)
        await stream.send(b"a: b\r\n")


async def _slow_body(stream: anyio.abc.ByteStream, path: bytes) -> None:
    await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await anyio.sleep(0.05)
        await stream.send(b"a")


async def _slow_hints(stream: anyio.abc.ByteStream, path: bytes) -> None:
    while True:
        await anyio.sleep(0.05)
        await stream.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")


@pytest.mark.parametrize("answer", [_silence, _slow_head, _slow_body, _slow_hints])
async def test_the_deadline_holds_for_the_whole_fetch(answer: Answer) -> None:
    async with serve(answer) as server:
        # On a busy machine the deadline can pass before the request is sent; then repeat.
        while not server.requests:
            server.closed = anyio.Event()
            with anyio.fail_after(60):
                message = await refused(fetcher(timeout=0.3), server.url("/a?b"))
            await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(60):
            await server.closed.wait()
    assert f"{server.url('/a')} did not arrive within 0.3 seconds" in message


async def test_the_deadline_holds_across_redirects() -> None:
    async def answer(stream: anyio.abc.ByteStream, path: bytes) -> None:
        await anyio.sleep(0.2)
        await stream.send(redirect("/again"))

    async with serve(answer) as server:
        message = await refused(fetcher(timeout=0.5, redirects=10), server.url())
    assert "within 0.5 seconds" in message


async def test_the_deadline_holds_while_resolving() -> None:
    async def never(host: str) -> Sequence[str]:
        await anyio.sleep_forever()
        return []

    message = await refused(fetcher(timeout=0.1, resolver=never), "http://slow.test/")
    assert "within 0.1 seconds" in message


async def test_a_cancelled_fetch_closes_its_connection() -> None:
    arrived = anyio.Event()

    async def answer(stream: anyio.abc.ByteStream, path: bytes) -> None:
        arrived.set()
        await stream.receive()

    async with serve(answer) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetcher().fetch, server.url())
            await arrived.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(60):
            await server.closed.wait()


async def test_endless_interim_responses_are_cut_off() -> None:
    """httpcore reads on for ever, and lets nobody else run while it parses what has come."""
    sent = 0

    async def answer(stream: anyio.abc.ByteStream, path: bytes) -> None:
        nonlocal sent
        while True:
            await stream.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 2000)
            sent += 1

    async with serve(answer) as server:
        message = await refused(fetcher(max_head_bytes=20_000), server.url("/a?b"))
        assert f"{server.url('/a')} sent more than" in message
        assert "32 interim responses" in message
        with anyio.fail_after(60):
            await server.closed.wait()
    assert sent < 400  # what fits into the sockets' buffers


@pytest.mark.parametrize("piece", [1000, 7], ids=["at-once", "in-pieces"])
async def test_too_many_interim_responses_are_not_parsed(
    monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    parsed = 0
    parse = h11.Connection.next_event

    def noting(self: h11.Connection) -> object:
        nonlocal parsed
        event = parse(self)
        parsed += isinstance(event, h11.InformationalResponse)
        return event

    async def answer(stream: anyio.abc.ByteStream, path: bytes) -> None:
        content = b"HTTP/1.1 100 Continue\r\n\r\n" * int(path[1:]) + ok(BODY)
        for start in range(0, len(content), piece):
            await stream.send(content[start : start + piece])
            await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(h11.Connection, "next_event", noting)
    async with serve(answer) as server:
        assert await fetcher().fetch(server.url("/32")) == BODY
        assert parsed == 32
        assert "32 interim responses" in await refused(fetcher(), server.url("/33"))
    assert parsed <= 32 + 33


async def test_the_number_of_interim_responses_is_a_limit() -> None:
    async def answer(stream: anyio.abc.ByteStream, path: bytes) -> None:
        await stream.send(b"HTTP/1.1 100 Continue\r\n\r\n" * int(path[1:]) + ok(BODY))

    async with serve(answer) as server:
        assert await fetcher(max_interim=2).fetch(server.url("/2")) == BODY
        message = await refused(fetcher(max_interim=2), server.url("/3"))
        assert "2 interim responses" in message


async def test_the_headers_have_a_limit() -> None:
    content = ok(BODY, *(f"x-{number}: {'y' * 100}" for number in range(50)))
    async with serve(answering(content)) as server:
        assert await fetcher(max_head_bytes=6000).fetch(server.url()) == BODY
        message = await refused(fetcher(max_head_bytes=5000), server.url())
    assert "more than 4 KiB of headers" in message


async def test_the_overhead_of_chunks_has_a_limit() -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"1;x=" + b"y" * 1000 + b"\r\na\r\n"
    async with serve(answering(head + chunk * 900 + b"0\r\n\r\n")) as server:
        assert "too small" in await refused(fetcher(), server.url())


async def test_bytes_are_reserved_before_they_are_kept() -> None:
    reserved = 0

    def reserve(size: int) -> None:
        nonlocal reserved
        reserved += size
        if reserved > 300_000:
            raise CapacityError("too much")

    async def answer(stream: anyio.abc.ByteStream, path: bytes) -> None:
        await stream.send(ok(bytes(200_000 if path == b"/small" else 500_000)))

    images = fetcher(max_bytes=1_000_000)
    async with serve(answer) as server:
        assert len(await images.fetch(server.url("/small"), reserve=reserve)) == 200_000
        assert reserved == 200_000
        with pytest.raises(CapacityError, match="too much"):
            await images.fetch(server.url("/large"), reserve=reserve)
    assert reserved < 300_000 + 2**17, "the rest was not received"


async def test_tiny_chunks_do_not_hold_up_others() -> None:
    body = b"1\r\na\r\n" * 5000

    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    async with (
        serve(answering(head + body + b"0\r\n\r\n")) as server,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(tick)
        assert len(await fetcher(max_bytes=15_000).fetch(server.url())) == 5000
        tasks.cancel_scope.cancel()
    assert turns > 2000
