"""The field `code` of errors: the documented words, in the body of every API."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference_server.api.app import VENDOR_APIS
from inference_server.api.endpoint import VendorApi
from inference_server.api.invalid_http import REFUSALS
from inference_server.errors import InferenceServerError
from tests.api.pictures import Picture
from tests.api.serving import CONCEPT, Running, RunningHere

PAGE = Path(__file__).parents[2] / "docs" / "answers.md"


def kinds(kind: type[InferenceServerError] = InferenceServerError) -> Iterator[type[Any]]:
    """All errors."""
    yield kind
    for each in kind.__subclasses__():
        yield from kinds(each)


def test_the_page_lists_all_codes() -> None:
    section = PAGE.read_text().partition("### Error codes")[2].partition("\n#")[0]
    listed = re.findall(r"^\| `(\w+)` \| (\d+) \| .+ \| .+ \|$", section, re.M)
    package = [kind for kind in kinds() if kind.__module__ == "inference_server.errors"]
    expected = {(kind.reason, str(kind.status)) for kind in package}
    expected |= {(code, str(status)) for status, (_, code) in REFUSALS.items()}
    assert sorted(listed) == sorted(expected)
    assert len({code for code, _ in listed}) == len(listed)


@pytest.mark.parametrize("api", VENDOR_APIS, ids=lambda api: api.operations[0].operation_id)
def test_every_api_tells_the_code(api: VendorApi) -> None:
    body = api.wording(InferenceServerError("Anything."))
    own = body.get("error")
    code = own["code"] if isinstance(own, dict) else body["code"]  # X-AnyLabeling has its own
    assert code in ("internal", "INFERENCE_ERROR")


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (CONCEPT, {}, "validation"),
        (CONCEPT, b"[]", "prompt"),
        (CONCEPT, {"image_id": "never-sent", "prompts": [{"text": "x"}]}, "unknown_image"),
        ("/v1/sam3-image", {"image": "?"}, "image"),
        ("/v1/sam3-image", {}, "validation"),
        ("/api/sam2_compatible", {"inputs": {"image": "?"}}, "bad_request"),
        ("/segment/text", b"", "prompt"),
        ("/sam3/nothing", {}, "unknown_path"),
        ("/v1/nothing", {}, "unknown_path"),
        ("/segment/nothing", {}, "unknown_path"),
        ("/readyz", {}, "method"),
    ],
)
def test_codes_of_responses(server: Running, path: str, body: Any, code: str) -> None:
    assert server.post(path, body).json()["code"] == code


@pytest.mark.parametrize("path", [CONCEPT, "/v1/sam3-image", "/api/predict", "/segment/text"])
def test_a_missing_key(server: Running, path: str, picture: Picture) -> None:
    response = server.post(path, {"image": picture.sent}, key=None)
    assert response.status_code == 401
    assert response.json()["code"] == "auth"


def test_before_the_application(listening: RunningHere) -> None:
    host, port = listening.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
        assert b'"code":"bad_request"' in connection.makefile("rb").read()
