"""The address that a client knows this server by, for absolute links.

A `Host` header says what the client typed, or what it wants us to believe. It is taken at its word
only where it names the loopback or the very address that the connection arrived at; then it tells
the port in front of a container. `X-Forwarded-*` headers are believed of trusted proxies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from starlette.requests import Request

from inference_server.settings import Settings

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")


def public_url(request: Request, settings: Settings) -> str:
    """The server's address for the client of a request, without a slash at the end."""
    if settings.public_url:
        return settings.public_url
    scheme = request.scope.get("scheme", "http")
    if request.client is not None and _is_within(request.client.host, settings.trusted_proxies):
        # Of several values the last is that of the proxy that we know; others may be made up.
        forwarded = _last(request, "x-forwarded-proto").lower()
        scheme = forwarded if forwarded in ("http", "https") else scheme
        host = _last(request, "x-forwarded-host")
        if _HOST.fullmatch(host):
            return f"{scheme}://{host}"
    address, port = request.scope.get("server") or (settings.host, settings.port)
    if port is None:  # a Unix socket: behind a proxy that nobody has told us of
        address, port = settings.host, settings.port
    host = request.headers.get("host", "")
    match = _HOST.fullmatch(host)
    if match and _is_own(match["name"].strip("[]"), {address, settings.host}):
        return f"{scheme}://{host}"
    return f"{scheme}://{f'[{address}]' if ':' in address else address}:{port}"


def _last(request: Request, header: str) -> str:
    return ",".join(request.headers.getlist(header)).rpartition(",")[2].strip()


def _is_own(name: str, own: Iterable[str]) -> bool:
    """Whether a host is the loopback or one of the server's own addresses."""
    if name.lower() == "localhost" or name in own:
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _is_within(host: str, networks: Iterable[str]) -> bool:
    """Whether an address is in one of some networks."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    known: list[IPv4Network | IPv6Network] = [ip_network(network) for network in networks]
    return any(mapped in network or address in network for network in known)
