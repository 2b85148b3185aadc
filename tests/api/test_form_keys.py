"""API keys in form fields: the key must precede the file."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.pictures import encoded
from tests.api.serving import ALICE, BOB
from tests.api.stored_keys import Keyed
from tests.api.test_openapi_document import FILE, assert_fits

AUTOMATIC = "/segment/automatic"
DOCUMENT = json.loads(FILE.read_bytes())
BOUNDARY = "a-boundary"


def part(name: str, content: bytes, filename: str = "") -> bytes:
    named = f'; filename="{filename}"' if filename else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def post(running: Keyed, body: bytes, **headers: str) -> httpx.Response:
    kind = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    response = running.server.http.post(AUTOMATIC, content=body, headers={**kind, **headers})
    assert_fits(DOCUMENT, "post", AUTOMATIC, response)
    return response


def image(size: int = 32) -> bytes:
    rng = np.random.default_rng(size)
    return encoded(rng.integers(0, 256, (size, size, 3), np.uint8))


FEW = part("points_per_side", b"2")


def test_the_key_as_a_field(running: Keyed) -> None:
    """`requests` and `httpx` send fields first, then files."""
    key, made = running.create("form", credits=9)
    response = running.server.http.post(
        AUTOMATIC,
        data={"points_per_side": "2", "api_key": key},
        files={"file": ("a.png", image())},
    )
    assert response.status_code == 200, response.text
    assert running.credits_left(made) == 4


def test_a_large_file_is_received_completely(running: Keyed) -> None:
    """Bytes that were read to find the key are not lost."""
    large = image(512)
    assert len(large) > 500_000
    plain = post(running, form(FEW, part("file", large, "a.png")), **{"x-api-key": ALICE})
    keyed = post(running, form(part("api_key", ALICE.encode()), FEW, part("file", large, "a.png")))
    assert plain.status_code == keyed.status_code == 200
    assert keyed.headers["x-embedding-cache"] == "hit"
    assert plain.json() == keyed.json()


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [FEW],
        [part("api_key", b"")],
        [part("api_key", b"   ")],
        [part("api_key", b"wrong")],
        [part("api_key", ALICE.encode(), "key.txt")],
        [part("API_KEY", ALICE.encode())],
        [part("api_key", ALICE.encode()), part("api_key", b"wrong")],
    ],
)
def test_without_a_key_nothing_about_the_form_is_revealed(
    running: Keyed, parts: list[bytes]
) -> None:
    for rest in ([part("file", image(), "a.png")], [part("file", b"no image", "a.png")], []):
        response = post(running, form(*parts, *rest))
        assert response.status_code == 401, response.text
        assert ALICE not in response.text


@pytest.mark.parametrize(
    "body", [b"", b"no form", b"--other--", form()[:-9], b"\r\n" * 99, b"--" + b"a" * 99_999]
)
def test_an_invalid_form_without_a_key_gets_401(running: Keyed, body: bytes) -> None:
    assert post(running, body).status_code == 401
    assert post(running, body, **{"x-api-key": ALICE}).status_code in (400, 422)


def test_a_key_outside_the_form_takes_precedence(running: Keyed) -> None:
    """A form is not searched for a key if the query or a header has one."""
    file = part("file", image(), "a.png")
    body = form(part("api_key", b"wrong"), FEW, file)
    assert post(running, body, **{"x-api-key": ALICE}).status_code == 200
    body = form(part("api_key", BOB.encode()), FEW, file)
    assert post(running, body, **{"x-api-key": "wrong"}).status_code == 401


def test_the_key_must_precede_a_large_file(running: Keyed) -> None:
    key = part("api_key", ALICE.encode())
    small, large = part("file", image(), "a.png"), part("file", image(512), "a.png")
    assert post(running, form(FEW, small, key)).status_code == 200
    response = post(running, form(FEW, large, key))
    assert response.status_code == 401
    assert "before the file" in response.json()["detail"]


def test_without_a_key_only_the_beginning_is_read(running: Keyed) -> None:
    """The response arrives although the client has sent a fraction of the announced body."""
    host, port = running.server.url.removeprefix("http://").split(":")
    before = running.server.state.uploads.nbytes
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = (
            f"POST {AUTOMATIC} HTTP/1.1\r\nhost: x\r\ncontent-length: 90000000\r\n"
            f"content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
        )
        begin = part("file", b"\0" * 200_000, "a.png")
        connection.sendall(head.encode() + begin)
        assert connection.recv(1000).startswith(b"HTTP/1.1 401")
    assert running.server.state.uploads.nbytes == before


def test_a_key_in_a_form_is_documented() -> None:
    schemas: dict[str, Any] = DOCUMENT["components"]["schemas"]
    for name in ("AutomaticRequest", "PredictRequest", "TextRequest"):
        assert "precede the file" in schemas[name]["properties"]["api_key"]["description"]
