"""The addresses that images may be fetched from.

Only public addresses, so that no client can make the server read its own host, its network or a
cloud's metadata service. Of IPv4, all but the special-purpose networks are public; of IPv6, only
the part allocated for public use. An IPv6 address that embeds an IPv4 address needs both to be
allowed, because a translator would deliver to the IPv4 address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# The registry at https://www.iana.org/assignments/iana-ipv4-special-registry, and more where noted.
_SPECIAL_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT, and metadata services of some clouds
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # not in the registry: Azure's platform endpoint, inside every machine
        "169.254.0.0/16",  # link-local, and metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # automatic multicast tunnelling
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)

# The registry at https://www.iana.org/assignments/iana-ipv6-special-registry, within 2000::/3.
_SPECIAL_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_PUBLIC_IPV6 = (
    IPv6Network("2000::/3"),  # global unicast; all else is loopback, local, multicast or unassigned
    IPv6Network("64:ff9b::/96"),  # NAT64: how hosts without IPv4 reach public IPv4 addresses
)

_COMPATIBLE = IPv6Network("::/96")
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_ISATAP_IDENTIFIERS = (0x0000_5EFE, 0x0200_5EFE)


class AddressPolicy:
    """Decides whether an address may be connected to.

    Args:
        opened: Networks (CIDR) to allow although they are not public. An IPv6 network does not
            allow the IPv4 addresses embedded in its addresses; list those too.

    Raises:
        ValueError: A network is malformed or has host bits set.
    """

    def __init__(self, opened: Iterable[str] = ()) -> None:
        self._opened: tuple[Network, ...] = tuple(ip_network(network) for network in opened)

    def permits(self, address: str) -> bool:
        """Whether a connection to `address` is allowed; false for text that is no address."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return self._permits(parsed)

    def _permits(self, address: Address) -> bool:
        if isinstance(address, IPv6Address):
            # For `::ffff:127.0.0.1` the kernel opens an IPv4 connection.
            if address.ipv4_mapped is not None:
                return self._permits(address.ipv4_mapped)
            if not all(map(self._permits, _embedded_ipv4(address))):
                return False
        return _is_public(address) or any(address in network for network in self._opened)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_IPV4)
    return any(address in network for network in _PUBLIC_IPV6) and not any(
        address in network for network in _SPECIAL_IPV6
    )


def _embedded_ipv4(address: IPv6Address) -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses that `address` may be translated or tunnelled to."""
    value = int(address)
    low = IPv4Address(value & 0xFFFF_FFFF)
    if address in _COMPATIBLE and value > 1:  # `::` and `::1` embed nothing
        yield low
    if any(address in network for network in _NAT64):
        yield low
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if (value >> 32) & 0xFFFF_FFFF in _ISATAP_IDENTIFIERS:
        yield low
