"""Fixtures for tests of fetching: a scripted server on loopback."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSListener

from inference_server.errors import ImageError, InferenceServerError
from inference_server.images import ImageFetcher

Answer = Callable[[anyio.abc.ByteStream, bytes], Awaitable[None]]


@dataclass
class Server:
    """A listening socket.

    Attributes:
        port: port that it listens on.
        connections: number of accepted connections.
        requests: received request heads.
        closed: set when a client closes its connection before the response is complete.
    """

    port: int
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    closed: anyio.Event = field(default_factory=anyio.Event)

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


@asynccontextmanager
async def serve(
    answer: Answer, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[Server]:
    """Serve one request per connection with `answer(stream, path)`."""
    listener: anyio.abc.Listener[anyio.abc.ByteStream] = await anyio.create_tcp_listener(
        local_host=host, local_port=port
    )
    server = Server(listener.extra(anyio.abc.SocketAttribute.local_port))
    if tls is not None:
        listener = TLSListener(listener, tls, standard_compatible=False)

    async def handle(stream: anyio.abc.ByteStream) -> None:
        server.connections += 1
        try:
            async with stream:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += await stream.receive()
                server.requests.append(head)
                await answer(stream, head.split(b" ")[1])
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            server.closed.set()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield server
        tasks.cancel_scope.cancel()


def answering(content: bytes) -> Answer:
    """Return a handler that sends these bytes, including the head, for every request."""

    async def answer(stream: anyio.abc.ByteStream, path: bytes) -> None:
        await stream.send(content)

    return answer


def ok(body: bytes, *headers: str) -> bytes:
    """Return a complete response with status 200."""
    lines = ["HTTP/1.1 200 OK", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    """Return a redirect."""
    return f"HTTP/1.1 {status} Found\r\nlocation: {location}\r\n\r\n".encode()


LOOPBACK = ("127.0.0.1/32",)
# Without the system's certificates, which take long to load; TLS has its own tests.
fetcher = partial(
    ImageFetcher,
    max_bytes=1000,
    timeout=60.0,
    networks=LOOPBACK,
    ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
)


class Resolver:
    """Returns prepared addresses in order, and records the requested names."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if not self._answers:
            raise OSError("unknown host")
        return self._answers.pop(0)


async def refused(
    images: ImageFetcher, url: str, error: type[InferenceServerError] = ImageError
) -> str:
    with pytest.raises(error) as caught:
        await images.fetch(url)
    message = caught.value.message
    assert message.startswith("Could not load input image. Cause: ")
    assert len(message) < 600
    return message


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def certificate() -> Path:
    """Return a certificate for `pictures.test` and `localhost`, with its key.

    Made by `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500
    -subj /CN=pictures.test -addext subjectAltName=DNS:pictures.test,DNS:localhost`.
    """
    return Path(__file__).parent / "pictures.test.pem"
