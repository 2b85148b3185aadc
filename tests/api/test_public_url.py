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


def test_the_setting_goes_before_everything() -> None:
    headers = {"host": "localhost", "x-forwarded-host": "a.example"}
    told = url(headers, public_url="https://b.example/masks/", trusted_proxies="203.0.113.0/24")
    assert told == "https://b.example/masks"


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("localhost:8080", "http://localhost:8080"),
        ("127.0.0.1:9001", "http://127.0.0.1:9001"),
        ("[::1]:9001", "http://[::1]:9001"),
        ("192.168.1.5", "http://192.168.1.5"),
        ("192.168.1.5:80", "http://192.168.1.5:80"),
        ("gpu.example:9001", "http://gpu.example:9001"),
    ],
)
def test_a_host_that_is_this_server_is_believed(host: str, told: str) -> None:
    assert url({"host": host}, host="gpu.example") == told


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
def test_any_other_host_is_not(host: str) -> None:
    assert url({"host": host}) == "http://192.168.1.5:9001"


def test_addresses_of_version_6() -> None:
    assert url(server=("fd00::7", 9001)) == "http://[fd00::7]:9001"
    assert url({"host": "[fd00::7]:80"}, server=("fd00::7", 9001)) == "http://[fd00::7]:80"


def test_without_an_address_of_the_connection_the_settings_count() -> None:
    assert url(server=None, port=7000) == "http://127.0.0.1:7000"
    assert url(server=("/run/server.sock", None)) == "http://127.0.0.1:9001"


def test_the_scheme_of_the_connection() -> None:
    assert url(scheme="https") == "https://192.168.1.5:9001"


FORWARDED = {"x-forwarded-host": "masks.example", "x-forwarded-proto": "https"}


class TestProxies:
    def test_are_believed_if_they_are_trusted(self) -> None:
        trusted = "10.0.0.0/8, 203.0.113.0/24"
        assert url(FORWARDED, trusted_proxies=trusted) == "https://masks.example"
        assert url(FORWARDED, client="::ffff:10.0.0.1", trusted_proxies=trusted).startswith(
            "https://masks.example"
        )

    @pytest.mark.parametrize("client", ["203.0.114.1", "127.0.0.1", "unix"])
    def test_are_not_believed_otherwise(self, client: str) -> None:
        told = url(FORWARDED, client=client, trusted_proxies="203.0.113.0/24")
        assert told == "http://192.168.1.5:9001"
        assert url(FORWARDED, client=client) == "http://192.168.1.5:9001"

    def test_the_last_value_is_that_of_the_proxy_itself(self) -> None:
        forwarded = {"x-forwarded-host": "evil.example, masks.example:8443"}
        forwarded["x-forwarded-proto"] = "http, https"
        told = url(forwarded, trusted_proxies="203.0.113.9/32")
        assert told == "https://masks.example:8443"

    @pytest.mark.parametrize("host", ["a/b", "a b", "a@b", "", "a:b", "a\r\nb"])
    def test_what_is_no_host_is_ignored(self, host: str) -> None:
        forwarded = {**FORWARDED, "x-forwarded-host": host}
        assert url(forwarded, trusted_proxies="0.0.0.0/0") == "https://192.168.1.5:9001"

    def test_a_scheme_that_is_none_is_ignored(self) -> None:
        forwarded = {**FORWARDED, "x-forwarded-proto": "javascript"}
        assert url(forwarded, trusted_proxies="0.0.0.0/0") == "http://masks.example"
