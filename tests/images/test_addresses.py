"""Denied and permitted addresses of image URLs."""

from __future__ import annotations

import pytest

from inference_server.images.addresses import AddressPolicy


def words(text: str) -> list[str]:
    return text.split()


# Addresses that other SSRF guards have accepted.
DENIED = words("""
127.0.0.1 0.0.0.0 169.254.169.254 10.0.0.1 100.64.0.1 192.0.0.1 198.18.0.1 224.0.0.1 240.0.0.1
255.255.255.255 ::1 :: fe80::1 fc00::1 fec0::1 ff02::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254
::127.0.0.1 64:ff9b::7f00:1 64:ff9b:1::7f00:1 2002:7f00:1:: 2001:0:0:0:0:0:80ff:fffe
2606:4700::5efe:7f00:1

172.16.0.1 172.31.255.255 192.168.1.1 100.127.255.255 192.0.2.1 192.31.196.1 192.52.193.1
192.88.99.1 192.175.48.1 198.19.255.255 198.51.100.1 203.0.113.1 239.255.255.255 0.255.255.255
168.63.129.16 192.0.0.192 100.100.100.200 fd00:ec2::254 fe80::1%1 febf::1 fdff::1 feff::1
100::1 2001:db8::1 2001:2::1 2001:10::1 2001:20::1 2620:4f:8000::1 3fff::1 4000::1 5f00::1
2002:808:808:: ::8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b::10.0.0.1 2606:4700::200:5efe:a00:1
::ffff:10.1.2.3 2001:0:808:808::1
""")
PERMITTED = words("""
8.8.8.8 2606:4700::1111
1.1.1.1 172.15.255.255 172.32.0.1 100.63.255.255 100.128.0.1 192.0.1.1 198.17.255.255 198.20.0.1
11.0.0.1 126.255.255.255 128.0.0.1 169.253.1.1 169.255.0.1 223.255.255.255 168.63.129.17
2001:4860:4860::8888 2a00:1450:4001::1 2620:fe::fe
::ffff:8.8.8.8 64:ff9b::808:808 2606:4700::5efe:808:808
""")


@pytest.mark.parametrize("address", DENIED)
def test_denied(address: str) -> None:
    assert not AddressPolicy().permits(address)


@pytest.mark.parametrize("address", PERMITTED)
def test_permitted(address: str) -> None:
    assert AddressPolicy().permits(address)


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "0x7f000001", "8.8.8.8 ", "1.2.3.4/8"])
def test_invalid_addresses_are_denied(text: str) -> None:
    assert not AddressPolicy().permits(text)


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.0/8", "::ffff:127.0.0.1"),
        ("127.0.0.0/8", "64:ff9b::7f00:1"),
        ("10.1.2.3", "10.1.2.3"),
        ("::1/128", "::1"),
        ("fd00::/8", "fd12::1"),
    ],
)
def test_permitted_networks_open_addresses(network: str, address: str) -> None:
    assert AddressPolicy([network]).permits(address)


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("127.0.0.0/8", "10.0.0.1"),
        ("127.0.0.0/8", "::1"),
        ("10.1.2.3", "10.1.2.4"),
        # A network of transition addresses does not open what they lead to.
        ("2002::/16", "2002:7f00:1::"),
        ("2001::/32", "2001:0:0:0:0:0:80ff:fffe"),
        ("::/96", "::127.0.0.1"),
        ("64:ff9b:1::/48", "64:ff9b:1::7f00:1"),
        ("fd00::/8", "fd00::5efe:7f00:1"),
    ],
)
def test_permitted_networks_open_nothing_else(network: str, address: str) -> None:
    assert not AddressPolicy([network]).permits(address)


@pytest.mark.parametrize("network", ["", "localhost", "10.0.0.1/8", "10.0.0.0/33"])
def test_a_malformed_network_is_an_error(network: str) -> None:
    with pytest.raises(ValueError):
        AddressPolicy([network])
