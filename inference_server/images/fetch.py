"""Fetch images by URL without giving clients access to the server's network.

Every connection goes through `_dial`: it resolves the host once, checks every address, and connects
to one of these addresses. There is no connection pool, proxy, cookie jar or automatic redirect, so
no second lookup can return a different address. An HTTP client library would do its own lookups.
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
_MAX_DIALS = 4  # addresses to try per host, so that a long DNS response cannot cause a port scan
_OR_BASE64 = "or send the image as base64."
_USER_AGENT = b"inference-server"


async def resolve(host: str) -> list[str]:
    """Resolve a host name, or a literal address in any notation, in a thread.

    Args:
        host: Host name in ASCII, or an address.

    Returns:
        Its addresses, each once.

    Raises:
        OSError: The name does not resolve.
        UnicodeError: The name is not a valid host name.
    """
    found = await anyio.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class ImageFetcher:
    """Fetches images by `http` and `https`. It keeps no connections, so it needs no closing.

    Args:
        max_bytes: Maximum size of a body in bytes.
        timeout: Maximum seconds per fetch, redirects included.
        redirects: Maximum number of redirects to follow; default 3.
        networks: Networks (CIDR) to allow although they are not public.
        hosts: Allowed host names; `*.example.com` allows all subdomains. Empty allows any host.
        https_only: Refuse `http`; default false.
        resolver: Resolves a host to its addresses.
        ssl_context: Verifies servers; default: against `SSL_CERT_FILE` or `certifi`.

    Raises:
        ValueError: A network is malformed.
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
        """Fetch a URL's body. Its content is not checked.

        Args:
            url: An absolute URL; white space around it is ignored.

        Raises:
            ImageError: The URL is refused, or the fetch fails or times out.
            ImageTooLargeError: The body exceeds the byte limit.
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
        """Parse a URL, or a redirect relative to `base`, and refuse URLs that are never fetched."""
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
        # An international name may be configured and sent as Unicode or as Punycode.
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
        """Make one request; return the body, or the redirect's target as a string."""
        stream = await self._dial(url)
        try:
            return await self._exchange(stream, url)
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            OSError,  # includes `ssl.SSLError`
            ValueError,  # a host that TLS or HTTP cannot represent
        ) as error:
            raise could_not_load(
                f"The exchange with {_quoted(url)} failed: {_why(error)}.",
                f"Check that the URL opens elsewhere, {_OR_BASE64}",
            ) from error
        finally:
            # A cancelled TLS handshake leaves the socket open.
            with anyio.CancelScope(shield=True):
                await stream.aclose()

    async def _dial(self, url: httpx.URL) -> httpcore.AsyncNetworkStream:
        """Connect to a checked address."""
        addresses = await self._addresses(url)
        deadline = anyio.current_effective_deadline()
        backend = httpcore.AnyIOBackend()
        for tried, address in enumerate(addresses):
            # An equal share of the remaining time, so that one dead address does not consume it
            # all. The last address is limited by the deadline of the fetch.
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
        """Resolve the host of `url` and check every address.

        One forbidden address refuses the host: a public name with a private address is an attack
        or a mistake.
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
            # The address is not mentioned, because it would reveal the internal network.
            raise could_not_load(
                f"{_quoted(url)} is not on the public internet, and this server fetches images "
                "from nowhere else.",
                "Ask the operator to open the network with INFERENCE_FETCH_NETWORKS, " + _OR_BASE64,
            )
        return addresses[:_MAX_DIALS]

    async def _exchange(self, stream: httpcore.AsyncNetworkStream, url: httpx.URL) -> bytes | str:
        """Send the request over an open connection; return as `_get` does."""
        if url.scheme == "https":
            # Verified against the host name, not against the address.
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
            # Images are compressed already, and decompressing would need its own size limit.
            raise could_not_load(
                f"{_quoted(url)} answered with a compressed body that was not asked for.",
                f"Give another URL, {_OR_BASE64}",
            )
        return await self._body(response, int(headers.get(b"content-length", b"0")))

    async def _body(self, response: httpcore.Response, announced: int) -> bytes:
        """Read a body of `announced` bytes (0 if unknown), up to the byte limit."""
        if announced > self._max_bytes:
            raise over_byte_limit(self._max_bytes)
        # Not a list of chunks: a body sent byte by byte would take forty times its size.
        body = bytearray()
        async for chunk in response.aiter_stream():
            body += chunk
            if len(body) > self._max_bytes:
                raise over_byte_limit(self._max_bytes)
            # One read may yield thousands of tiny chunks; let other tasks run.
            await anyio.lowlevel.checkpoint()
        return bytes(body)


def _port(url: httpx.URL) -> int:
    if url.port is not None:
        return url.port
    return 443 if url.scheme == "https" else 80


def _quoted(url: httpx.URL) -> str:
    """The URL for error messages: without the query, where signed URLs hold secrets."""
    return str(url.copy_with(query=None, fragment=None))[:200]


def _why(error: Exception) -> str:
    """Describe a failed exchange. What the host sent is not repeated: it may be any service."""
    if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
        return "its TLS certificate could not be verified, or TLS failed otherwise"
    return "the connection was closed, or the host does not speak HTTP"


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
