from __future__ import annotations

import base64

import pytest

from inference_server.auth import KeyRing, Tenant, generate_key, key_from_request
from inference_server.errors import AuthError


def basic(text: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def test_a_known_key_names_its_tenant() -> None:
    ring = KeyRing(auth="on", api_keys=" first , second,,")
    first, second = ring.authenticate("first"), ring.authenticate("second")
    assert first != second
    assert first == KeyRing(auth="on", api_keys="first").authenticate("first")


def test_a_tenants_name_does_not_show_the_key() -> None:
    key = generate_key()
    name = KeyRing(auth="on", api_keys=key).authenticate(key).name
    assert len(name) == 16
    assert name not in key
    assert key not in name


@pytest.mark.parametrize("candidate", [None, "", "guess", "first,second", "firs", "\ud800", "é"])
def test_other_keys_are_refused_without_repeating_them(candidate: str | None) -> None:
    with pytest.raises(AuthError) as caught:
        KeyRing(auth="on", api_keys="first,second").authenticate(candidate)
    message = caught.value.message
    assert caught.value.status == 401
    for way in ("query", "body", "Bearer", "x-api-key", "Basic"):
        assert way in message
    if candidate:
        assert candidate not in message


@pytest.mark.parametrize("api_keys", ["", " , "])
@pytest.mark.parametrize("candidate", [None, "", ",", " ", "anything"])
def test_without_keys_nobody_gets_in(api_keys: str, candidate: str | None) -> None:
    with pytest.raises(AuthError):
        KeyRing(auth="on", api_keys=api_keys).authenticate(candidate)


@pytest.mark.parametrize("candidate", [None, "first", "wrong"])
def test_off_serves_one_anonymous_tenant(candidate: str | None) -> None:
    ring = KeyRing(auth="off", api_keys="first")
    assert ring.authenticate(candidate) == Tenant("anonymous")


def test_the_ring_does_not_hold_keys() -> None:
    ring = KeyRing(auth="on", api_keys="the-secret")
    assert "the-secret" not in repr(vars(ring))


def test_generated_keys_differ_and_need_no_quoting() -> None:
    keys = {generate_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.replace("-", "").replace("_", "").isalnum() for key in keys)


@pytest.mark.parametrize(
    ("query", "headers", "body"),
    [
        ({"api_key": "KEY"}, {}, None),
        ({}, {}, {"api_key": "KEY"}),
        ({}, {"authorization": "Bearer KEY"}, None),
        ({}, {"authorization": "bearer  KEY "}, {}),
        ({}, {"x-api-key": "KEY"}, None),
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
def test_a_key_is_found_in_each_of_the_five_ways(
    query: dict[str, str], headers: dict[str, str], body: dict[str, object] | None
) -> None:
    assert key_from_request(query, headers, body) == "KEY"


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": "KEY"}, basic(":")],
)
def test_no_key_is_none(headers: dict[str, str]) -> None:
    assert key_from_request({}, headers, {"api_key": None}) is None


def test_a_password_may_contain_colons() -> None:
    assert key_from_request({}, basic("x:a:b")) == "a:b"
