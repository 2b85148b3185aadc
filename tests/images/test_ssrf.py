"""No connection is opened to a denied address, in any notation."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address

import anyio
import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.images.addresses import _SPECIAL_IPV4, AddressPolicy
from tests.images.conftest import Resolver, answering, fetcher, ok, redirect, refused, serve
from tests.images.test_addresses import DENIED, PERMITTED

permits = AddressPolicy().permits


def embeddings(address: IPv4Address) -> dict[str, str]:
    """Return all IPv6 addresses that embed an IPv4 address."""
    low = int(address)
    values = {
        "mapped": 0xFFFF << 32 | low,
        "compatible": low,
        "translated": 0xFFFF << 48 | low,  # ::ffff:0:a.b.c.d
        "NAT64": 0x64FF9B << 96 | low,
        "local NAT64": 0x64FF9B0001 << 80 | low,
        "6to4": 0x2002 << 112 | low << 80,
        "Teredo server": 0x20010000 << 96 | low << 64 | 0xF7F7F7F7,
        "Teredo client": 0x20010000 << 96 | 0x08080808 << 64 | low ^ 0xFFFFFFFF,
        "ISATAP": 0x2606_4700 << 96 | 0x5EFE << 32 | low,
        "ISATAP, global": 0x2606_4700 << 96 | 0x0200_5EFE << 32 | low,
    }
    return {name: str(IPv6Address(value)) for name, value in values.items()}


ALWAYS_DENIED = {"compatible", "translated", "local NAT64", "6to4", "Teredo server"}
ALWAYS_DENIED |= {"Teredo client"}
addresses = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.sampled_from(_SPECIAL_IPV4).flatmap(
        lambda network: st.integers(int(network[0]), int(network[-1])).map(IPv4Address)
    ),
)


@given(addresses)
def test_an_ipv4_address_within_an_ipv6_one_is_judged_as_itself(address: IPv4Address) -> None:
    for name, embedded in embeddings(address).items():
        if name in ALWAYS_DENIED:
            # `::` and `::1` are not embedded IPv4 addresses; they are denied themselves.
            assert not permits(embedded), (name, embedded)
        else:
            assert permits(embedded) == permits(str(address)), (name, embedded)


@pytest.mark.parametrize("network", _SPECIAL_IPV4, ids=str)
def test_special_networks_from_end_to_end(network: IPv4Network) -> None:
    for address in (network[0], network[-1]):
        assert not permits(str(address))
        assert not any(map(permits, embeddings(address).values()))


@given(st.text(max_size=40))
def test_any_text_is_denied_or_permitted(text: str) -> None:
    permits(text)


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the addresses of connections instead of opening them."""
    found: list[str] = []

    async def connect_tcp(self: object, host: str, *args: object, **options: object) -> None:
        found.append(host)
        raise httpcore.ConnectError

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp)
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("address", DENIED)
async def test_no_connection_is_opened(address: str, dialled: list[str]) -> None:
    named = fetcher(networks=(), resolver=Resolver([address], [address, "8.8.8.8"]))
    for _ in range(2):
        message = await refused(named, "http://name.test:81/a.png")
        assert "is not on the public internet" in message
        assert address not in message
    literal = f"[{address}]" if ":" in address else address
    await refused(fetcher(networks=()), f"http://{literal}:81/a.png")
    assert dialled == []


@pytest.mark.anyio
@pytest.mark.parametrize("address", PERMITTED)
async def test_permitted_addresses_are_connected_to_as_resolved(
    address: str, dialled: list[str]
) -> None:
    images = fetcher(networks=(), resolver=Resolver([address]))
    assert "No connection" in await refused(images, "http://name.test/a.png")
    assert dialled == [address]


# This machine, in every notation that the system accepts.
_HERE = (
    *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001"),
    *("0177.0.0.1", "0", "0.0.0.0", "127.255.255.254", "localhost", "localhost.", "LocalHost"),
    *("[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
    *("[::127.0.0.1]", "[::ffff:0:0]", "[::ffff:0.0.0.0]", "%31%32%37.0.0.1", "１２７.0.0.1"),
    *("127。0。0。1", "①②⑦.0.0.1", "[::1%25lo]", "[fe80::1%25lo]"),
)


@pytest.mark.anyio
@pytest.mark.parametrize("host", _HERE)
async def test_a_listening_socket_gets_no_connection(host: str) -> None:
    secret = answering(ok(b"secret"))
    async with (
        serve(secret, host="0.0.0.0") as here,
        serve(secret, host="::", port=here.port) as there,
        # Represents a public server that redirects.
        serve(answering(redirect(f"http://{host}:{here.port}/")), host="127.0.0.9") as outside,
    ):
        await refused(fetcher(networks=()), f"http://{host}:{here.port}/")
        images = fetcher(networks=("127.0.0.9/32",))
        await refused(images, outside.url(host="127.0.0.9"))
    assert outside.connections == 1
    assert here.connections == there.connections == 0


@pytest.mark.anyio
async def test_a_name_that_changes_between_redirects_is_checked_again() -> None:
    """Each hop is resolved and checked again."""
    async with serve(answering(ok(b"secret")), host="127.0.0.2") as inside:
        target = f"http://same.test:{inside.port}/"
        async with serve(answering(redirect(target))) as outside:
            images = fetcher(resolver=Resolver(["127.0.0.1"], ["127.0.0.2"]))
            await refused(images, outside.url(host="same.test"))
        assert outside.connections == 1
        assert inside.connections == 0


@pytest.mark.anyio
async def test_slow_bytes_do_not_extend_the_deadline() -> None:
    async def trickle(stream: anyio.abc.ByteStream, path: bytes) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n")
        for _ in range(900):
            await stream.send(b"a")
            await anyio.sleep(0.05)

    async with serve(trickle) as server:
        assert "within 0.5 seconds" in await refused(fetcher(timeout=0.5), server.url())
