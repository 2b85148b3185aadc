"""The wrapper of all operations, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields
from unittest.mock import Mock

import orjson
import pytest
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from inference_server.api.dependencies import limits_of
from inference_server.api.endpoint import VendorApi, _RequestBody, endpoint
from inference_server.api.middleware.admission import Admission
from inference_server.api.openapi import Operation
from inference_server.api.responses import accepts_gzip
from inference_server.errors import (
    AuthError,
    InferenceServerError,
    ModelUnavailableError,
    PromptError,
)
from schemas.common import Limits
from tests.api.serving import settings


@pytest.mark.parametrize(
    ("accepted", "allowed"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("gzip, deflate, br", True),
        ("br;q=1.0, gzip;q=0.001", True),
        ("*", True),
        ("br, *;q=0.1", True),
        ("", False),
        ("identity", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("xgzip", False),
        (",,;;q=,", False),
    ],
)
def test_gzip_is_used_if_accepted(accepted: str, allowed: bool) -> None:
    assert accepts_gzip(accepted) is allowed


def test_the_limits_of_requests_are_settings() -> None:
    assert limits_of(settings()) == Limits()
    for number, field in enumerate(fields(Limits), 64):
        assert getattr(limits_of(settings(**{field.name: number})), field.name) == number


def _not_an_integer() -> None:
    TypeAdapter(int).validate_python("?")


def _invalid_request() -> None:
    raise PromptError("Points lie outside.")


def _unknown_key() -> None:
    raise AuthError("Who are you?")


def _without_weights() -> None:
    raise ModelUnavailableError("There are no weights.")


@pytest.mark.parametrize(
    ("fail", "status", "text"),
    [
        (_not_an_integer, 400, "Input should be a valid integer"),
        (_invalid_request, 400, "Points lie outside."),
        (_unknown_key, 401, "Who are you?"),
        (_without_weights, 502, "There are no weights."),
    ],
)
def test_all_errors_have_the_format_of_the_api(
    fail: Callable[[], None], status: int, text: str
) -> None:
    async def handler(request: Request) -> Response:
        del request
        fail()
        return Response()

    def wording(error: InferenceServerError) -> dict[str, str]:
        return {"error": error.message}

    operation = Operation("post", "/x", "x", "", "", (), handler, {})
    app = Mock()
    app.state.server.settings.request_timeout = 60
    app.state.server.admission = Admission(1)
    scope = {"type": "http", "method": "POST", "headers": [], "query_string": b"", "app": app}
    request = Request(scope)
    serve = endpoint(operation, VendorApi((operation,), wording, invalid=400, statuses={503: 502}))

    async def served() -> Response:
        return await serve(request)

    response = asyncio.run(served())
    assert response.status_code == status
    body = orjson.loads(response.body)
    assert body["error"].startswith(text)


async def _received(*messages: Message) -> tuple[list[Message], int]:
    """Return what a handler reads, and how many messages were fetched at the disconnect."""
    fetched = 0

    async def receive() -> Message:
        nonlocal fetched
        fetched += 1
        return messages[fetched - 1]

    begun: list[bool] = []
    line = _RequestBody(receive, {}, lambda: begun.append(True))
    disconnected = asyncio.ensure_future(line.wait_for_disconnect())
    read: list[Message] = []
    while not read or read[-1].get("more_body"):
        for _ in range(5):
            await asyncio.sleep(0)
        assert fetched == len(read), "only the handler reads the body"
        read.append(await line.receive())
    await asyncio.wait_for(disconnected, 60)
    assert len(begun) == (read[-1]["type"] == "http.request"), (
        "work begins when the body is complete"
    )
    return read, fetched


def test_a_disconnect_is_noticed_after_the_body_and_nothing_is_read_before() -> None:
    first: Message = {"type": "http.request", "body": b"1", "more_body": True}
    last: Message = {"type": "http.request", "body": b"2", "more_body": False}
    gone: Message = {"type": "http.disconnect"}
    assert asyncio.run(_received(first, first, last, gone)) == ([first, first, last], 4)
    assert asyncio.run(_received(gone, gone)) == ([gone], 2)
