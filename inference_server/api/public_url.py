"""The server's public URL for the client of a request, for absolute links.

Clients can forge the `Host` header. It is used only if it names the loopback or the address at
which the connection arrived; it then contributes the port that a container is published at.
`X-Forwarded-*` headers are used only from trusted proxies.

uvicorn's `ProxyHeadersMiddleware` does not replace this module. It ignores `X-Forwarded-Host`, so
links would name the host of the connection to the proxy. It takes the whole `X-Forwarded-Proto`
header: a list, as a chain of proxies sends it, is ignored. It also overwrites the `client` of every
request with an address from `X-Forwarded-For`; then nothing can tell any more whether the
connection came from a trusted proxy, which decides here whether `X-Forwarded-Host` counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from starlette.requests import Request

from inference_server.settings import Settings

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")


def public_url(request: Request, settings: Settings) -> str:
    """Return the public URL for the client of a request, without a trailing slash."""
    if settings.public_url:
        return settings.public_url
    scheme = request.scope.get("scheme", "http")
    if request.client is not None and _is_within(request.client.host, settings.trusted_proxies):
        # The trusted proxy appends its value; values before the last may be forged.
        forwarded = _last(request, "x-forwarded-proto").lower()
        scheme = forwarded if forwarded in ("http", "https") else scheme
        host = _last(request, "x-forwarded-host")
        if _HOST.fullmatch(host):
            return f"{scheme}://{host}"
    address, port = request.scope.get("server") or (settings.host, settings.port)
    if port is None:  # a Unix socket behind a proxy that is not configured as trusted
        address, port = settings.host, settings.port
    host = request.headers.get("host", "")
    match = _HOST.fullmatch(host)
    if match and _is_own(match["name"].strip("[]"), {address, settings.host}):
        return f"{scheme}://{host}"
    return f"{scheme}://{f'[{address}]' if ':' in address else address}:{port}"


def _last(request: Request, header: str) -> str:
    return ",".join(request.headers.getlist(header)).rpartition(",")[2].strip()


def _is_own(name: str, own: Iterable[str]) -> bool:
    """Tell whether a host is the loopback or one of the server's own addresses."""
    if name.lower() == "localhost" or name in own:
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _is_within(host: str, networks: Iterable[str]) -> bool:
    """Tell whether an address is in one of the networks."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    known: list[IPv4Network | IPv6Network] = [ip_network(network) for network in networks]
    return any(mapped in network or address in network for network in known)
