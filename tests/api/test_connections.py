"""What a client may make the server hold before its request is complete."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from inference_server.settings import Settings
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
    """A server that bounds what it holds, and lets whoever is slow take the usual time."""
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


def everything(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    received = b""
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            return received
        if not piece:
            return received
        received += piece


def said(answer: bytes, status: int) -> str:
    """The message of an answer that was given before the application saw the request."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert b"connection: close" in head
    message = json.loads(body)["message"]
    assert isinstance(message, str)
    return message


def post(path: str, *headers: str, key: str = ALICE) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"x-api-key: {key}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


class TestHeads:
    def test_a_connection_that_says_nothing_is_closed(self, strict: RunningHere) -> None:
        with connect(strict) as connection:
            assert everything(connection) == b""

    def test_a_head_that_does_not_end_is_told_so(self, strict: RunningHere) -> None:
        with connect(strict) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nhost:")
            assert "did not arrive within 2 seconds" in said(everything(connection), 408)

    def test_trickling_wins_no_time(self, strict: RunningHere) -> None:
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
            answer = everything(connection)
            stopped.set()
            sender.join(TIMEOUT)
        assert answer == b"" or said(answer, 408)

    def test_the_second_request_of_a_connection_may_be_no_slower(self, strict: RunningHere) -> None:
        with connect(strict) as connection:
            connection.sendall(PROBE)
            until(lambda: b'"ok"' in connection.recv(65536))
            connection.sendall(PROBE[:20])
            assert said(everything(connection), 408)

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
    def test_a_large_head_is_refused_as_it_comes(self, patient: RunningHere, head: bytes) -> None:
        with connect(patient) as connection:
            try:
                connection.sendall(head)
            except OSError:  # the answer came first
                return
            answer = everything(connection)
        # With bytes unread, the system may take the answer back.
        assert answer == b"" or "8 KiB" in said(answer, 431)

    def test_a_trailer_without_end(self, patient: RunningHere) -> None:
        with connect(patient) as connection, closing(connection):
            connection.sendall(post(VISUAL, "transfer-encoding: chunked") + b"2\r\n{}\r\n0\r\n")
            try:
                connection.sendall(b"a: " + b"b" * 500_000)
            except OSError:
                return
            assert b" 200 " not in everything(connection)

    @pytest.mark.parametrize("apart", [False, True], ids=["at-once", "apart"])
    def test_a_trailer_is_no_header(self, patient: RunningHere, apart: bool) -> None:
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
            answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"x-request-id: trailer" not in answer

    def test_a_head_just_within(self, patient: RunningHere) -> None:
        head = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncookie: "
        with connect(patient) as connection:
            connection.sendall(head + b"a" * 7900 + b"\r\n\r\n")
            assert everything(connection).startswith(b"HTTP/1.1 200 ")

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
    def test_what_is_no_http(self, patient: RunningHere, raw: bytes) -> None:
        with connect(patient) as connection:
            connection.sendall(raw)
            answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 4"), answer
        assert patient.get("/livez").status_code == 200

    def test_requests_in_one_go_are_answered_in_turn(self, patient: RunningHere) -> None:
        last = PROBE.replace(b"host", b"connection: close\r\nhost")
        with connect(patient) as connection:
            connection.sendall(PROBE * 3 + last)
            assert everything(connection).count(b"HTTP/1.1 200 ") == 4

    def test_no_other_protocol_is_spoken(self, patient: RunningHere) -> None:
        asked = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        for extra in (asked, b"connection: upgrade\r\nupgrade: h2c\r\n"):
            with connect(patient) as connection:
                connection.sendall(PROBE[:-2] + extra + b"\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


class TestIdle:
    """Connections between two requests."""

    def test_they_are_kept_for_longer_than_proxies_pool_them(self) -> None:
        assert Settings().keep_alive_timeout >= 75

    def test_they_may_wait_longer_than_the_headers_of_a_request(self) -> None:
        with (
            serving(ready=False, header_timeout=0.2, keep_alive_timeout=3600) as server,
            connect(server) as idle,
        ):
            idle.sendall(PROBE)
            assert idle.recv(65536).startswith(b"HTTP/1.1 200 ")
            # One that comes later is closed first: it has sent nothing.
            with connect(server) as later:
                assert everything(later) == b""
            idle.sendall(PROBE)
            assert idle.recv(65536).startswith(b"HTTP/1.1 200 ")
            idle.sendall(PROBE[:20])
            assert said(everything(idle), 408)

    def test_they_do_not_wait_for_ever(self) -> None:
        with (
            serving(ready=False, header_timeout=3600, keep_alive_timeout=0.2) as server,
            connect(server) as idle,
        ):
            idle.sendall(PROBE)
            answer = everything(idle)
            assert answer.startswith(b"HTTP/1.1 200 ")

    def test_of_too_many_the_longest_idle_one_is_closed(self, patient: RunningHere) -> None:
        with ExitStack() as stack:
            idle = []
            for _ in range(MOST + 3):
                idle.append(stack.enter_context(connect(patient)))
                idle[-1].sendall(PROBE)
                assert idle[-1].recv(65536).startswith(b"HTTP/1.1 200 ")
            assert everything(idle[0]) == b""
            idle[-1].sendall(PROBE)
            assert idle[-1].recv(65536).startswith(b"HTTP/1.1 200 ")


class TestBodies:
    @pytest.mark.parametrize(
        ("path", "status", "word", "framing"),
        [
            (CONCEPT, 408, "message", "content-length: 1000"),
            (VISUAL, 408, "message", "transfer-encoding: chunked"),
            ("/api/predict", 408, "error", "content-length: 1000"),
            ("/v1/sam3-image", 400, "error", "content-length: 1000"),
            ("/v2/sam3-image", 400, "error", "content-length: 1000"),
            (TEXT, 408, "detail", "content-length: 1000"),
        ],
    )
    def test_a_slow_one(
        self, strict: RunningHere, path: str, status: int, word: str, framing: str
    ) -> None:
        kind = "multipart/form-data; boundary=x" if path == TEXT else "application/json"
        with connect(strict) as connection:
            connection.sendall(post(path, framing, f"content-type: {kind}"))
            head, _, body = everything(connection).partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode()), head
        assert "INFERENCE_BODY_TIMEOUT" in json.loads(body)[word]
        until(lambda: strict.state.bodies.nbytes == strict.state.uploads.nbytes == 0)

    def test_without_a_key_it_is_no_different(self, strict: RunningHere) -> None:
        """A key may be in the body, so that there is no telling before it is here."""
        with connect(strict) as connection:
            head = b"POST " + VISUAL.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n"
            connection.sendall(head)
            assert everything(connection).startswith(b"HTTP/1.1 408 ")

    def test_all_together_have_so_much_room(self) -> None:
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

    def test_strangers_do_not_use_up_the_room(self) -> None:
        """Without a key before the body there is a share of it."""
        stranger = post(VISUAL, f"content-length: {2 << 20}").replace(
            f"x-api-key: {ALICE}\r\n".encode(), b""
        )
        with (
            serving(ready=False, body_memory_mb=3, keyless_body_percent=50) as server,
            ExitStack() as stack,
        ):
            bodies = server.state.bodies
            for _ in range(3):
                slow = stack.enter_context(connect(server))
                slow.sendall(stranger + b" " * 500_000)
            until(lambda: bodies.keyless == 1_500_000)
            refused = server.post(VISUAL, b" " * 100_000, key=None)
            assert refused.status_code == 429
            assert "INFERENCE_KEYLESS_BODY_PERCENT" in refused.json()["message"]
            assert int(refused.headers["retry-after"]) >= 1
            told = {"reason": "keyless_bodies"}
            assert server.metric("inference_rejections_total", **told) == 1
            # Whoever has a key is not affected, wherever a client puts it.
            large = {"a": "b" * 1_000_000}
            assert server.post(VISUAL, large).status_code == 422
            assert server.post(f"{VISUAL}?api_key={ALICE}", large, key=None).status_code == 422
            assert bodies.keyless == 1_500_000
        until(lambda: bodies.keyless == bodies.nbytes == 0)

    def test_a_key_at_the_beginning_of_json_is_found_as_it_arrives(self) -> None:
        with serving(ready=False, body_memory_mb=3, keyless_body_percent=10) as server:
            large = "b" * 1_000_000
            for key, status in ((ALICE, 422), ("wrong", 429)):
                first = {"api_key": key, "a": large}
                assert server.post(VISUAL, first, key=None).status_code == status
            # It is looked for anywhere, and counts where it belongs alone.
            nested = {"x": {"api_key": ALICE}, "a": large}
            assert server.post(VISUAL, nested, key=None).status_code == 401
            last = {"a": large, "api_key": ALICE}
            assert server.post(VISUAL, last, key=None).status_code == 429
            assert server.state.bodies.keyless == server.state.bodies.nbytes == 0

    def test_without_keys_nobody_is_a_stranger(self) -> None:
        with serving(ready=False, auth="off", body_memory_mb=3, keyless_body_percent=10) as server:
            assert server.post(VISUAL, {"a": "b" * 1_000_000}, key=None).status_code == 422

    def test_a_body_that_stalls(self) -> None:
        with (
            serving(ready=False, min_rate_window=0.2, body_timeout=3600) as server,
            connect(server) as connection,
        ):
            connection.sendall(post(VISUAL, "content-length: 2000000") + b" " * 1_000_000)
            head, _, body = everything(connection).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ")
            assert "INFERENCE_MIN_RATE_KB" in json.loads(body)["message"]
            until(lambda: server.state.bodies.nbytes == 0)

    def test_who_was_answered_early_may_not_send_on_for_ever(self, strict: RunningHere) -> None:
        with connect(strict) as connection:
            connection.sendall(post(VISUAL, "content-length: 99999999"))
            sent = 0
            with pytest.raises(OSError):  # noqa: PT012 - how much was sent is told by the loop
                while sent < 99_999_999:
                    connection.sendall(bytes(1000))
                    sent += 1000
                    threading.Event().wait(0.01)
            # It closed without having been told that this was all.
            assert sent < 1_000_000

    def test_an_early_answer_can_be_read_by_who_sends_on(self, patient: RunningHere) -> None:
        response = patient.post(VISUAL, b" " * (5 << 20))
        assert response.status_code == 413
        assert "INFERENCE_MAX_BODY_MB" in response.json()["message"]


class TestRoom:
    def test_of_too_many_that_wait_the_longest_is_closed(self, patient: RunningHere) -> None:
        with ExitStack() as stack:
            waiting = [stack.enter_context(connect(patient)) for _ in range(MOST + 5)]
            assert everything(waiting[0]) == b""
            # There is room for whoever comes.
            waiting[-1].sendall(PROBE)
            assert waiting[-1].recv(65536).startswith(b"HTTP/1.1 200 ")
            assert patient.get("/livez").status_code == 200

    def test_who_is_being_answered_is_not_closed(self) -> None:
        """A flood of connections does not cost others their answers."""
        with gated(max_connections=MOST) as (server, gate), ThreadPoolExecutor(1) as pool:
            asked = ask(server, pool, 77)
            until(lambda: gate.arrived == 1)
            with ExitStack() as stack:
                flood = [stack.enter_context(connect(server)) for _ in range(3 * MOST)]
                assert everything(flood[0]) == b""
                gate.open()
                assert asked.result().status_code == 200
