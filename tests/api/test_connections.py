"""Limits on connections, and on request heads and bodies while they arrive."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from inference_server.settings import Settings
from tests.api.pictures import noise
from tests.api.rasters import TEXT
from tests.api.serving import ALICE, CONCEPT, TIMEOUT, VISUAL, RunningHere, serving, until
from tests.api.test_load import ask, gated

HEAD_SECONDS, BODY_SECONDS, MOST = 2, 2, 12
PROBE = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(scope="module")
def strict() -> Iterator[RunningHere]:
    """A server with short timeouts."""
    with serving(
        ready=False,
        linger=0.5,
        header_timeout=HEAD_SECONDS,
        body_timeout=BODY_SECONDS,
        max_body_mb=2,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def patient() -> Iterator[RunningHere]:
    """A server with small limits on sizes and a long header timeout."""
    with serving(
        ready=False,
        header_timeout=TIMEOUT,
        max_connections=MOST,
        max_header_kb=8,
        max_body_mb=2,
    ) as running:
        yield running


def connect(server: RunningHere) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=TIMEOUT)


def read_all(connection: socket.socket) -> bytes:
    """Return all bytes until the server closes the connection."""
    received = b""
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            return received
        if not piece:
            return received
        received += piece


def read_response(connection: socket.socket) -> bytes:
    """Return one complete response, and leave the connection open.

    uvicorn sends the head and the body apart: a single `recv` may return the head alone, and the
    next one then returns the body instead of the next response.
    """
    received = b""
    while b"\r\n\r\n" not in received:
        received += _some(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head.lower())
    assert length is not None, head
    while len(body) < int(length[1]):
        body += _some(connection)
    assert len(body) == int(length[1]), "the response to another request follows"
    return head + b"\r\n\r\n" + body


def _some(connection: socket.socket) -> bytes:
    piece = connection.recv(65536)
    assert piece, "the connection was closed within a response"
    return piece


def error_message(answer: bytes, status: int) -> str:
    """Return the message of an error that the server sent before the application was called."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert b"connection: close" in head
    message = json.loads(body)["message"]
    assert isinstance(message, str)
    return message


def post(path: str, *headers: str, key: str = ALICE) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"x-api-key: {key}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


BODIES = [
    (CONCEPT, 408, "message", "content-length: 1000"),
    (VISUAL, 408, "message", "transfer-encoding: chunked"),
    ("/api/predict", 408, "error", "content-length: 1000"),
    ("/v1/sam3-image", 400, "error", "content-length: 1000"),
    ("/v2/sam3-image", 400, "error", "content-length: 1000"),
    (TEXT, 408, "detail", "content-length: 1000"),
]
"""Requests without their bodies: path, status of the response, field of its message, framing."""


@pytest.fixture(scope="module")
def timed_out(strict: RunningHere) -> dict[str, bytes]:
    """What connections received that sent too little: all of them wait at the same time."""
    beginnings = {
        "nothing": b"",
        "incomplete head": b"GET /livez HTTP/1.1\r\nhost:",
        "complete head": PROBE,
        "no key": f"POST {VISUAL} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n".encode(),
    }
    for path, _, _, framing in BODIES:
        kind = "multipart/form-data; boundary=x" if path == TEXT else "application/json"
        beginnings[path] = post(path, framing, f"content-type: {kind}")
    with ExitStack() as stack:
        waiting = {}
        for name, beginning in beginnings.items():
            waiting[name] = stack.enter_context(connect(strict))
            waiting[name].sendall(beginning)
        second = waiting["complete head"]
        assert read_response(second).startswith(b"HTTP/1.1 200 ")
        second.sendall(PROBE[:20])
        return {name: read_all(connection) for name, connection in waiting.items()}


class TestHeads:
    def test_a_silent_connection_is_closed(self, timed_out: dict[str, bytes]) -> None:
        assert timed_out["nothing"] == b""

    def test_an_incomplete_head_gets_408(self, timed_out: dict[str, bytes]) -> None:
        message = error_message(timed_out["incomplete head"], 408)
        assert "did not arrive within 2 seconds" in message

    def test_slow_bytes_do_not_extend_the_header_timeout(self, strict: RunningHere) -> None:
        stopped = threading.Event()
        with connect(strict) as connection:

            def trickle() -> None:
                try:
                    connection.sendall(b"GET /livez HTTP/1.1\r\n")
                    while not stopped.wait(0.1):
                        connection.sendall(b"a: b\r\n")
                except OSError:
                    return

            sender = threading.Thread(target=trickle)
            sender.start()
            answer = read_all(connection)
            stopped.set()
            sender.join(TIMEOUT)
        assert answer == b"" or error_message(answer, 408)

    def test_the_header_timeout_applies_to_every_request(self, timed_out: dict[str, bytes]) -> None:
        assert error_message(timed_out["complete head"], 408)

    @pytest.mark.parametrize(
        "head",
        [
            b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
            b"GET /livez HTTP/1.1\r\nhost: x\r\ncookie: " + b"a" * 9000 + b"\r\n\r\n",
            b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
            b"GET /livez?" + b"a" * 500_000,
            b"GET /livez HTTP/1.1\r\ncookie: " + b"a" * 500_000,
            b"GET /livez HTTP/1.1\r\n" + b"a" * 500_000,
        ],
        ids=["url", "header", "headers", "endless-url", "endless-header", "endless-name"],
    )
    def test_a_large_head_is_refused_while_it_arrives(
        self, patient: RunningHere, head: bytes
    ) -> None:
        with connect(patient) as connection:
            try:
                connection.sendall(head)
            except OSError:  # the response arrived first
                return
            answer = read_all(connection)
        # Unread bytes can reset the connection before the client reads the response.
        assert answer == b"" or "8 KiB" in error_message(answer, 431)

    def test_an_endless_trailer_is_refused(self, patient: RunningHere) -> None:
        with connect(patient) as connection, closing(connection):
            connection.sendall(post(VISUAL, "transfer-encoding: chunked") + b"2\r\n{}\r\n0\r\n")
            try:
                connection.sendall(b"a: " + b"b" * 500_000)
            except OSError:
                return
            assert b" 200 " not in read_all(connection)

    @pytest.mark.parametrize("apart", [False, True], ids=["at-once", "apart"])
    def test_trailers_are_not_headers(self, patient: RunningHere, apart: bool) -> None:
        head = post(VISUAL, "transfer-encoding: chunked", "connection: close")
        head = head.replace(f"x-api-key: {ALICE}\r\n".encode(), b"")
        end = f"2\r\n{{}}\r\n0\r\nx-api-key: {ALICE}\r\nx-request-id: trailer\r\n\r\n".encode()
        with connect(patient) as connection:
            if apart:
                connection.sendall(head)
                until(lambda: len(patient.state.admission) == 1)
                connection.sendall(end)
            else:
                connection.sendall(head + end)
            answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"x-request-id: trailer" not in answer

    def test_a_head_within_the_limit(self, patient: RunningHere) -> None:
        head = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncookie: "
        with connect(patient) as connection:
            connection.sendall(head + b"a" * 7900 + b"\r\n\r\n")
            assert read_all(connection).startswith(b"HTTP/1.1 200 ")

    @pytest.mark.parametrize(
        "raw",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n1",
            b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"GET /livez HTTP/1.1\r\nhost: x\r\n bad: folded\r\n\r\n",
            b"GET /livez\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        ],
        ids=["tls", "ssh", "version", "lengths", "smuggled", "folded", "nul", "chunk"],
    )
    def test_invalid_http_is_refused(self, patient: RunningHere, raw: bytes) -> None:
        with connect(patient) as connection:
            connection.sendall(raw)
            answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 4"), answer
        assert patient.get("/livez").status_code == 200

    @pytest.mark.parametrize(
        ("raw", "words"),
        [
            (b"content-length: 1\r\ncontent-length: 2", "several headers `Content-Length`"),
            (b"content-length: ten", "`Content-Length` is invalid"),
            (b"content-length: -1", "`Content-Length` is invalid"),
            (b"content-length: 1, 1", "`Content-Length` is invalid"),
            (b"content-length:", "`Content-Length` is invalid"),
            (b"content-length: " + b"9" * 30, "`Content-Length` is invalid"),
            (b"content-length: 1\r\ntransfer-encoding: chunked", "Send one of them"),
            (b"transfer-encoding: chunked\r\ncontent-length: 1", "Send one of them"),
            (b"transfer-encoding: gzip", "must be `chunked`"),
            (b"transfer-encoding: gzip, chunked", "must be `chunked`"),
            (b"transfer-encoding: chunked, gzip", "must be `chunked`"),
            (b"a b: c", "A header is invalid"),
            (b"a: b\r\n c: d", "A header is invalid"),
        ],
    )
    def test_errors_name_the_header(self, patient: RunningHere, raw: bytes, words: str) -> None:
        with connect(patient) as connection:
            connection.sendall(post(VISUAL)[:-2] + raw + b"\r\n\r\n1")
            assert words in error_message(read_all(connection), 400)

    @pytest.mark.parametrize(
        ("raw", "words"),
        [
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), "Use http://"),
            (b"SSH-2.0-OpenSSH_9.6\r\n", "first line"),
            (b"GET / HTTP/9.9\r\n\r\n", "first line"),
            (b"GET /livez\x00 HTTP/1.1\r\nhost: x\r\n\r\n", "first line"),
        ],
        ids=["tls", "ssh", "version", "nul"],
    )
    def test_errors_name_the_first_line(self, patient: RunningHere, raw: bytes, words: str) -> None:
        with connect(patient) as connection:
            connection.sendall(raw)
            assert words in error_message(read_all(connection), 400)

    @pytest.mark.parametrize(
        ("end", "words"),
        [
            (b"ZZ\r\n", "chunk does not begin with its size"),
            (b"f" * 17 + b"\r\n", "chunk does not begin with its size"),
            (b"0\r\n" + b"a: b\r\n" * 5000, "trailers or chunk extensions"),
            (b"0\r\na: " + b"b" * 9000 + b"\r\n\r\n", "trailers or chunk extensions"),
            (b"0\r\na b: c\r\n\r\n", "A header is invalid"),
        ],
        ids=["size", "overflow", "trailers", "trailer", "name"],
    )
    @pytest.mark.parametrize(
        ("path", "word", "kind"),
        [
            (VISUAL, "message", "application/json"),
            ("/api/predict", "error", "application/json"),
            ("/v1/sam3-image", "error", "application/json"),
            (TEXT, "detail", "multipart/form-data; boundary=x"),
        ],
    )
    @pytest.mark.parametrize("apart", [False, True], ids=["at-once", "apart"])
    def test_an_invalid_body_has_the_error_of_its_api(
        self,
        patient: RunningHere,
        path: str,
        word: str,
        kind: str,
        end: bytes,
        words: str,
        apart: bool,
    ) -> None:
        begin = post(path, "transfer-encoding: chunked", f"content-type: {kind}") + b"2\r\n--\r\n"
        with connect(patient) as connection:
            if apart:
                connection.sendall(begin)
                until(lambda: len(patient.state.admission) == 1)
                connection.sendall(end)
            else:
                connection.sendall(begin + end)
            head, _, body = read_all(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 "), head
        assert b"connection: close" in head
        assert words in json.loads(body)[word]
        until(lambda: patient.state.bodies.nbytes == patient.state.uploads.nbytes == 0)

    @pytest.mark.parametrize("end", [b"0\r\na: ", b"2;a="], ids=["trailer", "extension"])
    def test_an_invalid_body_is_refused_while_it_arrives(
        self, patient: RunningHere, end: bytes
    ) -> None:
        with connect(patient) as connection:
            connection.sendall(post(VISUAL, "transfer-encoding: chunked") + b"2\r\n{}\r\n")
            until(lambda: len(patient.state.admission) == 1)
            connection.sendall(end + b"b" * 9000)
            head, _, body = read_all(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert "trailers or chunk extensions" in json.loads(body)["message"]

    def test_trailers_do_not_count_as_headers_for_the_limit(self, patient: RunningHere) -> None:
        """Each may have the maximum size."""
        with connect(patient) as connection:
            begin = post(VISUAL, "transfer-encoding: chunked", "connection: close")
            begin = begin.replace(b"host: x", b"host: x\r\na: " + b"b" * 6000)
            connection.sendall(begin + b"2\r\n{}\r\n0\r\na: " + b"b" * 6000 + b"\r\n\r\n")
            assert read_all(connection).startswith(b"HTTP/1.1 422 ")

    def test_an_invalid_body_after_its_response_closes_the_connection(
        self, patient: RunningHere
    ) -> None:
        with connect(patient) as connection:
            connection.sendall(post("/nowhere", "transfer-encoding: chunked"))
            answer = b""
            while b"Unknown path" not in answer:
                answer += connection.recv(65536)
            connection.sendall(b"ZZ\r\n")
            assert read_all(connection) == b""

    def test_an_invalid_request_waits_for_the_response_to_the_one_before(self) -> None:
        with gated() as (server, gate), ThreadPoolExecutor(1) as pool, connect(server) as other:
            asked = ask(server, pool, 78)
            until(lambda: gate.arrived == 1)
            body = json.dumps({"image": noise(78, (16, 16))}).encode()
            valid = post(VISUAL, f"content-length: {len(body)}") + body
            other.sendall(valid + post(VISUAL, "content-length: ten"))
            until(lambda: len(server.state.admission) == 2)
            gate.open()
            assert asked.result().status_code == 200
            answer = read_all(other)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.count(b"HTTP/1.1 ") == 2
        assert "`Content-Length`" in error_message(answer[answer.rindex(b"HTTP/1.1 ") :], 400)

    def test_pipelined_requests_are_answered_in_order(self, patient: RunningHere) -> None:
        last = PROBE.replace(b"host", b"connection: close\r\nhost")
        with connect(patient) as connection:
            connection.sendall(PROBE * 3 + last)
            assert read_all(connection).count(b"HTTP/1.1 200 ") == 4

    def test_upgrades_are_ignored(self, patient: RunningHere) -> None:
        asked = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        for extra in (asked, b"connection: upgrade\r\nupgrade: h2c\r\n"):
            with connect(patient) as connection:
                connection.sendall(PROBE[:-2] + extra + b"\r\n")
                assert read_response(connection).startswith(b"HTTP/1.1 200 ")


class TestIdle:
    """Connections between two requests."""

    def test_the_default_timeout_exceeds_that_of_proxies(self) -> None:
        assert Settings().keep_alive_timeout >= 75

    def test_the_header_timeout_does_not_apply_to_them(self, strict: RunningHere) -> None:
        with connect(strict) as idle:
            idle.sendall(PROBE)
            assert read_response(idle).startswith(b"HTTP/1.1 200 ")
            # A later connection that sends nothing is closed first.
            with connect(strict) as later:
                assert read_all(later) == b""
            idle.sendall(PROBE)
            assert read_response(idle).startswith(b"HTTP/1.1 200 ")
            idle.sendall(PROBE[:20])
            assert error_message(read_all(idle), 408)

    def test_the_keep_alive_timeout_closes_them(self) -> None:
        with (
            serving(ready=False, header_timeout=3600, keep_alive_timeout=0.2) as server,
            connect(server) as idle,
        ):
            idle.sendall(PROBE)
            answer = read_all(idle)
            assert answer.startswith(b"HTTP/1.1 200 ")

    def test_above_the_limit_the_longest_idle_one_is_closed(self, patient: RunningHere) -> None:
        with ExitStack() as stack:
            idle = []
            for _ in range(MOST + 3):
                idle.append(stack.enter_context(connect(patient)))
                idle[-1].sendall(PROBE)
                assert read_response(idle[-1]).startswith(b"HTTP/1.1 200 ")
            assert read_all(idle[0]) == b""
            idle[-1].sendall(PROBE)
            assert read_response(idle[-1]).startswith(b"HTTP/1.1 200 ")


class TestBodies:
    @pytest.mark.parametrize(("path", "status", "word"), [each[:3] for each in BODIES])
    def test_a_slow_body_times_out(
        self,
        strict: RunningHere,
        timed_out: dict[str, bytes],
        path: str,
        status: int,
        word: str,
    ) -> None:
        head, _, body = timed_out[path].partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode()), head
        assert "INFERENCE_BODY_TIMEOUT" in json.loads(body)[word]
        until(lambda: strict.state.bodies.nbytes == strict.state.uploads.nbytes == 0)

    def test_a_slow_body_without_a_key_times_out(self, timed_out: dict[str, bytes]) -> None:
        """A key may be in the body, so the server has to wait for the body."""
        assert timed_out["no key"].startswith(b"HTTP/1.1 408 ")

    def test_all_bodies_together_are_limited(self) -> None:
        with serving(ready=False, body_memory_mb=3) as server:
            with ExitStack() as stack:
                for _ in range(2):
                    slow = stack.enter_context(connect(server))
                    slow.sendall(post(VISUAL, f"content-length: {2 << 20}") + b" " * 1_500_000)
                until(lambda: server.state.bodies.nbytes == 3_000_000)
                refused = server.post(VISUAL, b" " * 500_000)
                assert refused.status_code == 429
                assert "INFERENCE_BODY_MEMORY_MB" in refused.json()["message"]
                assert int(refused.headers["retry-after"]) >= 1
                assert server.post(VISUAL, b"{}").status_code == 422
            until(lambda: server.state.bodies.nbytes == 0)
            assert server.post(VISUAL, b" " * 500_000).status_code == 422

    def test_requests_without_a_key_cannot_use_all_memory(self) -> None:
        """Requests without a key before the body share a part of the body memory."""
        keyless = post(VISUAL, f"content-length: {2 << 20}").replace(
            f"x-api-key: {ALICE}\r\n".encode(), b""
        )
        with (
            serving(ready=False, body_memory_mb=3, keyless_body_percent=50) as server,
            ExitStack() as stack,
        ):
            bodies = server.state.bodies
            for _ in range(3):
                slow = stack.enter_context(connect(server))
                slow.sendall(keyless + b" " * 500_000)
            until(lambda: bodies.keyless == 1_500_000)
            refused = server.post(VISUAL, b" " * 100_000, key=None)
            assert refused.status_code == 429
            assert "INFERENCE_KEYLESS_BODY_PERCENT" in refused.json()["message"]
            assert int(refused.headers["retry-after"]) >= 1
            reason = {"reason": "keyless_bodies"}
            assert server.metric("inference_rejections_total", **reason) == 1
            # Requests with a key are not affected, wherever the key is.
            large = {"a": "b" * 1_000_000}
            assert server.post(VISUAL, large).status_code == 422
            assert server.post(f"{VISUAL}?api_key={ALICE}", large, key=None).status_code == 422
            assert bodies.keyless == 1_500_000
        until(lambda: bodies.keyless == bodies.nbytes == 0)

    def test_a_key_at_the_beginning_of_json_is_found_while_it_arrives(self) -> None:
        large = "b" * 1_000_000
        with serving(ready=False, body_memory_mb=3, keyless_body_percent=10) as server:
            for body, status in (
                ({"api_key": ALICE, "a": large}, 422),
                ({"api_key": "wrong", "a": large}, 429),
                # Only a key at the top level counts.
                ({"x": {"api_key": ALICE}, "a": large}, 401),
                ({"a": large, "api_key": ALICE}, 429),
            ):
                assert server.post(VISUAL, body, key=None).status_code == status
                # A response may arrive before its body is given back.
                until(lambda: server.state.bodies.keyless == server.state.bodies.nbytes == 0)

    def test_with_auth_off_all_bodies_may_use_all_memory(self) -> None:
        with serving(ready=False, auth="off", body_memory_mb=3, keyless_body_percent=10) as server:
            assert server.post(VISUAL, {"a": "b" * 1_000_000}, key=None).status_code == 422

    def test_a_stalled_body_is_refused(self) -> None:
        with (
            serving(ready=False, linger=0.5, min_rate_window=1, body_timeout=3600) as server,
            connect(server) as connection,
        ):
            connection.sendall(post(VISUAL, "content-length: 2000000") + b" " * 1_000_000)
            head, _, body = read_all(connection).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ")
            assert "INFERENCE_MIN_RATE_KB" in json.loads(body)["message"]
            until(lambda: server.state.bodies.nbytes == 0)

    def test_a_client_cannot_keep_sending_after_an_early_response(
        self, strict: RunningHere
    ) -> None:
        with connect(strict) as connection:
            connection.sendall(post(VISUAL, "content-length: 99999999"))
            sent = 0
            with pytest.raises(OSError):  # noqa: PT012 - the loop counts what was sent
                while sent < 99_999_999:
                    connection.sendall(bytes(1000))
                    sent += 1000
                    threading.Event().wait(0.01)
            # The server closed the connection long before the whole body was sent.
            assert sent < 1_000_000

    def test_an_early_response_can_be_read_while_sending(self, patient: RunningHere) -> None:
        response = patient.post(VISUAL, b" " * (5 << 20))
        assert response.status_code == 413
        assert "INFERENCE_MAX_BODY_MB" in response.json()["message"]


class TestConnectionLimit:
    def test_the_longest_idle_connection_is_closed(self, patient: RunningHere) -> None:
        with ExitStack() as stack:
            waiting = [stack.enter_context(connect(patient)) for _ in range(MOST + 5)]
            assert read_all(waiting[0]) == b""
            # New connections are accepted.
            waiting[-1].sendall(PROBE)
            assert read_response(waiting[-1]).startswith(b"HTTP/1.1 200 ")
            assert patient.get("/livez").status_code == 200

    def test_a_request_in_progress_keeps_its_connection(self) -> None:
        """A flood of connections does not cost others their answers."""
        with gated(max_connections=MOST) as (server, gate), ThreadPoolExecutor(1) as pool:
            asked = ask(server, pool, 77)
            until(lambda: gate.arrived == 1)
            with ExitStack() as stack:
                flood = [stack.enter_context(connect(server)) for _ in range(3 * MOST)]
                assert read_all(flood[0]) == b""
                gate.open()
                assert asked.result().status_code == 200
