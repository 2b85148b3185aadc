"""Fetching over TLS: verification and deadline."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.abc
import pytest

from inference_server.errors import ImageError
from inference_server.images import ImageFetcher
from tests.images.conftest import answering, ok, serve

pytestmark = pytest.mark.anyio

BODY = b"image"


async def everything_is_here(host: str) -> Sequence[str]:
    return ["127.0.0.1"]


def fetcher(trusted: Path | None, timeout: float = 60.0) -> ImageFetcher:
    return ImageFetcher(
        max_bytes=1000,
        timeout=timeout,
        networks=["127.0.0.1/32"],
        resolver=everything_is_here,
        ssl_context=ssl.create_default_context(cafile=trusted) if trusted else None,
    )


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("host", ["pictures.test", "PICTURES.test.", "localhost"])
async def test_a_server_is_verified_by_its_name(
    host: str, tls: ssl.SSLContext, certificate: Path
) -> None:
    names: list[str | None] = []
    tls.sni_callback = lambda _, name, __: names.append(name)
    async with serve(answering(ok(BODY)), tls=tls) as server:
        assert await fetcher(certificate).fetch(server.url(host=host, scheme="https")) == BODY
    assert names == [host.lower().removesuffix(".")]


@pytest.mark.parametrize("host", ["other.test", "127.0.0.1"])
async def test_another_name_is_refused(host: str, tls: ssl.SSLContext, certificate: Path) -> None:
    async with serve(answering(ok(BODY)), tls=tls) as server:
        with pytest.raises(ImageError, match="certificate could not be verified"):
            await fetcher(certificate).fetch(server.url(host=host, scheme="https"))
    assert server.requests == []


async def test_an_unknown_authority_is_refused(tls: ssl.SSLContext) -> None:
    async with serve(answering(ok(BODY)), tls=tls) as server:
        with pytest.raises(ImageError, match="certificate could not be verified"):
            await fetcher(None).fetch(server.url(host="pictures.test", scheme="https"))
    assert server.requests == []


async def test_a_server_that_speaks_no_tls_is_refused(certificate: Path) -> None:
    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(ok(BODY))

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        with pytest.raises(ImageError, match="TLS"):
            await fetcher(certificate).fetch(f"https://pictures.test:{port}/")
        tasks.cancel_scope.cancel()


async def test_a_handshake_that_hangs_is_closed_at_the_deadline(certificate: Path) -> None:
    came, closed = anyio.Event(), anyio.Event()

    async def hang(stream: anyio.abc.SocketStream) -> None:
        came.set()
        async with stream:
            try:
                while True:
                    await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                closed.set()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, hang)
        # On a busy machine the deadline can pass before the connection is made; then repeat.
        while not came.is_set():
            with pytest.raises(ImageError, match=r"within 0\.3 seconds"):
                await fetcher(certificate, timeout=0.3).fetch(f"https://pictures.test:{port}/")
            await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(60):
            await closed.wait()
        tasks.cancel_scope.cancel()
