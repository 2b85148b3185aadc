"""Fetching an image by URL, for clients that must not be trusted with the server's network.

Every connection goes through `_dial`: the host is resolved once, every address it resolves to is
checked, and one of those very addresses is connected to. There is no connection pool, no proxy, no
cookie and no redirect handling behind its back, so no second look-up can answer otherwise.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence

import anyio
import anyio.lowlevel
import httpcore
import httpx

from inference_server.images.addresses import AddressPolicy
from inference_server.images.failures import could_not_load, over_byte_limit

Resolver = Callable[[str], Awaitable[Sequence[str]]]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_DIALS = 4  # addresses of one host to try, so that a long answer cannot turn into a port scan
_OR_BASE64 = "or send the image as base64."
_USER_AGENT = b"inference-server"


async def resolve(host: str) -> list[str]:
    """Resolves a host name, or a literal address in any spelling, in a thread.

    Raises:
        OSError: the name does not resolve.
        UnicodeError: the name cannot be a host name.
    """
    found = await anyio.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class ImageFetcher:
    """Fetches images by `http` and `https`.

    It holds no connection between calls, so there is nothing to close.

    Args:
        max_bytes: most bytes a body may have.
        timeout: seconds that one fetch may take in all, redirects included.
        redirects: most redirects to follow.
        networks: networks (CIDR) to fetch from although they are not public.
        hosts: names to fetch from, `*.example.com` for all below; empty is any.
        https_only: refuse `http`.
        resolver: how a host becomes addresses.
        ssl_context: how servers are verified; by default against `SSL_CERT_FILE` or `certifi`.

    Raises:
        ValueError: a network is malformed.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        timeout: float,
        redirects: int = 3,
        networks: Iterable[str] = (),
        hosts: Iterable[str] = (),
        https_only: bool = False,
        resolver: Resolver = resolve,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._redirects = redirects
        self._policy = AddressPolicy(networks)
        self._hosts = tuple(host.lower() for host in hosts)
        self._schemes = ("https",) if https_only else ("http", "https")
        self._resolve = resolver
        self._ssl_context = ssl_context or httpx.create_ssl_context()

    async def fetch(self, url: str) -> bytes:
        """Fetches the body behind `url`. Its content is not looked at.

        Raises:
            ImageError: the URL is refused, or what it names cannot be had in time.
            ImageTooLargeError: the body is over the byte limit.
        """
        target = self._check(url.strip())
        first = _quoted(target)
        try:
            with anyio.fail_after(self._timeout):
                for _ in range(self._redirects + 1):
                    found = await self._get(target)
                    if isinstance(found, bytes):
                        return found
                    target = self._check(found, target)
        except TimeoutError:
            raise could_not_load(
                f"{first} did not arrive within {self._timeout:g} seconds.",
                f"Try again, {_OR_BASE64}",
            ) from None
        raise could_not_load(
            f"{first} redirects more than {self._redirects} times.",
            f"Give the final URL, {_OR_BASE64}",
        )

    def _check(self, text: str, base: httpx.URL | None = None) -> httpx.URL:
        """Parses a URL, or a redirect relative to `base`, and refuses what is never fetched."""
        try:
            url = httpx.URL(text) if base is None else base.join(text)
        except (httpx.InvalidURL, ValueError):
            raise could_not_load(
                "The URL is malformed.", f"Give a complete http or https URL, {_OR_BASE64}"
            ) from None
        if url.scheme not in self._schemes or not url.host:
            raise could_not_load(
                f"Only complete {' and '.join(self._schemes)} URLs are fetched.",
                f"Give such a URL, {_OR_BASE64}",
            )
        if url.userinfo:
            raise could_not_load(
                "The URL contains a user name or password.",
                f"Give a URL that needs none, for instance a signed one, {_OR_BASE64}",
            )
        if not 0 < _port(url) < 65536:
            raise could_not_load("The URL's port is out of range.", "Give a port up to 65535.")
        # An international name may be set, and sent, in either of its two spellings.
        if not any(map(self._is_allowed_host, (url.host, url.raw_host.decode("ascii")))):
            raise could_not_load(
                f"The server does not fetch images from {url.host}.",
                "Ask the operator to allow the host, " + _OR_BASE64,
            )
        return url

    def _is_allowed_host(self, host: str) -> bool:
        host = host.lower().removesuffix(".")
        return not self._hosts or any(
            host.endswith(allowed[1:]) if allowed.startswith("*.") else host == allowed
            for allowed in self._hosts
        )

    async def _get(self, url: httpx.URL) -> bytes | str:
        """Makes one request. Returns the body, or where it redirects to."""
        stream = await self._dial(url)
        try:
            return await self._exchange(stream, url)
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            OSError,  # of which `ssl.SSLError` is one
            ValueError,  # a host that TLS or HTTP cannot express
        ) as error:
            raise could_not_load(
                f"The exchange with {_quoted(url)} failed: {_why(error)}.",
                f"Check that the URL opens elsewhere, {_OR_BASE64}",
            ) from error
        finally:
            # TLS's handshake leaves the socket open when it is cancelled, so it is closed here.
            with anyio.CancelScope(shield=True):
                await stream.aclose()

    async def _dial(self, url: httpx.URL) -> httpcore.AsyncNetworkStream:
        """Opens a connection to an address that has been checked."""
        addresses = await self._addresses(url)
        deadline = anyio.current_effective_deadline()
        backend = httpcore.AnyIOBackend()
        for tried, address in enumerate(addresses):
            # An equal share of the time left, so that one dead address does not use up all of it;
            # for the last one the deadline of the whole fetch is enough.
            left = len(addresses) - tried
            share = (deadline - anyio.current_time()) / left if left > 1 else None
            try:
                return await backend.connect_tcp(address, _port(url), timeout=share)
            except (httpcore.NetworkError, httpcore.TimeoutException):
                continue
        raise could_not_load(
            f"No connection to {_quoted(url)} could be made.",
            f"Check that the URL opens elsewhere, {_OR_BASE64}",
        )

    async def _addresses(self, url: httpx.URL) -> Sequence[str]:
        """Resolves the host of `url` and checks every address that it has.

        One address that is not allowed refuses the host: a public name that also has a private
        address is an attack or a mistake.
        """
        try:
            addresses = await self._resolve(url.raw_host.decode("ascii"))
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            raise could_not_load(
                f"The host name of {_quoted(url)} could not be resolved.",
                f"Check the URL, {_OR_BASE64}",
            )
        if not all(map(self._policy.permits, addresses)):
            # The address is not named: it would tell a stranger about the network inside.
            raise could_not_load(
                f"{_quoted(url)} is not on the public internet, and this server fetches images "
                "from nowhere else.",
                "Ask the operator to open the network with INFERENCE_FETCH_NETWORKS, " + _OR_BASE64,
            )
        return addresses[:_MAX_DIALS]

    async def _exchange(self, stream: httpcore.AsyncNetworkStream, url: httpx.URL) -> bytes | str:
        """Sends the request over an open connection and reads the answer, as `_get` returns it."""
        if url.scheme == "https":
            # Verified against the host's name, never against the address that was dialled.
            name = url.raw_host.decode("ascii").removesuffix(".")
            stream = await stream.start_tls(self._ssl_context, server_hostname=name)
        request = _request(url)
        connection = httpcore.AsyncHTTP11Connection(request.url.origin, stream)
        response = await connection.handle_async_request(request)
        headers = {name.lower(): value for name, value in response.headers}
        if response.status in _REDIRECTS and b"location" in headers:
            return headers[b"location"].decode("utf-8", "replace")
        if not 200 <= response.status < 300:
            raise could_not_load(
                f"{_quoted(url)} answered with status {response.status}.",
                f"Check that the URL opens without signing in, {_OR_BASE64}",
            )
        if headers.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
            # Images are compressed already; decompressing here would be one more bomb to defuse.
            raise could_not_load(
                f"{_quoted(url)} answered with a compressed body that was not asked for.",
                f"Give another URL, {_OR_BASE64}",
            )
        return await self._body(response, int(headers.get(b"content-length", b"0")))

    async def _body(self, response: httpcore.Response, announced: int) -> bytes:
        """Reads a body of `announced` bytes (0 where unknown), as far as the byte limit."""
        if announced > self._max_bytes:
            raise over_byte_limit(self._max_bytes)
        # Not a list of chunks: a body sent byte by byte would weigh forty times its size.
        body = bytearray()
        async for chunk in response.aiter_stream():
            body += chunk
            if len(body) > self._max_bytes:
                raise over_byte_limit(self._max_bytes)
            # Thousands of tiny chunks may come in one read: let others run in between.
            await anyio.lowlevel.checkpoint()
        return bytes(body)


def _port(url: httpx.URL) -> int:
    if url.port is not None:
        return url.port
    return 443 if url.scheme == "https" else 80


def _quoted(url: httpx.URL) -> str:
    """The URL as error messages may show it: without the query, where signed URLs keep secrets."""
    return str(url.copy_with(query=None, fragment=None))[:200]


def _why(error: Exception) -> str:
    """Words a failed exchange. What the other side sent is not repeated: it may be any service."""
    if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
        return "its TLS certificate could not be verified, or TLS failed otherwise"
    return "the connection broke off, or the other side does not speak HTTP"


def _request(url: httpx.URL) -> httpcore.Request:
    return httpcore.Request(
        "GET",
        httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=[
            (b"host", url.netloc),
            (b"user-agent", _USER_AGENT),
            (b"accept", b"image/*, */*;q=0.5"),
            (b"accept-encoding", b"identity"),
            (b"connection", b"close"),
        ],
    )
