"""Fetching from a host that the operator trusts: private addresses, credentials, redirects."""

from __future__ import annotations

import anyio.abc
import httpx
import pytest

from inference_server.errors import ImageTooLargeError
from inference_server.images import NotAuthorizedError, TrustedHost
from tests.images.conftest import answering, fetcher, ok, redirect, refused, serve

pytestmark = pytest.mark.anyio

BODY = b"image" * 100


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("http://host.test/a", True),
        ("http://HOST.test:80/", True),
        ("http://host.test:81/", False),
        ("https://host.test/", False),
        ("http://host.test.example/", False),
        ("http://host.test@example.com/", False),
    ],
)
def test_scheme_name_and_port_decide(url: str, same: bool) -> None:
    assert TrustedHost("http://host.test/label-studio").covers(httpx.URL(url)) is same


def test_credentials_are_not_shown() -> None:
    assert "s3cret" not in repr(TrustedHost("http://host.test", "Token s3cret"))


async def test_it_may_be_on_a_private_network_and_gets_credentials() -> None:
    async with serve(answering(ok(BODY))) as server:
        images = fetcher(networks=(), hosts=("images.test",), https_only=True)
        await refused(images, server.url())
        trusted = TrustedHost(server.url(), "Token s3cret")
        assert await images.fetch(server.url("/data/a.png"), trusted=trusted) == BODY
    assert b"authorization: Token s3cret\r\n" in server.requests[0]


async def test_other_hosts_get_no_credentials() -> None:
    async with serve(answering(ok(BODY))) as other, serve(answering(ok(BODY))) as server:
        trusted = TrustedHost(server.url(), "Token s3cret")
        assert await fetcher().fetch(other.url(), trusted=trusted) == BODY
        assert b"s3cret" not in other.requests[0]
        await refused(fetcher(networks=()), other.url())


async def test_a_redirect_to_another_host_is_checked_and_gets_no_credentials() -> None:
    async with (
        serve(answering(ok(BODY))) as other,
        serve(answering(redirect(other.url("/there")))) as server,
    ):
        trusted = TrustedHost(server.url(), "Token s3cret")
        assert await fetcher().fetch(server.url(), trusted=trusted) == BODY
        assert b"s3cret" in server.requests[0]
        assert b"s3cret" not in other.requests[0]
        with pytest.raises(Exception, match="not on the public internet"):
            await fetcher(networks=()).fetch(server.url(), trusted=trusted)
    assert other.connections == 1


@pytest.mark.parametrize(
    ("url", "authorized"),
    [
        ("http://host.test/ls/a", True),
        ("http://host.test/ls/100%25/a%20b?c=../..", True),
        ("http://host.test/ls", False),
        ("http://host.test/a", False),
        ("http://host.test/lsa/b", False),
        ("http://host.test/ls/../a", False),
        ("http://host.test/ls/%2e%2e/a", False),
        ("http://host.test/ls/%252e%252e/a", False),
        ("http://host.test/ls/..%2fa", False),
        ("http://host.test/ls/..\\a", False),
        ("http://host.test/ls/..;a=b/c", False),
        ("http://host.test/ls/%25252525252e%25252525252e/a", False),
        ("https://host.test/ls/a", False),
    ],
)
def test_paths_below_that_of_the_host_get_credentials(url: str, authorized: bool) -> None:
    assert TrustedHost("http://host.test/ls").authorizes(httpx.URL(url)) is authorized
    assert TrustedHost("http://host.test/ls/").authorizes(httpx.URL(url)) is authorized


@pytest.mark.parametrize(
    ("target", "authorized"),
    [("/ls/b", True), ("../ls/b", True), ("/b", False), ("../b", False), ("%2e%2e/b", False)],
)
async def test_a_redirect_to_a_path_outside_gets_no_credentials(
    target: str, authorized: bool
) -> None:
    async def answer(stream: anyio.abc.ByteStream, path: bytes) -> None:
        await stream.send(redirect(target) if path == b"/ls/a" else ok(BODY))

    async with serve(answer) as server:
        trusted = TrustedHost(server.url("/ls"), "Token s3cret")
        # Another path of the host may be on a private network, too.
        found = await fetcher(networks=()).fetch(server.url("/ls/a"), trusted=trusted)
    assert found == BODY
    assert [b"s3cret" in each for each in server.requests] == [True, authorized]


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials(status: int) -> None:
    content = f"HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n".encode()
    async with serve(answering(content)) as server:
        with pytest.raises(NotAuthorizedError) as caught:
            await fetcher().fetch(server.url("/a?b=c"), trusted=TrustedHost(server.url()))
        assert "Check the token" in caught.value.message
        assert "b=c" not in caught.value.message


class TestPost:
    async def test_json_is_sent(self) -> None:
        async with serve(answering(ok(b'{"access": "a"}'))) as server:
            trusted = TrustedHost(server.url())
            sent = b'{"refresh": "r"}'
            answer = await fetcher(networks=()).post_json(server.url("/api"), sent, trusted)
        assert answer == b'{"access": "a"}'
        head, _, _ = server.requests[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /api HTTP/1.1\r\n")
        assert b"content-type: application/json\r\n" in head
        assert f"content-length: {len(sent)}".encode() in head

    async def test_redirects_are_not_followed(self) -> None:
        async with (
            serve(answering(ok(b"{}"))) as other,
            serve(answering(redirect(other.url()))) as server,
        ):
            with pytest.raises(Exception, match="redirects more than 0 times"):
                await fetcher().post_json(server.url(), b"{}", TrustedHost(server.url()))
        assert other.connections == 0

    async def test_the_response_has_a_limit(self) -> None:
        async with serve(answering(ok(b"x" * 70_000))) as server:
            with pytest.raises(ImageTooLargeError):
                await fetcher(max_bytes=10**6).post_json(
                    server.url(), b"{}", TrustedHost(server.url())
                )
