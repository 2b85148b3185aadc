"""Fetch images by URL without giving clients access to the server's network.

Every connection goes through `_dial`: it resolves the host once, checks every address, and connects
to one of these addresses. There is no connection pool, proxy, cookie jar or automatic redirect, so
no second lookup can return a different address. An HTTP client library would do its own lookups.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import IO

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpcore
import httpx

from inference_server.images.addresses import AddressPolicy
from inference_server.images.failures import could_not_load, not_authorized, over_byte_limit
from inference_server.images.file_bytes import write_all
from inference_server.images.lookups import Lookups, Resolver
from inference_server.images.metered_stream import MeteredStream
from inference_server.images.trusted_host import TrustedHost

Reserve = Callable[[int], None]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OVERHEAD = 2  # bytes to receive at most, as a multiple of the limit on the body
_OR_BASE64 = "or send the image as base64."
_USER_AGENT = b"inference-server"
_WRITTEN = 2**20  # bytes that are written to a file at once
_STORAGE = "INFERENCE_RASTER_FETCH_STORAGE_MB"
_MAX_ANSWER = 64 * 1024  # bytes of the response to `post_json`


@dataclass(frozen=True, slots=True)
class _Call:
    """A request, and the rules that apply to it and its redirects."""

    max_bytes: int
    timeout: float
    tenant: str = ""
    reserve: Reserve | None = None
    trusted: TrustedHost | None = None
    body: bytes | None = None
    file: IO[bytes] | None = None
    setting: str = "INFERENCE_MAX_IMAGE_MB"

    def trusts(self, url: httpx.URL) -> bool:
        """Whether a URL is of the host that the operator trusts."""
        return self.trusted is not None and self.trusted.covers(url)

    def authorizes(self, url: httpx.URL) -> bool:
        """Whether a URL is one that gets the trusted host's credentials."""
        return self.trusted is not None and self.trusted.authorizes(url)


class ImageFetcher:
    """Fetches images by `http` and `https`. It keeps no connections, so it needs no closing.

    Args:
        max_bytes: Maximum size of a body in bytes.
        timeout: Maximum seconds per fetch, redirects included.
        redirects: Maximum number of redirects to follow; default 3.
        networks: Networks (CIDR) to allow although they are not public.
        hosts: Allowed host names; `*.example.com` allows all subdomains. Empty allows any host.
        https_only: Refuse `http`; default false.
        max_head_bytes: Maximum bytes of a response's headers and of the interim responses before
            it; default 64 KiB.
        max_interim: Maximum number of interim responses; default 32.
        max_addresses: Maximum number of addresses to try per host, so that a long DNS response
            cannot cause a port scan; default 4.
        lookups: Maximum number of host names being resolved; default 128.
        tenant_lookups: Maximum number of them per tenant; default 32.
        resolver: Resolves a host to its addresses; default: the system's resolver, in threads.
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
        max_head_bytes: int = 2**16,
        max_interim: int = 32,
        max_addresses: int = 4,
        lookups: int = 128,
        tenant_lookups: int = 32,
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._redirects = redirects
        self._policy = AddressPolicy(networks)
        self._hosts = tuple(host.lower() for host in hosts)
        self._schemes = ("https",) if https_only else ("http", "https")
        self._max_head_bytes = max_head_bytes
        self._max_interim = max_interim
        self._max_addresses = max_addresses
        self._lookups = Lookups(lookups, tenant_lookups, resolver)
        self._ssl_context = ssl_context or httpx.create_ssl_context()

    async def fetch(
        self,
        url: str,
        *,
        tenant: str = "",
        reserve: Reserve | None = None,
        trusted: TrustedHost | None = None,
    ) -> bytes:
        """Fetch a URL's body. Its content is not checked.

        Args:
            url: An absolute URL; white space around it is ignored.
            tenant: Whose fetch it is, for its share of look-ups.
            reserve: Called with the number of bytes of each chunk before it is kept; it may raise
                `CapacityError`. Default: no limit but that on one body.
            trusted: A host that may be connected to wherever it is, and that gets credentials
                below its path; a redirect to another path gets none, and one to another host is
                also checked as usual. Default: no host.

        Raises:
            CapacityError: `reserve` refused.
            NotAuthorizedError: The trusted host refuses the credentials.
            ImageError: The URL is refused, or the fetch fails or times out.
            ImageTooLargeError: The body exceeds the byte limit.
        """
        call = _Call(self._max_bytes, self._timeout, tenant, reserve, trusted)
        return await self._run(url, call, self._redirects)

    async def download(
        self,
        url: str,
        file: IO[bytes],
        *,
        max_bytes: int,
        timeout: float,
        tenant: str = "",
        reserve: Reserve | None = None,
    ) -> None:
        """Fetch a URL's body into a file, with the same checks. Its content is not checked.

        Args:
            url: An absolute URL; white space around it is ignored.
            file: An empty file, open to write; it may have a part of the body after an error.
            max_bytes: Maximum size of the body in bytes, the setting `max_raster_upload_mb`.
            timeout: Maximum seconds, redirects included.
            tenant: Whose fetch it is, for its share of look-ups.
            reserve: See `fetch`.

        Raises:
            CapacityError: `reserve` refused.
            ImageError: The URL is refused, or the fetch fails or times out.
            ImageTooLargeError: The body exceeds the byte limit.
            StorageError: The file cannot grow.
        """
        setting = "INFERENCE_MAX_RASTER_UPLOAD_MB"
        call = _Call(max_bytes, timeout, tenant, reserve, file=file, setting=setting)
        await self._run(url, call, self._redirects)

    async def post_json(self, url: str, body: bytes, trusted: TrustedHost) -> bytes:
        """Send JSON to a trusted host, and return the body of its response, at most 64 KiB.

        Args:
            url: An absolute URL of that host; redirects are not followed.
            body: The JSON.
            trusted: The host.

        Raises:
            NotAuthorizedError: The host refuses the request.
            ImageError: The request fails or times out.
            ImageTooLargeError: The response exceeds the limit.
        """
        return await self._run(
            url, _Call(_MAX_ANSWER, self._timeout, trusted=trusted, body=body), 0
        )

    async def _run(self, url: str, call: _Call, redirects: int) -> bytes:
        """Send a request within the deadline, and follow its redirects."""
        target = self._check(url.strip(), call)
        first = _quoted(target)
        try:
            with anyio.fail_after(call.timeout):
                for _ in range(redirects + 1):
                    found = await self._send(target, call)
                    if isinstance(found, bytes):
                        return found
                    target = self._check(found, call, target)
        except TimeoutError:
            raise could_not_load(
                f"{first} did not arrive within {call.timeout:g} seconds.",
                f"Try again, {_OR_BASE64}",
            ) from None
        raise could_not_load(
            f"{first} redirects more than {redirects} times.",
            f"Give the final URL, {_OR_BASE64}",
        )

    def _check(self, text: str, call: _Call, base: httpx.URL | None = None) -> httpx.URL:
        """Parse a URL, or a redirect relative to `base`, and refuse URLs that are never fetched."""
        try:
            url = httpx.URL(text) if base is None else base.join(text)
            host = url.host  # decodes Punycode, which may be invalid
        except (httpx.InvalidURL, ValueError):
            raise could_not_load(
                "The URL is malformed.", f"Give a complete http or https URL, {_OR_BASE64}"
            ) from None
        trusted = call.trusts(url)
        if (url.scheme not in self._schemes and not trusted) or not host:
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
        names = (host, url.raw_host.decode("ascii"))
        if not trusted and not any(map(self._is_allowed_host, names)):
            raise could_not_load(
                f"The server does not fetch images from {host}.",
                "Ask the operator to allow the host, " + _OR_BASE64,
            )
        return url

    def _is_allowed_host(self, host: str) -> bool:
        host = host.lower().removesuffix(".")
        return not self._hosts or any(
            host.endswith(allowed[1:]) if allowed.startswith("*.") else host == allowed
            for allowed in self._hosts
        )

    async def _send(self, url: httpx.URL, call: _Call) -> bytes | str:
        """Make one request; return the body, or the redirect's target as a string."""
        stream = await self._dial(url, call)
        try:
            return await self._exchange(stream, url, call)
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

    async def _dial(self, url: httpx.URL, call: _Call) -> httpcore.AsyncNetworkStream:
        """Connect to a checked address."""
        addresses = await self._addresses(url, call)
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

    async def _addresses(self, url: httpx.URL, call: _Call) -> Sequence[str]:
        """Resolve the host of `url` and check every address.

        One forbidden address refuses the host: a public name with a private address is an attack
        or a mistake.
        """
        try:
            addresses = await self._lookups.resolve(call.tenant, url.raw_host.decode("ascii"))
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            raise could_not_load(
                f"The host name of {_quoted(url)} could not be resolved.",
                f"Check the URL, {_OR_BASE64}",
            )
        if not call.trusts(url) and not all(map(self._policy.permits, addresses)):
            # The address is not mentioned, because it would reveal the internal network.
            raise could_not_load(
                f"{_quoted(url)} is not on the public internet, and this server fetches images "
                "from nowhere else.",
                "Ask the operator to open the network with INFERENCE_FETCH_NETWORKS, " + _OR_BASE64,
            )
        return addresses[: self._max_addresses]

    async def _exchange(
        self, stream: httpcore.AsyncNetworkStream, url: httpx.URL, call: _Call
    ) -> bytes | str:
        """Send the request over an open connection; return as `_send` does."""
        if url.scheme == "https":
            # Verified against the host name, not against the address.
            name = url.raw_host.decode("ascii").removesuffix(".")
            stream = await stream.start_tls(self._ssl_context, server_hostname=name)
        request = _request(url, call)
        most = self._max_head_bytes + _OVERHEAD * call.max_bytes
        metered = MeteredStream(stream, self._max_head_bytes, self._max_interim, most, _quoted(url))
        connection = httpcore.AsyncHTTP11Connection(request.url.origin, metered)
        response = await connection.handle_async_request(request)
        metered.in_body = True
        headers = {name.lower(): value for name, value in response.headers}
        if response.status in _REDIRECTS and b"location" in headers:
            return headers[b"location"].decode("utf-8", "replace")
        if response.status in (401, 403) and call.authorizes(url):
            raise not_authorized(_quoted(url), response.status)
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
        return await self._body(response, int(headers.get(b"content-length", b"0")), call)

    async def _body(self, response: httpcore.Response, announced: int, call: _Call) -> bytes:
        """Read a body of `announced` bytes (0 if unknown), up to the byte limit."""
        over = over_byte_limit(call.max_bytes, call.setting)
        if announced > call.max_bytes:
            raise over
        received = 0
        # Not a list of chunks: a body sent byte by byte would take forty times its size.
        body = bytearray()
        async for chunk in response.aiter_stream():
            received += len(chunk)
            if received > call.max_bytes:
                raise over
            if call.reserve is not None:
                call.reserve(len(chunk))
            body += chunk
            if call.file is not None and len(body) >= _WRITTEN:
                await anyio.to_thread.run_sync(write_all, call.file, bytes(body), _STORAGE)
                body.clear()
            # One read may yield thousands of tiny chunks; let other tasks run.
            await anyio.lowlevel.checkpoint()
        if call.file is not None:
            await anyio.to_thread.run_sync(write_all, call.file, bytes(body), _STORAGE)
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


def _request(url: httpx.URL, call: _Call) -> httpcore.Request:
    headers = [
        (b"host", url.netloc),
        (b"user-agent", _USER_AGENT),
        (b"accept", b"image/*, */*;q=0.5"),
        (b"accept-encoding", b"identity"),
        (b"connection", b"close"),
    ]
    if call.body is not None:
        headers += [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(call.body)).encode()),
        ]
    if call.trusted is not None and call.trusted.authorization and call.authorizes(url):
        headers.append((b"authorization", call.trusted.authorization.encode()))
    return httpcore.Request(
        "GET" if call.body is None else "POST",
        httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=headers,
        content=call.body,
    )
