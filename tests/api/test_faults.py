"""Faults: of memory, threads, others' servers, the database and the disk. The server lives on."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inference_server.engines.base import Embedding, Prepared
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.settings import MiB
from tests.api.pictures import Picture, click, encoded, in_base64, iou, noise, plane
from tests.api.rasters import TEXT, post
from tests.api.serving import CONCEPT, TIMEOUT, VISUAL, Running, RunningHere, serving, until
from tests.e2e.processes import Process, process
from tests.jobs.postgres import cluster

Encode = Callable[[VisualEngine, Sequence[Prepared]], list[Embedding]]

JOB = "/v2/sam3/visual_segment"
SEGMIND_JOB = "/v2/sam-v2-image"


def assert_clicks_are_right(server: Running, picture: Picture) -> None:
    item = picture.scene.objects[0]
    (prediction,) = server.visual(picture.sent, click(item))
    assert iou(plane(prediction, picture.size), item.mask) > 0.8


class TestMemory:
    @contextmanager
    def _full(self, failures: int) -> Iterator[tuple[RunningHere, list[int]]]:
        """A server whose device has no memory for the next few encodes once it has cached some."""
        encode: Encode = VisualEngine.encode
        forwards: list[int] = []
        left = 0

        def crowded(self: VisualEngine, images: Sequence[Prepared]) -> list[Embedding]:
            nonlocal left
            forwards.append(len(images))
            if left:
                left -= 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return encode(self, images)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(VisualEngine, "encode", crowded)
            with serving() as server:
                for seed in range(4):
                    server.answer(VISUAL, image=noise(800 + seed))
                forwards.clear()
                left = failures
                yield server, forwards

    def test_the_cache_makes_room_and_the_request_is_answered(
        self, picture: Picture, caplog: pytest.LogCaptureFixture
    ) -> None:
        with self._full(1) as (server, forwards):
            cache = server.segmenter.encoder.embeddings
            room, one = cache.max_bytes, cache.nbytes // 4
            assert_clicks_are_right(server, picture)
            assert forwards == [1, 1]
            assert cache.nbytes == 3 * one, "of four, two went; and one came"
            assert cache.max_bytes == room // 16
            assert "Out of memory" in caplog.text
            # What was used last is still there.
            body = {"image": noise(803)}
            assert server.post(VISUAL, body).headers["x-embedding-cache"] == "hit"

    def test_where_that_does_not_help_it_is_told_and_the_server_lives(
        self, picture: Picture
    ) -> None:
        with self._full(2) as (server, forwards):
            refused = server.post(VISUAL, {"image": noise(810)})
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
            assert "INFERENCE_EMBEDDING_CACHE_MB" in refused.json()["message"]
            assert "CUDA" not in refused.text
            assert forwards == [1, 1]
            assert server.metric("inference_failures_total", reason="memory") == 1
            assert_clicks_are_right(server, picture)
            assert server.get("/readyz").status_code == 200

    def test_a_job_is_tried_again(self, picture: Picture) -> None:
        with self._full(2) as (server, _):
            job = server.answer(JOB, image=picture.sent, prompts=[click(picture.scene.objects[0])])
            where = f"/v2/requests/{job['request_id']}"
            until(lambda: server.get(f"{where}/status").json()["status"] == "COMPLETED", 60, 0.2)
            assert server.metric("inference_jobs_total", outcome="retried") == 1

    def test_the_hosts_memory(self, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*arguments: object) -> object:
            return np.empty(10**15)

        with serving() as server:
            body = {"image": picture.sent, "prompts": [click(picture.scene.objects[0])]}
            with monkeypatch.context() as patch:
                patch.setattr("inference_server.segmentation.local.to_instances", full)
                refused = server.post(VISUAL, body)
            assert refused.status_code == 503
            assert "no memory left" in refused.json()["message"]
            assert int(refused.headers["retry-after"]) >= 1
            assert_clicks_are_right(server, picture)


class TestThreads:
    @pytest.mark.parametrize("times", [1, 2])
    def test_a_dead_worker_is_replaced_and_those_who_wait_are_answered(
        self, picture: Picture, times: int
    ) -> None:
        """Once: its own request too. Twice: that one is told that something failed."""
        encode: Encode = VisualEngine.encode
        gate, threads = threading.Event(), []
        deaths = 0

        def deadly(self: VisualEngine, images: Sequence[Prepared]) -> list[Embedding]:
            nonlocal deaths
            threads.append(threading.current_thread())
            assert gate.wait(TIMEOUT)
            if deaths < times:
                deaths += 1
                raise SystemExit("a library ends the thread")
            return encode(self, images)

        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(8) as pool:
            patch.setattr(VisualEngine, "encode", deadly)
            with serving(encode_batch=1) as server:
                first = pool.submit(server.post, VISUAL, {"image": noise(820)})
                until(lambda: threads)
                others = [
                    pool.submit(server.post, VISUAL, {"image": noise(821 + n)}) for n in range(4)
                ]
                until(lambda: server.waiting() == 4)
                gate.set()
                assert [other.result().status_code for other in others] == [200] * 4
                assert first.result().status_code == (200 if times == 1 else 500)
                until(lambda: not threads[0].is_alive())
                assert_clicks_are_right(server, picture)


class TestFetch:
    @pytest.mark.parametrize("words", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n12"])
    def test_a_server_that_hangs_is_given_up_and_holds_nobody_up(
        self, words: bytes, picture: Picture
    ) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as mute,
            serving(fetch_networks="127.0.0.0/8", fetch_timeout=2.0) as server,
            ThreadPoolExecutor(16) as pool,
        ):
            url = f"http://127.0.0.1:{mute.getsockname()[1]}/x.png"
            image = {"type": "url", "value": url}
            hanging = [pool.submit(server.post, VISUAL, {"image": image}) for _ in range(8)]
            connection, _ = mute.accept()
            with connection:
                connection.sendall(words)
                assert_clicks_are_right(server, picture)
                assert server.get("/readyz").status_code == 200
                for each in hanging:
                    answer = each.result()
                    assert answer.status_code == 400
                    assert "2 seconds" in answer.json()["message"]


class TestDatabase:
    def test_gone_and_back(self, picture: Picture) -> None:
        item = picture.scene.objects[0]
        body = {"image": picture.sent, "prompts": [click(item)], "format": "rle"}
        with cluster() as postgres, serving(database_url=postgres.url) as server:

            def state(job_id: str) -> str:
                return str(server.get(f"/v2/requests/{job_id}/status").json().get("status"))

            done = server.answer(JOB, **body)["request_id"]
            until(lambda: state(done) == "COMPLETED", 60, 0.1)
            postgres.stop()
            for _ in range(2):
                refused = server.post(JOB, body)
                assert refused.status_code == 503
                assert "database is unavailable" in refused.json()["message"]
                assert int(refused.headers["retry-after"]) >= 1
            segmind = server.post(SEGMIND_JOB, {"image": picture.sent["value"], "prompt": "circle"})
            assert segmind.status_code == 502
            assert "database is unavailable" in segmind.json()["error"]
            assert server.get(f"/v2/requests/{done}/status").status_code == 502
            # Nothing else needs it.
            assert_clicks_are_right(server, picture)
            assert server.get("/readyz").status_code == 200
            assert server.get("/metrics").status_code == 200
            postgres.start()
            until(lambda: server.get(f"/v2/requests/{done}/status").status_code == 200, 60, 0.1)
            assert state(done) == "COMPLETED"
            again = server.answer(JOB, **body)["request_id"]
            until(lambda: state(again) == "COMPLETED", 60, 0.1)
            (prediction,) = server.get(f"/v2/requests/{again}").json()["output"]["predictions"]
            assert iou(plane(prediction, picture.size), item.mask) > 0.8


class TestDisk:
    """A disk that is full, by the kernel's bound on the size of files: it needs no privilege."""

    @contextmanager
    def _full(self, server: Process, nbytes: int) -> Iterator[None]:
        limits = resource.prlimit(server.popen.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.popen.pid, resource.RLIMIT_FSIZE, (nbytes, limits[1]))
        try:
            yield
        finally:
            resource.prlimit(server.popen.pid, resource.RLIMIT_FSIZE, limits)

    def test_jobs_and_uploads_are_refused_in_words_and_all_is_well_afterwards(
        self, tmp_path: Path, picture: Picture
    ) -> None:
        rng = np.random.default_rng(0)
        large = encoded(rng.integers(0, 256, (1000, 1200, 3), np.uint8))
        assert len(large) > 3 * MiB
        item = picture.scene.objects[0]
        body: dict[str, Any] = {"image": picture.sent, "prompts": [click(item)], "format": "rle"}
        with process(tmp_path, job_attempts=50) as server:
            with self._full(server, 2 * MiB):
                refused = server.post(JOB, {**body, "image": in_base64(large)})
                assert refused.status_code == 503, refused.text
                assert "database is unavailable" in refused.json()["message"]
                assert int(refused.headers["retry-after"]) >= 1
                upload = post(server, TEXT, large, prompt="red circle", output_format="json")
                assert upload.status_code == 503, upload.text
                assert "INFERENCE_UPLOAD_STORAGE_MB" in upload.json()["detail"]
                # What needs no room is answered as ever.
                assert_clicks_are_right(server, picture)
                assert server.get("/readyz").status_code == 200
            job = server.answer(JOB, **{**body, "image": in_base64(large)})["request_id"]
            status = f"/v2/requests/{job}/status"
            until(lambda: server.get(status).json()["status"] == "COMPLETED", 60, 0.1)
            upload = post(server, TEXT, large, prompt="red circle", output_format="json")
            assert upload.status_code == 404, "it was read, and there is no circle in noise"
            assert "Traceback" not in server.log.read_text()


def test_a_concept_is_answered_while_the_other_model_has_no_memory(picture: Picture) -> None:
    def full(self: VisualEngine, images: Sequence[Prepared]) -> list[Embedding]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VisualEngine, "encode", full)
        with serving() as server:
            assert server.post(VISUAL, {"image": noise(830)}).status_code == 503
            text = {"image": picture.sent, "prompts": [{"type": "text", "text": "red circle"}]}
            (result,) = server.answer(CONCEPT, **text)["prompt_results"]
            assert len(result["predictions"]) == 2
