"""Authentication: which keys are accepted, and the ways to send one."""

from __future__ import annotations

import base64
import socket
from typing import Any

import httpx
import pytest

from tests.api.pictures import noise
from tests.api.serving import ALICE, BOB, CONCEPT, SAM3_EMBED, VISUAL, Running, RunningHere, serving


@pytest.fixture(scope="session")
def server(listening: RunningHere) -> RunningHere:
    """A server behind a socket."""
    return listening


IMAGE = noise(200)
OPEN = ("/", "/livez", "/readyz", "/openapi.json")
CLOSED = ("/models", "/metrics")


def basic(text: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def ways(key: str) -> dict[str, Any]:
    """Every way to send a key, as arguments of `httpx`."""
    return {
        "query": {"params": {"api_key": key}},
        "body": {"json": {"api_key": key}},
        "bearer": {"headers": {"authorization": f"Bearer {key}"}},
        "bearer in small letters": {"headers": {"authorization": f"bearer {key}"}},
        "header": {"headers": {"x-api-key": key}},
        "password": {"headers": basic(f"x:{key}")},
        "user": {"headers": basic(f"{key}:")},
        "user alone": {"headers": basic(key)},
    }


def send(url: str, **way: Any) -> httpx.Response:
    body = {"image": IMAGE, **way.pop("json", {})}
    return httpx.post(url + VISUAL, json=body, timeout=120, **way)


@pytest.mark.parametrize("way", ways(""))
def test_a_key_is_accepted_in_every_way(server: Running, way: str) -> None:
    response = send(server.url, **ways(ALICE)[way])
    assert response.status_code == 200, response.text


def test_a_key_in_the_base_url(server: Running) -> None:
    host = server.url.removeprefix("http://")
    for credentials in (f"x:{ALICE}", f"{ALICE}:"):
        assert send(f"http://{credentials}@{host}").status_code == 200


@pytest.mark.parametrize("way", ways(""))
def test_a_wrong_key_is_refused_in_every_way(server: Running, way: str) -> None:
    response = send(server.url, **ways("a-wrong-key")[way])
    assert response.status_code == 401
    assert set(response.json()) == {"message", "code"}
    assert "wrong" in response.json()["message"]
    assert "a-wrong-key" not in response.text
    assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"params": {"api_key": ""}},
        {"params": {"key": ALICE}},
        {"json": {"api_key": None}},
        {"json": {"api_key": 7}},
        {"json": {"api_key": [ALICE]}},
        {"headers": {"authorization": ALICE}},
        {"headers": {"authorization": "Basic !!!"}},
        {"headers": {"authorization": "Bearer"}},
        {"headers": {"authorization": f"Digest {ALICE}"}},
        {"headers": {"x-api-key": ""}},
        {"headers": {"cookie": f"api_key={ALICE}"}},
    ],
)
def test_a_missing_key(server: Running, way: dict[str, Any]) -> None:
    response = send(server.url, **way)
    assert response.status_code == 401
    assert "missing" in response.json()["message"]


@pytest.mark.parametrize("key", [ALICE + " ", ALICE[:-1], ALICE.upper(), f"{ALICE},{BOB}", "é€"])
def test_a_similar_key_is_refused(server: Running, key: str) -> None:
    assert send(server.url, params={"api_key": key}).status_code == 401
    assert send(server.url, json={"api_key": key}).status_code == 401


def test_without_a_key_nothing_about_the_request_is_revealed(server: Running) -> None:
    """A client without a key cannot learn what is valid or cached, or which models exist."""
    bodies: list[bytes] = [b"", b"{", b"[]", b"null", b'{"image_id": "x"}', b'{"prompts": 1}']
    for body in bodies:
        for path in (CONCEPT, VISUAL, SAM3_EMBED):
            assert server.post(path, body, key=None).status_code == 401
            assert server.post(path, body, key="wrong").status_code == 401


def test_a_wrong_key_is_refused_before_the_body_is_read(server: Running) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = f"POST {VISUAL} HTTP/1.1\r\nhost: x\r\nx-api-key: wrong\r\ncontent-length: 900000"
        connection.sendall(f"{head}\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 401")


def test_public_endpoints(server: Running) -> None:
    for path in OPEN:
        assert server.get(path, key=None).status_code == 200, path
        assert server.get(path, key="wrong").status_code == 200, path


def test_protected_endpoints(server: Running) -> None:
    for path in CLOSED:
        assert server.get(path, key=None).status_code == 401, path
        assert server.get(path, key="wrong").status_code == 401, path
        assert server.get(path).status_code == 200, path


def test_auth_off_serves_all_clients() -> None:
    with serving(auth="off", api_keys="") as server:
        for way in ({}, {"params": {"api_key": "whatever"}}, {"headers": basic("x:y")}):
            assert send(server.url, **way).status_code == 200
        # All of them are one tenant.
        assert send(server.url).headers["x-embedding-cache"] == "hit"
        assert server.get("/models", key=None).status_code == 200


def test_without_configured_keys_all_requests_are_refused() -> None:
    with serving(ready=False, api_keys="") as server:
        for way in ways(ALICE).values():
            assert send(server.url, **way).status_code == 401


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "192.0.2.7"])
def test_auth_off_is_logged_if_other_machines_can_connect(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the setting differs; the test server always listens on the loopback."""
    with serving(ready=False, auth="off", api_keys="", host=host) as server:
        assert server.get("/models", key=None).status_code == 200
        assert server.get("/metrics", key=None).status_code == 200
        assert server.http.delete("/models").status_code == 200
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    loud = [
        text for text in warnings if "EVERYBODY" in text and f"INFERENCE_AUTH=off on {host}" in text
    ]
    assert len(loud) == (host not in ("127.0.0.1", "localhost"))


def test_missing_keys_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with serving(ready=False, api_keys=""):
        pass
    assert "No API key is configured" in caplog.text
    caplog.clear()
    with serving(ready=False):
        pass
    assert "No API key is configured" not in caplog.text
