"""Generating keys, extracting them from requests, and looking up keys of the settings."""

from __future__ import annotations

import base64

import pytest

from inference_server.auth import KeyRing, generate_key, key_from_request
from inference_server.auth.keys import generate_stored_key, id_of, salted_digest


def basic(text: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def test_a_known_key_names_its_tenant() -> None:
    ring = KeyRing(["first", "second"])
    first, second = ring.find("first"), ring.find("second")
    assert first is not None
    assert second is not None
    assert first.tenant != second.tenant
    assert first == KeyRing(["first"]).find("first")
    assert len(ring) == 2


def test_a_tenants_name_does_not_show_the_key() -> None:
    key = generate_key()
    found = KeyRing([key]).find(key)
    assert found is not None
    name = found.tenant.name
    assert len(name) == 16
    assert name not in key
    assert key not in name
    assert key not in repr(found)


@pytest.mark.parametrize("candidate", ["", "guess", "first,second", "firs", "\ud800", "é"])
def test_other_keys_are_unknown(candidate: str) -> None:
    assert KeyRing(["first", "second"]).find(candidate) is None


def test_only_digests_of_keys_are_kept() -> None:
    ring = KeyRing(["a-plain-key"])
    assert "a-plain-key" not in repr(vars(ring))


def test_without_keys_every_key_is_unknown() -> None:
    assert KeyRing([]).find("anything") is None
    assert not KeyRing([])


def test_keys_of_the_settings_have_their_scopes() -> None:
    both, one = KeyRing(["key"]).find("key"), KeyRing(["key"], ["segment"]).find("key")
    assert both is not None
    assert one is not None
    assert both.scopes == {"segment", "admin"}
    assert one.scopes == {"segment"}


def test_generated_keys_differ_and_need_no_quoting() -> None:
    keys = {generate_key() for _ in range(100)} | {generate_stored_key()[1] for _ in range(100)}
    assert len(keys) == 200
    assert all(key.replace("-", "").replace("_", "").isalnum() for key in keys)


def test_a_stored_key_has_256_bits_beside_its_id() -> None:
    key_id, key = generate_stored_key()
    assert id_of(key) == key_id
    bits = key.removeprefix(f"inf_{key_id}_")
    assert len(base64.urlsafe_b64decode(bits + "=")) == 32
    for other in ("", key[:-1], key + "A", key.replace("inf", "Inf"), f"x{key}", f"{key}\n"):
        assert id_of(other) is None


def test_a_digest_is_salted() -> None:
    assert salted_digest("key", b"a" * 16) != salted_digest("key", b"b" * 16)
    assert salted_digest("key", b"a" * 16) == salted_digest("key", b"a" * 16)
    assert len(salted_digest("\ud800", b"a" * 16)) == 32


@pytest.mark.parametrize(
    ("query", "headers", "body"),
    [
        ({"api_key": "KEY"}, {}, None),
        ({}, {}, {"api_key": "KEY"}),
        ({}, {"authorization": "Bearer KEY"}, None),
        ({}, {"authorization": "bearer  KEY "}, {}),
        ({}, {"x-api-key": "KEY"}, None),
        ({}, {"token": "KEY"}, None),
        ({}, {"x-api-key": "KEY", "token": "other"}, None),
        ({}, basic("x:KEY"), None),
        ({}, basic("KEY:"), None),
        ({}, basic("KEY"), None),
        ({}, {"authorization": "Digest other", "x-api-key": "KEY"}, None),
        ({}, {"authorization": "Basic %%%", "x-api-key": "KEY"}, None),
        ({}, {"authorization": "Basic /w==", "x-api-key": "KEY"}, None),
        ({"api_key": ""}, {"x-api-key": "KEY"}, {"api_key": ""}),
        ({}, {"x-api-key": "KEY"}, {"api_key": 5}),
        ({"api_key": "KEY"}, {"x-api-key": "other", **basic("x:other")}, {"api_key": "other"}),
        ({}, {"x-api-key": "other"}, {"api_key": "KEY"}),
    ],
)
def test_a_key_is_found_in_every_place(
    query: dict[str, str], headers: dict[str, str], body: dict[str, object] | None
) -> None:
    assert key_from_request(query, headers, body) == "KEY"


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": "KEY"}, basic(":")],
)
def test_a_missing_key_is_none(headers: dict[str, str]) -> None:
    assert key_from_request({}, headers, {"api_key": None}) is None


def test_a_password_may_contain_colons() -> None:
    assert key_from_request({}, basic("x:a:b")) == "a:b"
