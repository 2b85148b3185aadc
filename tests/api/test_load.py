"""Concurrent requests: single-flight encoding, queue limits, deadlines, disconnects."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import pytest

from inference_server.engines.base import Embedding, Prepared
from inference_server.engines.sam2.engine import VisualEngine
from tests.api.pictures import Picture, noise
from tests.api.serving import (
    ALICE,
    BOB,
    CONCEPT,
    TIMEOUT,
    VISUAL,
    Running,
    RunningHere,
    sending,
    serving,
    until,
)


class Gate:
    """Blocks the encoding of images while it is shut.

    Attributes:
        arrived: number of batches that have reached the gate.
    """

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.arrived = 0

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        self.arrived += 1
        assert self._open.wait(TIMEOUT), "the gate was not opened"


@contextmanager
def gated(**settings: Any) -> Iterator[tuple[RunningHere, Gate]]:
    """Run a server whose SAM 2 encodes images one by one, only while a gate is open."""
    gate = Gate()
    encode = VisualEngine.encode

    def slowly(self: VisualEngine, images: Sequence[Prepared]) -> list[Embedding]:
        gate.pass_through()
        return encode(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VisualEngine, "encode", slowly)
        with serving(encode_batch=1, visual_model="sam2", **settings) as server:
            gate.shut()
            try:
                yield server, gate
            finally:
                gate.open()


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


def ask(server: Running, pool: ThreadPoolExecutor, seed: int, **how: Any) -> Future[httpx.Response]:
    """Send the image of this seed in the background."""
    body = {"image": noise(seed, (16, 16))}
    headers = {"x-api-key": ALICE}
    arguments = {"json": body, "headers": headers, "timeout": TIMEOUT, **how}
    return pool.submit(httpx.post, server.url + VISUAL, **arguments)


def asking(server: Running, seed: int) -> AbstractContextManager[None]:
    """Send the image of this seed, and disconnect at the end of the block."""
    return sending(server, VISUAL, {"image": noise(seed, (16, 16))})


class TestSingleFlight:
    @pytest.mark.parametrize("name", [None, "one-flight"])
    def test_identical_cold_requests_encode_once(
        self, server: Running, pool: ThreadPoolExecutor, name: str | None
    ) -> None:
        image = noise(400 if name else 401, (600, 800))
        body = {"image": image, "image_id": name, "sam2_version_id": "hiera_tiny"}
        batches = server.metric("inference_batch_size_count", lane="sam2 encode")
        misses = server.metric("inference_embedding_cache_misses_total")
        futures = [pool.submit(server.post, VISUAL, body) for _ in range(20)]
        answers = [future.result() for future in futures]
        assert {answer.status_code for answer in answers} == {200}
        assert server.metric("inference_batch_size_count", lane="sam2 encode") == batches + 1
        assert server.metric("inference_embedding_cache_misses_total") == misses + 1
        caches = [answer.headers["x-embedding-cache"] for answer in answers]
        assert sorted(caches) == ["hit"] * 19 + ["miss"]
        first = answers[0].json()["predictions"]
        assert all(answer.json()["predictions"] == first for answer in answers)

    def test_tenants_do_not_share_an_encoding(
        self, server: Running, pool: ThreadPoolExecutor
    ) -> None:
        body = {"image": noise(402, (300, 400))}
        futures = [pool.submit(server.post, VISUAL, body, key=key) for key in (ALICE, BOB)]
        caches = [future.result().headers["x-embedding-cache"] for future in futures]
        assert caches == ["miss", "miss"]

    def test_concurrent_requests_of_all_kinds(
        self, server: Running, pool: ThreadPoolExecutor, picture: Picture
    ) -> None:
        text = {"image": picture.sent, "prompts": [{"text": "red circle"}]}
        clicks = [{"image": noise(410 + seed), "prompts": [{}, {}]} for seed in range(8)]
        futures = [pool.submit(server.post, CONCEPT, text) for _ in range(4)]
        futures += [pool.submit(server.post, VISUAL, body) for body in clicks]
        futures += [pool.submit(server.get, "/models") for _ in range(4)]
        assert {future.result().status_code for future in futures} == {200}


class TestQueue:
    def test_a_full_queue_is_429_at_once(self, pool: ThreadPoolExecutor) -> None:
        with gated(queue_size=2) as (server, gate):
            futures = [ask(server, pool, 420)]
            until(lambda: gate.arrived == 1)
            futures += [ask(server, pool, seed) for seed in (421, 422)]
            until(lambda: server.waiting() == 2)
            refused = ask(server, pool, 423).result()
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert set(refused.json()) == {"message", "code"}
            assert "INFERENCE_QUEUE_SIZE" in refused.json()["message"]
            assert server.metric("inference_failures_total", reason="capacity", route=VISUAL) == 1
            # Requests that do not need this queue are answered.
            assert server.get("/livez").status_code == 200
            text = {"image": noise(424), "prompts": [{"text": "dog"}]}
            assert server.post(CONCEPT, text).status_code == 200
            gate.open()
            assert [future.result().status_code for future in futures] == [200] * 3
            assert ask(server, pool, 423).result().status_code == 200

    def test_probes_and_metrics_are_answered_at_full_load(self, pool: ThreadPoolExecutor) -> None:
        with gated(queue_size=1, max_requests=2) as (server, gate):
            futures = [ask(server, pool, 425)]
            until(lambda: gate.arrived == 1)
            futures += [ask(server, pool, 426)]
            until(lambda: server.waiting() == 1)
            # The limit on requests is reached as well.
            text = {"image": noise(427), "prompts": [{"text": "dog"}]}
            refused = server.post(CONCEPT, text)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert "INFERENCE_MAX_REQUESTS" in refused.json()["message"]
            assert server.post("/v2/sam3/concept_segment", text).status_code == 429
            for path in ("/", "/livez", "/health", "/readyz", "/metrics", "/models"):
                for _ in range(30):
                    assert server.get(path).status_code == 200, path
            assert server.get("/v2/requests/unknown/status").status_code == 404
            gate.open()
            assert [future.result().status_code for future in futures] == [200] * 2
            assert server.post(CONCEPT, text).status_code == 200

    def test_slow_senders_do_not_count_as_requests(self) -> None:
        """The slow senders have not shown a key."""
        with serving(max_requests=1) as server:
            host, port = server.url.removeprefix("http://").split(":")
            head = f"POST {VISUAL} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{"
            with (
                socket.create_connection((host, int(port)), timeout=60) as first,
                socket.create_connection((host, int(port)), timeout=60) as second,
            ):
                for connection in (first, second):
                    connection.sendall(head.encode())
                until(lambda: len(server.state.admission) == 2)
                assert server.post(VISUAL, {"image": noise(428)}).status_code == 200
                assert len(server.state.admission) == 2

    def test_a_click_on_a_cached_image_overtakes_an_encode(self, pool: ThreadPoolExecutor) -> None:
        with gated() as (server, gate):
            gate.open()
            body = {"image": noise(430, (16, 16))}
            assert server.post(VISUAL, body).status_code == 200
            gate.shut()
            arrived = gate.arrived
            slow = ask(server, pool, 431)
            until(lambda: gate.arrived == arrived + 1)
            quick = server.post(VISUAL, body)
            assert quick.headers["x-embedding-cache"] == "hit"
            assert not slow.done()
            gate.open()
            assert slow.result().status_code == 200


class TestDeadline:
    def test_a_request_past_its_deadline_is_504(self, pool: ThreadPoolExecutor) -> None:
        with gated(request_timeout=1.0) as (server, gate):
            futures = [ask(server, pool, seed) for seed in (440, 441)]
            for future in futures:
                late = future.result()
                assert late.status_code == 504
                assert "INFERENCE_REQUEST_TIMEOUT" in late.json()["message"]
                assert late.headers["x-request-id"]
            # The waiting request has left the queue.
            until(lambda: server.waiting() == 0)
            # Only this route: on a slow machine `/metrics` can exceed the deadline too.
            late_ones = {"route": VISUAL, "reason": "deadline"}
            until(lambda: server.metric("inference_failures_total", **late_ones) == 2)
            gate.open()
            until(lambda: ask(server, pool, 442).result().status_code == 200)


class TestDisconnects:
    def test_a_disconnected_client_leaves_the_queue(self, pool: ThreadPoolExecutor) -> None:
        with gated(queue_size=1) as (server, gate):
            first = ask(server, pool, 450)
            until(lambda: gate.arrived == 1)
            with asking(server, 451):
                until(lambda: server.waiting() == 1)
            until(lambda: server.waiting() == 0)
            later = ask(server, pool, 452)
            until(lambda: server.waiting() == 1)
            gate.open()
            assert first.result().status_code == 200
            assert later.result().status_code == 200
            # The image of the disconnected client was not encoded.
            assert gate.arrived == 2
            until(lambda: server.metric("inference_failures_total", reason="gone") == 1)

    def test_a_disconnected_client_no_longer_counts(self, pool: ThreadPoolExecutor) -> None:
        with gated(max_requests=1) as (server, gate):
            with asking(server, 455):
                until(lambda: gate.arrived == 1)
                assert server.post(VISUAL, {"image": noise(456)}).status_code == 429
            until(lambda: len(server.state.admission) == 0)
            gate.open()
            assert ask(server, pool, 456).result().status_code == 200

    def test_other_requests_for_the_same_image_are_served(self, pool: ThreadPoolExecutor) -> None:
        with gated() as (server, gate):
            with asking(server, 460):
                until(lambda: gate.arrived == 1)
                stays = ask(server, pool, 460)
                until(lambda: server.sharing() == 2)
            until(lambda: server.metric("inference_failures_total", reason="gone") == 1)
            gate.open()
            answer = stays.result()
            assert answer.status_code == 200
            assert answer.headers["x-embedding-cache"] == "hit"
            assert gate.arrived == 1

    def test_a_client_that_disconnects_during_its_body(self, listening: Running) -> None:
        gone = listening.metric("inference_failures_total", reason="gone")
        host, port = listening.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            head = f"POST {VISUAL} HTTP/1.1\r\nhost: x\r\nx-api-key: {ALICE}"
            connection.sendall(f"{head}\r\ncontent-length: 1000\r\n\r\n{{".encode())
        until(lambda: listening.metric("inference_failures_total", reason="gone") == gone + 1)


def test_an_internal_error_is_logged_and_not_disclosed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(self: VisualEngine, images: Sequence[Prepared]) -> list[Embedding]:
        raise RuntimeError("a secret detail")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VisualEngine, "encode", fail)
        with serving(visual_model="sam2") as server:
            response = server.post(VISUAL, {"image": noise(470)})
            assert response.status_code == 500
            assert "secret" not in response.text
            identity = response.headers["x-request-id"]
            assert identity in response.json()["message"]
            assert any(identity in record.getMessage() for record in caplog.records)
            assert "a secret detail" in caplog.text
            assert server.metric("inference_failures_total", reason="internal") == 1
            # The queue and the other engine still work.
            assert server.post(VISUAL, {"image": noise(470)}).status_code == 500
            text = {"image": noise(470), "prompts": [{"text": "dog"}]}
            assert server.post(CONCEPT, text).status_code == 200
