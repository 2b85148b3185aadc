"""The public URL: from settings, trusted proxies or the connection."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request

from inference_server.api.public_url import public_url
from inference_server.settings import Settings

HERE = ("192.168.1.5", 9001)


def url(
    headers: dict[str, str] | None = None,
    server: tuple[str, int | None] | None = HERE,
    client: str = "203.0.113.9",
    scheme: str = "http",
    **settings: Any,
) -> str:
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "headers": raw, "server": server, "scheme": scheme}
    return public_url(Request({**scope, "client": (client, 4711)}), Settings(**settings))


def test_the_setting_takes_precedence() -> None:
    headers = {"host": "localhost", "x-forwarded-host": "a.example"}
    expected = url(headers, public_url="https://b.example/masks/", trusted_proxies="203.0.113.0/24")
    assert expected == "https://b.example/masks"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost:8080", "http://localhost:8080"),
        ("127.0.0.1:9001", "http://127.0.0.1:9001"),
        ("[::1]:9001", "http://[::1]:9001"),
        ("192.168.1.5", "http://192.168.1.5"),
        ("192.168.1.5:80", "http://192.168.1.5:80"),
        ("gpu.example:9001", "http://gpu.example:9001"),
    ],
)
def test_a_host_header_that_names_this_server_is_used(host: str, expected: str) -> None:
    assert url({"host": host}, host="gpu.example") == expected


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9001",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "localhost/evil",
        "localhost:9001, evil.example",
        "localhost:123456",
        "192.168.1.50",
        "8.8.8.8",
        "",
    ],
)
def test_any_other_host_header_is_ignored(host: str) -> None:
    assert url({"host": host}) == "http://192.168.1.5:9001"


def test_addresses_of_version_6() -> None:
    assert url(server=("fd00::7", 9001)) == "http://[fd00::7]:9001"
    assert url({"host": "[fd00::7]:80"}, server=("fd00::7", 9001)) == "http://[fd00::7]:80"


def test_without_an_address_of_the_connection_the_settings_are_used() -> None:
    assert url(server=None, port=7000) == "http://127.0.0.1:7000"
    assert url(server=("/run/server.sock", None)) == "http://127.0.0.1:9001"


def test_the_scheme_of_the_connection() -> None:
    assert url(scheme="https") == "https://192.168.1.5:9001"


FORWARDED = {"x-forwarded-host": "masks.example", "x-forwarded-proto": "https"}


class TestProxies:
    def test_headers_of_trusted_proxies_are_used(self) -> None:
        trusted = "10.0.0.0/8, 203.0.113.0/24"
        assert url(FORWARDED, trusted_proxies=trusted) == "https://masks.example"
        assert url(FORWARDED, client="::ffff:10.0.0.1", trusted_proxies=trusted).startswith(
            "https://masks.example"
        )

    @pytest.mark.parametrize("client", ["203.0.114.1", "127.0.0.1", "unix"])
    def test_headers_of_other_clients_are_ignored(self, client: str) -> None:
        expected = url(FORWARDED, client=client, trusted_proxies="203.0.113.0/24")
        assert expected == "http://192.168.1.5:9001"
        assert url(FORWARDED, client=client) == "http://192.168.1.5:9001"

    def test_the_last_value_is_that_of_the_proxy_itself(self) -> None:
        forwarded = {"x-forwarded-host": "evil.example, masks.example:8443"}
        forwarded["x-forwarded-proto"] = "http, https"
        expected = url(forwarded, trusted_proxies="203.0.113.9/32")
        assert expected == "https://masks.example:8443"

    @pytest.mark.parametrize("host", ["a/b", "a b", "a@b", "", "a:b", "a\r\nb"])
    def test_an_invalid_host_is_ignored(self, host: str) -> None:
        forwarded = {**FORWARDED, "x-forwarded-host": host}
        assert url(forwarded, trusted_proxies="0.0.0.0/0") == "https://192.168.1.5:9001"

    def test_an_invalid_scheme_is_ignored(self) -> None:
        forwarded = {**FORWARDED, "x-forwarded-proto": "javascript"}
        assert url(forwarded, trusted_proxies="0.0.0.0/0") == "http://masks.example"
