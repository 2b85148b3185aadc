"""Fetching: connections, addresses, redirects and URLs."""

from __future__ import annotations

import anyio
import anyio.abc
import pytest

from inference_server.images.lookups import Lookups
from tests.images.conftest import (
    Resolver,
    Server,
    answering,
    fetcher,
    ok,
    redirect,
    refused,
    serve,
)

pytestmark = pytest.mark.anyio

BODY = b"image" * 100


async def test_a_body_is_fetched() -> None:
    async with serve(answering(ok(BODY))) as server:
        assert await fetcher().fetch(f" {server.url('/a%20b.png?size=3#part')}\n") == BODY
    head = server.requests[0].decode()
    assert head.startswith("GET /a%20b.png?size=3 HTTP/1.1\r\n")
    assert f"host: 127.0.0.1:{server.port}\r\n" in head.lower()
    for header in ("cookie", "authorization", "referer"):
        assert header not in head.lower()


@pytest.mark.parametrize(
    "content",
    [
        b"HTTP/1.1 200 OK\r\n\r\n" + BODY,
        b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1f4\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok(BODY, "content-encoding: identity"),
    ],
    ids=["until-closed", "1.0", "chunked", "hints"],
)
async def test_every_way_to_frame_a_body(content: bytes) -> None:
    async with serve(answering(content)) as server:
        assert await fetcher().fetch(server.url()) == BODY


async def test_many_fetches_at_once() -> None:
    images = fetcher()

    async def one(server: Server) -> None:
        assert await images.fetch(server.url()) == BODY

    async with serve(answering(ok(BODY))) as server, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(one, server)
    assert server.connections == 20


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "LOCALHOST.",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::1]",
        "[::]",
    ],
)
async def test_loopback_is_never_connected_to(host: str) -> None:
    async with serve(answering(ok(BODY))) as server:
        message = await refused(fetcher(networks=()), server.url(host=host))
    assert server.connections == 0
    assert "base64" in message


async def test_a_denied_address_is_not_named() -> None:
    images = fetcher(resolver=Resolver(["10.11.12.13"]))
    message = await refused(images, "http://inside.test/a")
    assert "http://inside.test/a is not on the public internet" in message
    assert "10.11" not in message


async def test_one_denied_address_refuses_the_host() -> None:
    async with serve(answering(ok(BODY))) as server:
        images = fetcher(resolver=Resolver(["127.0.0.1", "127.0.0.2"]))
        await refused(images, server.url(host="both.test"))
    assert server.connections == 0


async def test_connections_use_the_checked_address() -> None:
    resolver = Resolver(["127.0.0.1"], ["127.0.0.2"])
    async with (
        serve(answering(ok(BODY))) as server,
        serve(answering(ok(b"secret")), host="127.0.0.2", port=server.port) as inside,
    ):
        images = fetcher(resolver=resolver)
        # A second lookup for the connection would return a private address.
        assert await images.fetch(server.url(host="rebind.test")) == BODY
        assert resolver.asked == ["rebind.test"]
        await refused(images, server.url(host="rebind.test"))
    assert server.connections == 1
    assert inside.connections == 0


async def test_the_next_address_is_tried_after_a_failure() -> None:
    async with serve(answering(ok(BODY))) as server:
        images = fetcher(networks=("127.0.0.0/8",), resolver=Resolver(["127.0.0.3", "127.0.0.1"]))
        assert await images.fetch(server.url(host="two.test")) == BODY


async def test_no_more_than_four_addresses_are_tried() -> None:
    async with serve(answering(ok(BODY))) as server:
        dead = [f"127.0.0.{number}" for number in range(2, 6)]
        images = fetcher(networks=("127.0.0.0/8",), resolver=Resolver([*dead, "127.0.0.1"]))
        message = await refused(images, server.url(host="many.test"))
        assert "No connection" in message
        assert server.connections == 0
        for limit, connected in ((1, 0), (2, 1)):
            images = fetcher(
                networks=("127.0.0.0/8",),
                max_addresses=limit,
                resolver=Resolver([dead[0], "127.0.0.1"]),
            )
            if connected:
                assert await images.fetch(server.url(host="two.test")) == BODY
            else:
                assert "No connection" in await refused(images, server.url(host="two.test"))
            assert server.connections == connected


@pytest.mark.parametrize("answers", [[], [[]]])
async def test_a_name_that_does_not_resolve(answers: list[list[str]]) -> None:
    message = await refused(fetcher(resolver=Resolver(*answers)), "http://nowhere.test/")
    assert "could not be resolved" in message


async def test_names_are_resolved_by_the_system() -> None:
    lookups = Lookups(1, 1)
    assert await lookups.resolve("", "127.0.0.1") == ["127.0.0.1"]
    assert await lookups.resolve("", "127.1") == ["127.0.0.1"]
    assert await lookups.resolve("", "::1") == ["::1"]
    assert "127.0.0.1" in await lookups.resolve("", "localhost")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(status: int) -> None:
    async def answer(stream: anyio.abc.ByteStream, path: bytes) -> None:
        content = {b"/start/a": redirect("b?c=1", status), b"/start/b?c=1": redirect("//there")}
        await stream.send(content.get(path, ok(BODY)))

    resolver = Resolver(["127.0.0.1"], ["127.0.0.1"], ["127.0.0.1"])
    async with serve(answer) as server:
        images = fetcher(resolver=resolver)
        there = f"http://there.test:{server.port}/end"

        async def onwards(stream: anyio.abc.ByteStream, path: bytes) -> None:
            await stream.send(redirect(there))

        async with serve(onwards) as first:
            assert await images.fetch(first.url("/start/a", host="here.test")) == BODY
    assert resolver.asked == ["here.test", "there.test"]
    assert server.requests[0].startswith(b"GET /end ")


async def test_relative_redirects() -> None:
    async def answer(stream: anyio.abc.ByteStream, path: bytes) -> None:
        steps = {b"/a/b": redirect("c?d=1"), b"/a/c?d=1": redirect("/e"), b"/e": redirect("?f")}
        await stream.send(steps.get(path, ok(path)))

    async with serve(answer) as server:
        assert await fetcher(redirects=3).fetch(server.url("/a/b")) == b"/e?f"
        message = await refused(fetcher(redirects=2), server.url("/a/b"))
    assert "more than 2 times" in message


async def test_a_redirect_in_a_circle() -> None:
    async with serve(answering(redirect("/again"))) as server:
        await refused(fetcher(redirects=3), server.url())
    assert server.connections == 4


async def test_a_redirect_to_a_denied_address_is_never_connected_to() -> None:
    async with serve(answering(ok(b"secret")), host="127.0.0.2") as inside:
        for target in (inside.url(host="127.0.0.2"), f"//127.0.0.2:{inside.port}/"):
            async with serve(answering(redirect(target))) as server:
                await refused(fetcher(), server.url())
            assert server.connections == 1
    assert inside.connections == 0


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://user:password@127.0.0.1/",
        "http://[",
        "http://127.0.0.1:99999/",
        "http://xn--a/",
        "//xn--zzzzzzzz-.com/",
        "\x01",
    ],
)
async def test_redirects_to_unsupported_urls_are_refused(location: str) -> None:
    async with serve(answering(redirect(location))) as server:
        await refused(fetcher(), server.url())
    assert server.connections == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "image.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://example.com/a.png",
        "data:image/png;base64,AAAA",
        "//example.com/a.png",
        "http://",
        "http:///a.png",
        "http://user@example.com/",
        "http://user:password@example.com/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:port/",
        "http://[::1",
        "http://exa\x00mple.com/",
        "http://\ud800.com/",
        "http://①②⑦.⓪.⓪.①/",
        "http://xn--a/x.jpg",
        "https://xn--0.pt/",
        "https://xn--zzzzzzzz-.com/",
        "http://" + "a" * 70_000,
    ],
)
async def test_invalid_urls_are_refused_without_a_lookup(url: str) -> None:
    resolver = Resolver()
    message = await refused(fetcher(resolver=resolver), url)
    assert resolver.asked == []
    assert "password" not in message.replace("user name or password", "")


@pytest.mark.parametrize(
    "host", ["a..b", "a" * 64 + ".com", "exa mple", "[fe80::1%25lo]", "x" * 300]
)
async def test_invalid_hosts_are_refused(host: str) -> None:
    await refused(fetcher(), f"http://{host}/")


async def test_https_only() -> None:
    images = fetcher(https_only=True)
    async with serve(answering(ok(BODY))) as server:
        message = await refused(images, server.url())
    assert "Only complete https URLs" in message
    assert server.connections == 0


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("a.test", True),
        ("A.TEST.", True),
        ("b.test", False),
        ("x.b.test", True),
        ("x.y.b.test", True),
        ("xb.test", False),
        ("b.test.evil.test", False),
    ],
)
async def test_hosts_may_be_restricted(host: str, allowed: bool) -> None:
    resolver = Resolver(["127.0.0.1"])
    images = fetcher(hosts=["a.test", "*.B.test"], resolver=resolver)
    async with serve(answering(ok(BODY))) as server:
        if allowed:
            assert await images.fetch(server.url(host=host)) == BODY
        else:
            assert "does not fetch images from" in await refused(images, server.url(host=host))
            assert resolver.asked == []


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
async def test_proxies_of_the_environment_are_ignored(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(answering(ok(BODY))) as server, serve(answering(ok(b"proxy"))) as proxy:
        monkeypatch.setenv(variable, proxy.url())
        assert await fetcher().fetch(server.url()) == BODY
    assert proxy.connections == 0


def test_a_malformed_network_is_an_error() -> None:
    with pytest.raises(ValueError):
        fetcher(networks=["10.0.0.0/99"])
