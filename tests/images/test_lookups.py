"""Names whose DNS server does not answer delay nobody but their tenant."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from inference_server.images.lookups import Lookups
from tests.images.conftest import answering, fetcher, ok, serve

pytestmark = pytest.mark.anyio


class Dns:
    """A DNS server that answers when it is told to; names that begin with `here` at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = asyncio.Event()

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host.startswith("broken"):
            raise OSError("unknown host")
        if not host.startswith("here"):
            await self.gate.wait()
        return ["127.0.0.1"]


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def begin(lookups: Lookups, tenant: str, *hosts: str) -> list[asyncio.Task[Sequence[str]]]:
    return [asyncio.create_task(lookups.resolve(tenant, host)) for host in hosts]


async def test_a_tenant_has_a_share_and_the_others_have_the_rest() -> None:
    dns = Dns()
    lookups = Lookups(3, 2, dns)
    hanging = begin(lookups, "eve", "a.mute", "b.mute", "c.mute", "d.mute")
    await turns()
    assert dns.asked == ["a.mute", "b.mute"]
    assert await lookups.resolve("bob", "here.test") == ["127.0.0.1"]
    more = begin(lookups, "ann", "e.mute", "f.mute")
    await turns()
    assert dns.asked[3:] == ["e.mute"], "all together are bounded, too"
    dns.gate.set()
    assert await asyncio.gather(*hanging, *more) == [["127.0.0.1"]] * 6


async def test_a_lookup_counts_until_it_has_ended_whoever_has_left() -> None:
    """Its thread cannot be stopped."""
    dns = Dns()
    lookups = Lookups(8, 2, dns)
    hanging = begin(lookups, "eve", "a.mute", "b.mute", "c.mute")
    await turns()
    for task in hanging:
        task.cancel()
    await turns()
    assert all(task.cancelled() for task in hanging)
    (later,) = begin(lookups, "eve", "here.test")
    await turns()
    assert not later.done()
    assert dns.asked == ["a.mute", "b.mute"], "who left while waiting is not asked for"
    dns.gate.set()
    assert await later == ["127.0.0.1"]


async def test_failures_give_their_slots_back() -> None:
    lookups = Lookups(1, 1, Dns())
    for _ in range(3):
        with pytest.raises(OSError, match="unknown host"):
            await lookups.resolve("ann", "broken.test")
    with pytest.raises(UnicodeError):
        await Lookups(1, 1).resolve("ann", "\xe4.test")
    assert await lookups.resolve("ann", "here.test") == ["127.0.0.1"]


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The system's resolver, which does not answer for names below `mute`."""
    resolve, gate = socket.getaddrinfo, threading.Event()

    def slow(host: Any, *args: Any, **options: Any) -> Any:
        if bytes(host).endswith(b".mute"):
            gate.wait()
        return resolve("127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    yield gate
    gate.set()


async def test_hanging_lookups_take_no_thread_of_anybody_else(mute: threading.Event) -> None:
    lookups = Lookups(40, 40)
    # More than asyncio's own threads, on any machine.
    hanging = begin(lookups, "eve", *(f"{number}.mute" for number in range(39)))
    await turns()
    with_time_limit = asyncio.timeout(60)
    async with with_time_limit:
        assert await asyncio.to_thread(lambda: 1) == 1
        assert await lookups.resolve("ann", "here.test") == ["127.0.0.1"]
    assert not any(task.done() for task in hanging)
    mute.set()
    await asyncio.gather(*hanging)


async def test_a_fetch_of_another_tenant_goes_on(mute: threading.Event) -> None:
    images = fetcher(lookups=4, tenant_lookups=2)
    hanging = [
        asyncio.create_task(images.fetch(f"http://{number}.mute/", tenant="eve"))
        for number in range(8)
    ]
    await turns()
    async with asyncio.timeout(60), serve(answering(ok(b"image"))) as server:
        url = server.url(host="here.test")
        assert await images.fetch(url, tenant="ann") == b"image"
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
