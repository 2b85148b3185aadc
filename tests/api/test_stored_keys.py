"""Keys in the database: scopes, rates and credits."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from inference_server.errors import (
    CapacityError,
    DeadlineError,
    InferenceServerError,
    MemoryShortageError,
    ModelUnavailableError,
)
from tests.api import rasters
from tests.api.pictures import Picture, noise
from tests.api.serving import ALICE, CONCEPT, TIMEOUT, VISUAL, serving, until
from tests.api.stored_keys import COSTS, WORK, Keyed, error_message, is_segmind, keyed
from tests.api.test_keys import send, ways
from tests.api.test_openapi_document import FILE, assert_fits

DOCUMENT = json.loads(FILE.read_bytes())


@pytest.fixture(scope="module")
def segmenting(running: Keyed) -> str:
    """A key with the scope `segment` only."""
    return running.create("segmenting")[0]


@pytest.fixture(scope="module")
def administering(running: Keyed) -> str:
    """A key with the scope `admin` only."""
    return running.create("administering", scopes=("admin",))[0]


def fits(response: httpx.Response) -> None:
    """Assert that the OpenAPI document describes a response."""
    request = response.request
    assert_fits(DOCUMENT, request.method.lower(), request.url.path, response)


@pytest.mark.parametrize("way", ways(""))
def test_a_key_is_accepted_in_every_way(running: Keyed, segmenting: str, way: str) -> None:
    assert send(running.server.url, **ways(segmenting)[way]).status_code == 200


@pytest.mark.parametrize("change", ["secret", "id", "end", "case"])
def test_a_similar_key_is_refused(running: Keyed, segmenting: str, change: str) -> None:
    prefix, key_id, secret = segmenting.split("_", 2)
    other = "0" * 12 if key_id != "0" * 12 else "1" * 12
    near = {
        "secret": f"{prefix}_{key_id}_{'A' * 43}",
        "id": f"{prefix}_{other}_{secret}",
        "end": segmenting[:-2],
        "case": f"{prefix}_{key_id}_{secret.swapcase()}",
    }[change]
    response = running.server.post(VISUAL, {"image": noise(1)}, key=near)
    assert response.status_code == 401
    assert "wrong" in error_message(response)
    assert near not in response.text
    fits(response)


def test_changes_take_effect_in_a_running_server(running: Keyed) -> None:
    """Without a restart."""
    key, made = running.create("changing")
    server, body = running.server, {"image": noise(2)}
    assert server.post(VISUAL, body, key=key).status_code == 200
    assert server.get("/metrics", key=key).status_code == 403
    running.store.change(made.id, {"scopes": ("admin",)})
    until(lambda: server.get("/metrics", key=key).status_code == 200)
    assert server.post(VISUAL, body, key=key).status_code == 403
    running.store.change(made.id, {"scopes": ("segment",), "expires": 1.0})
    until(lambda: server.post(VISUAL, body, key=key).status_code == 401)
    expired = server.post(VISUAL, body, key=key)
    assert "expired" in error_message(expired)
    fits(expired)
    running.store.change(made.id, {"expires": None})
    until(lambda: server.post(VISUAL, body, key=key).status_code == 200)
    running.store.revoke(made.id)
    until(lambda: server.post(VISUAL, body, key=key).status_code == 401)
    revoked = server.post(VISUAL, body, key=key)
    assert "revoked" in error_message(revoked)
    # Only a client with the whole key learns that it was revoked, not one with its id.
    near = key[:-3] + ("AAA" if key[-3:] != "AAA" else "BBB")
    assert "wrong" in error_message(server.post(VISUAL, body, key=near))


def test_a_key_expires(running: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    key, _ = running.create("short", expires=time.time() + 3600)
    later = SimpleNamespace(time=lambda: time.time() + 3600)
    monkeypatch.setattr("inference_server.auth.repository.time", later)
    assert running.server.get("/models", key=key).status_code == 401


@pytest.mark.parametrize("name", WORK)
def test_work_needs_the_scope_segment(
    running: Keyed, administering: str, picture: Picture, name: str
) -> None:
    response = WORK[name][0](running.server, picture, administering)
    assert response.status_code == 403, response.text
    assert "scope `segment`" in error_message(response)
    fits(response)


def test_administration_needs_the_scope_admin(
    running: Keyed, segmenting: str, administering: str
) -> None:
    server = running.server
    named = {"model_id": "sam3/sam3_final"}
    for method, path, body in (
        ("delete", "/models", None),
        ("get", "/metrics", None),
        ("post", "/model/add", named),
        ("post", "/model/remove", named),
        ("post", "/model/clear", None),
    ):
        headers = {"x-api-key": segmenting}
        refused = server.http.request(method, path, headers=headers, json=body)
        assert refused.status_code == 403
        assert "scope `admin`" in error_message(refused)
        fits(refused)
        headers = {"x-api-key": administering}
        assert server.http.request(method, path, headers=headers, json=body).status_code == 200
    for key in (segmenting, administering):
        assert server.get("/models", key=key).status_code == 200
        assert server.get("/model/registry", key=key).status_code == 200
        assert server.post("/model/registry", b"", key=key).status_code == 200


def test_jobs_need_the_scope_segment(running: Keyed, administering: str, picture: Picture) -> None:
    server = running.server
    job = WORK["job concept"][0](server, picture, ALICE).json()
    for url in (job["status_url"], job["response_url"]):
        response = server.get(url, key=administering)
        assert response.status_code == 403
        assert "scope `segment`" in response.json()["error"]
        assert server.get(url).status_code == 200


def test_scopes_of_the_keys_of_the_settings_and_open_metrics() -> None:
    with serving(ready=False, api_key_scopes="segment", metrics_access="open") as server:
        assert server.http.delete("/models", headers={"x-api-key": ALICE}).status_code == 403
        assert server.get("/metrics", key=None).status_code == 200
        assert server.get("/models").status_code == 200
        assert server.get("/models", key=None).status_code == 401


@pytest.mark.parametrize("name", WORK)
def test_work_costs_credits(running: Keyed, picture: Picture, name: str) -> None:
    """A request costs what its kind of work costs, and gets 402 without enough credits."""
    work, cost = WORK[name]
    key, made = running.create(name, credits=cost + 1)
    paid = work(running.server, picture, key)
    assert paid.status_code in (200, 404), paid.text
    if not name.startswith("job"):
        assert paid.headers["x-credits-remaining"] == "1"
    assert running.credits_left(made) == 1
    refused = (
        WORK["visual"][0](running.server, picture, key)
        if cost == 1
        else work(running.server, picture, key)
    )
    path = refused.request.url.path
    assert refused.status_code == (406 if is_segmind(path) else 402), refused.text
    assert "Insufficient credits" in error_message(refused)
    assert "has 1 left" in error_message(refused)
    assert "x-credits-remaining" not in refused.headers
    fits(refused)
    assert running.credits_left(made) == 1
    # A failed job is refunded, which reduces its usage again.
    until(lambda: running.used(made)[0] == 2)


def test_a_request_that_finds_nothing_is_charged(running: Keyed, picture: Picture) -> None:
    key, made = running.create("nothing", credits=5)
    response = rasters.post(running.server, "/segment/text", picture.data, key=key, prompt="star")
    assert response.status_code == 404
    assert response.headers["x-credits-remaining"] == "3"
    assert running.credits_left(made) == 3


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"image": {"type": "base64", "value": "bm90IGFuIGltYWdl"}}),
        (404, {"image_id": "unknown"}),
        (422, {"image": 7}),
        (422, {"image": noise(3), "prompts": [{"points": [{"x": 1, "y": "?"}]}]}),
    ],
)
def test_an_invalid_request_costs_nothing(running: Keyed, status: int, body: Any) -> None:
    key, made = running.create("invalid", credits=3)
    response = running.server.post(VISUAL, body, key=key)
    assert response.status_code == status
    assert "x-credits-remaining" not in response.headers
    # A response does not wait indefinitely for its refund.
    until(lambda: running.credits_left(made) == 3)
    # The refunded credits pay for the next request.
    assert running.server.post(VISUAL, {"image": noise(3)}, key=key).status_code == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CapacityError("full"), 429),
        (DeadlineError("late"), 504),
        (ModelUnavailableError("missing"), 503),
        (MemoryShortageError("short"), 503),
        (InferenceServerError("broken"), 500),
        (RuntimeError("broken"), 500),
    ],
)
def test_a_server_error_costs_nothing(
    running: Keyed, error: Exception, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, made = running.create("failing", credits=3)

    async def fails(*_: Any, **__: Any) -> None:
        assert running.credits_left(made) == 0  # it is charged before it starts
        raise error

    monkeypatch.setattr(running.server.state.segmenter, "visual", fails)
    response = running.server.post(VISUAL, {"image": noise(4)}, key=key)
    assert response.status_code == status
    until(lambda: running.credits_left(made) == 3)
    until(lambda: running.used(made) == (1, 1, 0))


def test_parallel_requests_cannot_overspend(running: Keyed) -> None:
    key, made = running.create("parallel", credits=4 * 3 + 1)

    def ask(seed: int) -> int:
        return running.server.post(VISUAL, {"image": noise(seed % 2)}, key=key).status_code

    with ThreadPoolExecutor(10) as threads:
        statuses = list(threads.map(ask, range(10)))
    assert sorted(statuses) == [200] * 4 + [402] * 6
    assert running.credits_left(made) == 1
    until(lambda: running.used(made) == (10, 6, 12))


def test_free_requests_need_no_credits(tmp_path: Path) -> None:
    with keyed(tmp_path / "data", ready=False, cost_visual=0) as running:
        key, made = running.create("empty", credits=0)
        response = running.server.post(VISUAL, {"image": 7}, key=key)
        assert response.status_code == 422
        assert running.server.post(CONCEPT, {"prompts": 7}, key=key).status_code == 422
        assert running.credits_left(made) == 0


def test_a_failed_job_is_refunded(running: Keyed) -> None:
    key, made = running.create("job", credits=4)
    body = {"image": {"type": "base64", "value": "bm90IGFuIGltYWdl"}, "prompts": [{"text": "x"}]}
    job = running.server.post(f"/v2{CONCEPT}", body, key=key).json()
    status = job["status_url"]
    until(lambda: running.server.get(status, key=key).json()["status"] == "FAILED")
    assert running.credits_left(made) == 4
    until(lambda: running.used(made) == (1, 0, 0))


def test_usage_counts_credits_of_unlimited_keys(running: Keyed, picture: Picture) -> None:
    """Usage records the cost of their requests, except of failed ones."""
    key, made = running.create("unlimited")
    response = WORK["visual"][0](running.server, picture, key)
    assert response.status_code == 200
    assert "x-credits-remaining" not in response.headers
    assert running.server.post(VISUAL, {"image": 7}, key=key).status_code == 422
    assert WORK["job visual"][0](running.server, picture, key).status_code == 200
    until(lambda: running.used(made) == (3, 1, 6))
    assert running.credits_left(made) is None


def test_keys_of_the_settings_are_in_the_usage_without_their_secret(running: Keyed) -> None:
    assert running.server.post(VISUAL, {"image": noise(5)}).status_code == 200
    tenant = running.server.state.auth.authenticate(ALICE).tenant.name

    def counted() -> bool:
        return any(each.key_id == tenant for each in running.store.usage("2000-01-01"))

    until(counted)
    assert ALICE not in str(running.store.usage("2000-01-01"))


@pytest.mark.parametrize("name", ["concept", "text", "sam3-image", "space", "job concept"])
def test_a_rate_error_has_the_format_of_its_api(
    running: Keyed, picture: Picture, name: str
) -> None:
    work, cost = WORK[name]
    key, made = running.create("slow", rate="2/h", credits=100)
    for _ in range(2):
        assert work(running.server, picture, key).status_code == 200
    refused = work(running.server, picture, key)
    assert refused.status_code == 429
    assert "2 per 1 hour" in error_message(refused)
    assert 1 <= int(refused.headers["retry-after"]) <= 3600
    fits(refused)
    assert running.credits_left(made) == 100 - 2 * cost
    until(lambda: running.used(made) == (3, 1, 2 * cost))


def test_a_rate_applies_however_the_key_is_sent(running: Keyed) -> None:
    key, _ = running.create("slow", rate="2/h")
    sent = [send(running.server.url, **way).status_code for way in ways(key).values()]
    assert sent == [200] * 2 + [429] * (len(sent) - 2)
    # The rate applies to this key, not to its tenant.
    assert running.server.post(VISUAL, {"image": noise(6)}).status_code == 200


def test_a_rate_limits_work_only(running: Keyed, picture: Picture) -> None:
    key, _ = running.create("polling", rate="1/h", scopes=("segment", "admin"))
    server = running.server
    job = WORK["job visual"][0](server, picture, key).json()
    for url in (job["status_url"], job["response_url"], "/models", "/metrics"):
        for _ in range(3):
            assert server.get(url, key=key).status_code == 200
    assert server.post(VISUAL, {"image": noise(6)}, key=key).status_code == 429


def test_a_rate_does_not_limit_administration(running: Keyed) -> None:
    key, _ = running.create("managing", rate="1/h", scopes=("admin",))
    for _ in range(3):
        for body in (b"", {"api_key": key}):
            sent = key if body == b"" else None
            assert running.server.post("/model/registry", body, key=sent).status_code == 200
    assert running.server.get("/model/registry", key=key).status_code == 200


def test_a_rate_error_is_sent_before_the_body_is_read(running: Keyed) -> None:
    key, _ = running.create("eager", rate="1/h")
    assert running.server.post(VISUAL, {"image": noise(6)}, key=key).status_code == 200
    host, port = running.server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
        head = f"POST {VISUAL} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-length: 900000"
        connection.sendall(f"{head}\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 429")


def test_browsers_can_read_the_remaining_credits(running: Keyed) -> None:
    key, _ = running.create("browser", credits=9)
    response = running.server.post(
        VISUAL, {"image": noise(6)}, key=key, origin="https://example.com"
    )
    assert response.headers["x-credits-remaining"] == str(9 - COSTS["cost_visual"])
    assert "x-credits-remaining" in response.headers["access-control-expose-headers"]
