"""Access log lines and request ids."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.pictures import noise
from tests.api.serving import ALICE, BOB, CONCEPT, TIMEOUT, VISUAL, RunningHere, until


@pytest.fixture(scope="session")
def server(listening: RunningHere) -> RunningHere:
    """A server behind a socket."""
    return listening


class Log:
    """Access log lines as dictionaries of fields."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def of(self, identity: str) -> dict[str, Any]:
        """Return the only line of a request."""
        (line,) = [
            record.__dict__
            for record in self._caplog.records
            if record.name == "inference_server.access"
            and record.__dict__["request_id"] == identity
        ]
        return line


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    with caplog.at_level(logging.DEBUG, "inference_server.access"):
        yield Log(caplog)


@pytest.mark.parametrize("sent", ["a", "0f8fad5b-d9cb-469f-a165-70867728950e", "x" * 64, "A.b_9"])
def test_a_valid_request_id_is_kept(server: RunningHere, log: Log, sent: str) -> None:
    answer = server.get("/models", x_request_id=sent)
    assert answer.headers["x-request-id"] == sent
    assert log.of(sent)["route"] == "/models"


@pytest.mark.parametrize(
    "sent", ["", "x" * 65, "a b", "a\tb", "ä", '"}', "a/b", "a;b", "<script>", "{}", "%0a"]
)
def test_an_invalid_request_id_is_replaced(server: RunningHere, log: Log, sent: str) -> None:
    headers = {"x-api-key": ALICE, "x-request-id": sent.encode("latin-1")}
    answer = server.http.get("/models", headers=headers)  # type: ignore[arg-type]
    made = answer.headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{16}", made)
    assert log.of(made)["status"] == 200


def test_every_response_has_an_id_and_a_log_line(server: RunningHere, log: Log) -> None:
    preflight = {"origin": "https://x.example", "access-control-request-method": "POST"}
    answers = [
        server.http.options(VISUAL, headers=preflight),
        server.get("/openapi.json"),
        server.get("/docs"),
        server.get("/nothing"),
        server.http.delete(VISUAL),
        server.post(VISUAL, {}),
        server.post(VISUAL, b"{"),
        server.post(CONCEPT, {}, key="wrong"),
    ]
    for answer in answers:
        assert log.of(answer.headers["x-request-id"])["status"] == answer.status_code


def test_a_log_line_has_all_fields(server: RunningHere, log: Log) -> None:
    first, again = (server.post(VISUAL, {"image": noise(811)}) for _ in range(2))
    other = server.post(VISUAL, {"image": noise(811)}, key=BOB)
    line = log.of(again.headers["x-request-id"])
    assert line["method"] == "POST"
    assert line["route"] == VISUAL
    assert line["status"] == 200
    assert 0 < line["milliseconds"] < 120_000
    assert line["bytes_in"] == len(again.request.content)
    assert line["bytes_out"] == int(again.headers["content-length"])
    assert line["model"] == server.points_model
    hits = [log.of(answer.headers["x-request-id"])["cache"] for answer in (first, again, other)]
    assert hits == ["miss", "hit", "miss"]
    tenants = [log.of(a.headers["x-request-id"])["tenant"] for a in (first, again, other)]
    assert tenants[0] == tenants[1] != tenants[2]
    assert "reason" not in line
    assert "s3cret" not in str(line)


def test_a_failed_request_logs_its_reason(server: RunningHere, log: Log) -> None:
    expected = {
        "auth": server.post(VISUAL, {"image": noise(812)}, key="wrong"),
        "validation": server.post(VISUAL, {"prompts": 1}),
        "unknown_image": server.post(VISUAL, {"image_id": "nobody's"}),
    }
    for reason, answer in expected.items():
        line = log.of(answer.headers["x-request-id"])
        assert line["reason"] == reason
        assert f" ms ({reason})" in line["message"]
    assert "tenant" not in log.of(expected["auth"].headers["x-request-id"])


def test_query_parameters_are_not_logged(
    server: RunningHere, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (VISUAL, "/nothing", "/docs", "/v2/requests/x"):
        answer = server.http.get(path, params={"api_key": ALICE, "word": "private"})
        assert log.of(answer.headers["x-request-id"])
    assert "private" not in caplog.text
    assert "s3cret" not in caplog.text


def test_probes_are_logged_at_debug_level(server: RunningHere, log: Log) -> None:
    for path in ("/livez", "/readyz", "/health", "/metrics"):
        line = log.of(server.get(path).headers["x-request-id"])
        assert line["levelno"] == logging.DEBUG
    assert log.of(server.get("/models").headers["x-request-id"])["levelno"] == logging.INFO
    refused = server.get("/metrics", key="wrong")
    assert log.of(refused.headers["x-request-id"])["levelno"] == logging.INFO


def test_a_disconnected_client_is_logged(server: RunningHere, log: Log) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
        head = f"POST {VISUAL} HTTP/1.1\r\nhost: x\r\nx-api-key: {ALICE}\r\nx-request-id: gone-1"
        connection.sendall(f"{head}\r\ncontent-length: 1000\r\n\r\n{{".encode())
        # Data that arrives together with the disconnect need not be read.
        until(lambda: server.state.bodies.nbytes == 1)

    def is_logged() -> bool:
        try:
            return bool(log.of("gone-1"))
        except ValueError:
            return False

    until(is_logged)
    line = log.of("gone-1")
    assert (line["status"], line["reason"]) == (499, "gone")
    assert line["bytes_in"] == 1
