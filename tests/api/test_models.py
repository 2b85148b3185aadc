"""`DELETE /models` unloads everything, and no request fails."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch

from inference_server.engines import device, load_weights
from inference_server.engines.sam2.fast_hiera import FastImageEncoder
from schemas.system import ModelsCleared
from tests.api.pictures import Picture, click, iou, noise, plane
from tests.api.serving import (
    ALICE,
    CONCEPT,
    SAM2_EMBED,
    TIMEOUT,
    VISUAL,
    Running,
    RunningHere,
    serving,
    until,
)
from tests.api.test_load import ask, gated

REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    (VISUAL, {}),
    (CONCEPT, {"prompts": [{"text": "circle"}]}),
    (SAM2_EMBED, {}),
)
"""Requests that load both families."""


def clear(server: Running, key: str | None = ALICE) -> httpx.Response:
    headers = {} if key is None else {"x-api-key": key}
    return server.http.request("DELETE", "/models", headers=headers)


def lanes() -> set[threading.Thread]:
    """Return the worker threads of the models."""
    return {t for t in threading.enumerate() if t.name.startswith(("sam2 ", "sam3 "))}


def engines(server: RunningHere) -> list[weakref.ref[Any]]:
    """Return weak references to the loaded engines and their networks."""
    found = [model.prepare.__self__ for model in server.segmenter.models.loaded()]  # type: ignore[attr-defined]
    networks = [part for engine in found for part in vars(engine).values() if is_network(part)]
    assert networks
    return [weakref.ref(part) for part in (*found, *networks)]


def is_network(part: object) -> bool:
    return isinstance(part, torch.nn.Module | FastImageEncoder)


def until_gone(parts: list[weakref.ref[Any]]) -> None:
    """Wait until all are freed; a thread may hold a reference a moment after its work."""
    until(lambda: all(part() is None for part in parts))


@pytest.fixture(scope="module")
def own() -> Iterator[RunningHere]:
    """A server that no other module uses."""
    with serving() as server:
        yield server


def test_needs_a_key(own: RunningHere) -> None:
    for key in (None, "wrong"):
        assert clear(own, key).status_code == 401
    assert own.get("/models").json()["loaded"]


def test_everything_is_unloaded_and_loaded_again(own: RunningHere, picture: Picture) -> None:
    item = picture.one("red square")
    body: dict[str, Any] = {"image": picture.sent, "image_id": "a", "format": "rle"}
    body |= {"prompts": {"prompts": [click(item)]}, "save_logits_to_cache": True}
    for _ in range(2):
        segmenter = own.segmenter
        before = own.post(VISUAL, body)
        assert own.post(CONCEPT, {**body, "prompts": [{"text": "circle"}]}).is_success
        assert own.post(SAM2_EMBED, {"image": picture.sent}).is_success
        assert own.metric("inference_embedding_cache_bytes") > 0
        assert segmenter.image_loader.images.nbytes > 0
        assert segmenter.logits.nbytes > 0
        parts = engines(own)

        response = clear(own)
        assert response.status_code == 200
        assert response.json() == {"status": "cleared"}
        ModelsCleared.model_validate(response.json())
        listed = own.get("/models").json()
        assert listed["loaded"] == []
        assert len(listed["models"]["sam2"]) == 4
        assert own.metric("inference_embedding_cache_bytes") == 0
        assert (segmenter.image_loader.images.nbytes, segmenter.logits.nbytes) == (0, 0)
        assert own.get("/readyz", key=None).status_code == 200
        until_gone(parts)
        # The image is removed as well, and its id is free.
        assert own.post(VISUAL, {"image_id": "a"}).status_code == 404

        after = own.post(VISUAL, body)
        assert after.status_code == 200
        assert after.headers["x-embedding-cache"] == "miss"
        (prediction,) = after.json()["predictions"]
        assert iou(plane(prediction, picture.size), item.mask) > 0.8
        assert prediction == before.json()["predictions"][0]


def test_nothing_to_unload(own: RunningHere) -> None:
    for _ in range(3):
        assert clear(own).json() == {"status": "cleared"}


def test_memory_does_not_grow(own: RunningHere) -> None:
    assert clear(own).is_success
    until(lambda: not own.segmenter.models.loaded())
    others = lanes()  # of servers of other modules
    parts, threads = [], set()
    for seed in range(5):
        for path, body in REQUESTS:
            assert own.post(path, {"image": noise(760 + seed), **body}).is_success
        parts += engines(own)
        threads |= lanes() - others
        assert clear(own).is_success
    until_gone(parts)
    assert threads
    # Their threads have ended as well.
    until(lambda: not lanes() & threads)


def test_weights_are_freed_without_garbage_collection(
    own: RunningHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread may release them after `DELETE /models` has run the collector for the last time."""
    for path, body in REQUESTS:
        assert own.post(path, {"image": noise(766), **body}).is_success
    parts = engines(own)
    monkeypatch.setattr(device, "release_memory", lambda: None)
    gc.disable()
    try:
        assert clear(own).is_success
        until_gone(parts)
    finally:
        gc.enable()


class TestRequestsInProgress:
    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(32) as threads:
            yield threads

    def test_requests_are_answered(self, pool: ThreadPoolExecutor, picture: Picture) -> None:
        """At every stage: in an encode, in the queue, and waiting for a shared encode."""
        item = picture.one("red square")
        body = {"image": picture.sent, "prompts": {"prompts": [click(item)]}, "format": "rle"}
        with gated() as (server, gate):
            parts = engines(server)
            futures = [pool.submit(server.post, VISUAL, body)]
            until(lambda: gate.arrived == 1)
            futures.append(pool.submit(server.post, VISUAL, body))
            until(lambda: server.sharing() == 2)
            futures += [ask(server, pool, seed) for seed in range(770, 774)]
            until(lambda: server.waiting() == 4)

            for _ in range(2):
                assert clear(server).status_code == 200
            assert server.get("/models").json()["loaded"] == []
            assert server.get("/readyz", key=None).status_code == 200
            # A new request does not wait for those: the model is loaded again beside the old one.
            later = pool.submit(server.post, VISUAL, body)
            until(lambda: gate.arrived == 2)
            assert server.get("/models").json()["loaded"]
            assert not any(future.done() for future in (*futures, later))

            gate.open()
            answers = [future.result() for future in (*futures, later)]
            assert [answer.status_code for answer in answers] == [200] * 7
            caches = [answer.headers["x-embedding-cache"] for answer in answers]
            assert caches == ["miss", "hit", *["miss"] * 5]
            for answer in (*answers[:2], answers[-1]):
                (prediction,) = answer.json()["predictions"]
                assert iou(plane(prediction, picture.size), item.mask) > 0.8
            # The old model is freed after the last of its requests.
            until_gone(parts)

            assert clear(server).status_code == 200
            assert server.get("/models").json()["loaded"] == []
            assert server.metric("inference_embedding_cache_bytes") == 0

    def test_their_embeddings_are_not_cached(self, pool: ThreadPoolExecutor) -> None:
        """Embeddings of requests from before the unload are not cached."""
        with gated() as (server, gate):
            futures = [ask(server, pool, seed) for seed in range(780, 784)]
            # Three may be queued before the first of the four reaches the gate.
            until(lambda: gate.arrived == 1 and server.waiting() == 3)
            assert clear(server).status_code == 200
            gate.open()
            assert [future.result().status_code for future in futures] == [200] * 4
            assert server.metric("inference_embedding_cache_bytes") == 0
            assert server.get("/models").json()["loaded"] == []
            again = ask(server, pool, 780).result()
            assert (again.status_code, again.headers["x-embedding-cache"]) == (200, "miss")

    def test_memory_is_released_after_the_last_request(
        self, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        released = []
        release = device.release_memory

        def release_and_record() -> None:
            release()
            released.append(threading.current_thread())

        monkeypatch.setattr(device, "release_memory", release_and_record)
        with gated() as (server, gate):
            futures = ask(server, pool, 790)
            until(lambda: gate.arrived == 1)
            assert clear(server).status_code == 200
            assert len(released) == 1
            gate.open()
            assert futures.result().status_code == 200
            until(lambda: len(released) == 2)

    def test_a_load_in_progress_continues(
        self, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, go_on, loads = threading.Event(), threading.Event(), []
        load = load_weights.load_sam2

        def slowly(*arguments: Any) -> Any:
            loads.append(arguments)
            begun.set()
            assert go_on.wait(TIMEOUT)
            return load(*arguments)

        monkeypatch.setattr(load_weights, "load_sam2", slowly)
        with serving(ready=False, visual_model="sam2") as server:
            try:
                until(begun.is_set)
                futures = [ask(server, pool, seed) for seed in (795, 796)]
                assert clear(server).status_code == 200
                assert server.get("/readyz", key=None).json()["status"] == "loading"
            finally:
                go_on.set()
            assert [future.result().status_code for future in futures] == [200, 200]
            server.until_ready()
            assert len(loads) == 1
            loaded = server.get("/models").json()["loaded"]
            assert {family for family, _ in loaded} == {"sam2"}


def test_concurrent_requests_and_unloads(own: RunningHere, picture: Picture) -> None:
    """No request fails, however both interleave."""
    item = picture.one("red square")
    clicks = {"image": picture.sent, "prompts": {"prompts": [click(item)]}, "format": "rle"}
    words = {"image": picture.sent, "prompts": [{"text": "red square"}], "format": "rle"}
    with ThreadPoolExecutor(8) as pool:
        futures = []
        for turn in range(8):
            futures += [
                pool.submit(own.post, VISUAL, clicks),
                pool.submit(own.post, CONCEPT, words),
            ]
            futures += [pool.submit(own.post, SAM2_EMBED, {"image": noise(800 + turn)})]
            futures += [pool.submit(clear, own)]
        answers = [future.result() for future in futures]
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers[::4]:
        (prediction,) = answer.json()["predictions"]
        assert iou(plane(prediction, picture.size), item.mask) > 0.8
