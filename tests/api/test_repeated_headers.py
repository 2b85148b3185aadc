"""Headers that decide something and contradict themselves are refused."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest

from tests.api.pictures import noise
from tests.api.serving import ALICE, BOB, VISUAL, Running
from tests.api.stored_keys import error_message

BODY = {"image": noise(240)}
KEY = ("X-Api-Key", ALICE)
TYPE = ("Content-Type", "application/json")


def post(server: Running, path: str, *headers: tuple[str, str], body: bytes = b"") -> Any:
    content = body or json.dumps(BODY).encode()
    return server.http.post(path, content=content, headers=list(headers))


def basic(key: str) -> str:
    return "Basic " + base64.b64encode(f"x:{key}".encode()).decode()


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("X-Api-Key", ALICE, BOB),
        ("X-Api-Key", ALICE, ""),
        ("Token", ALICE, BOB),
        ("Authorization", f"Bearer {ALICE}", f"Bearer {BOB}"),
        ("Authorization", f"Bearer {ALICE}", basic(BOB)),
        ("Content-Type", "application/json", "multipart/form-data; boundary=x"),
        ("Host", "localhost", "other.example"),
        ("Idempotency-Key", "one", "two"),
        ("Idempotency-Key", "one", "one"),
    ],
)
@pytest.mark.parametrize(
    "path", [f"/v2{VISUAL}", "/v2/sam3-image", "/segment/text", "/api/predict"]
)
def test_several_values_are_refused(
    server: Running, path: str, name: str, first: str, second: str
) -> None:
    others = [header for header in (KEY, TYPE) if header[0] != name]
    answer = post(server, path, *others, (name, first), (name.lower(), second))
    assert answer.status_code == 400, answer.text
    assert f"several headers `{name}`" in error_message(answer)
    assert ALICE not in answer.text
    assert BOB not in answer.text


@pytest.mark.parametrize(
    "header", [KEY, ("Authorization", f"Bearer {ALICE}"), ("Authorization", basic(ALICE)), TYPE]
)
def test_the_same_value_twice_is_accepted(server: Running, header: tuple[str, str]) -> None:
    """Some proxies repeat headers."""
    assert post(server, VISUAL, KEY, TYPE, header, header).status_code == 200


def test_reading_is_refused_as_well(server: Running) -> None:
    for path in ("/models", "/v2/requests/x", "/metrics"):
        answer = server.http.get(path, headers=[KEY, ("x-api-key", BOB)])
        assert answer.status_code == 400


def test_several_keys_in_the_url_are_refused(server: Running) -> None:
    url = f"{VISUAL}?api_key={ALICE}&api_key="
    answer = post(server, url + BOB)
    assert answer.status_code == 400
    assert "several parameters `api_key`" in error_message(answer)
    assert post(server, url + ALICE).status_code == 200


def test_encodings_are_a_list(server: Running) -> None:
    """Of several headers, all count: the body is refused, not taken for what one of them says."""
    body = gzip.compress(json.dumps(BODY).encode())
    for values, status in ((("gzip", "gzip"), 415), (("deflate", "gzip"), 415)):
        encodings = [("content-encoding", value) for value in values]
        assert post(server, VISUAL, KEY, *encodings, body=body).status_code == status
    both = [("content-encoding", value) for value in ("identity", "gzip")]
    assert post(server, VISUAL, KEY, *both, body=body).status_code == 200
