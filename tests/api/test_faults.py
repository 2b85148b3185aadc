"""The server survives faults of memory, threads, remote servers, the database and the disk."""

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
        """A server with four embeddings whose device is out of memory for the next few encodes."""
        encode: Encode = VisualEngine.encode
        forwards: list[int] = []
        remaining = 0

        def out_of_memory(self: VisualEngine, images: Sequence[Prepared]) -> list[Embedding]:
            nonlocal remaining
            forwards.append(len(images))
            if remaining:
                remaining -= 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return encode(self, images)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(VisualEngine, "encode", out_of_memory)
            with serving(visual_model="sam2") as server:
                for seed in range(4):
                    server.answer(VISUAL, image=noise(800 + seed))
                forwards.clear()
                remaining = failures
                yield server, forwards

    def test_the_cache_shrinks_and_the_request_is_retried(
        self, picture: Picture, caplog: pytest.LogCaptureFixture
    ) -> None:
        with self._full(1) as (server, forwards):
            cache = server.segmenter.encoder.embeddings
            room, one = cache.max_bytes, cache.nbytes // 4
            assert_clicks_are_right(server, picture)
            assert forwards == [1, 1]
            assert cache.nbytes == 3 * one, "two of four embeddings are evicted, and one is added"
            assert cache.max_bytes == room // 16
            assert "Out of memory" in caplog.text
            # The most recently used embedding is still cached.
            body = {"image": noise(803)}
            assert server.post(VISUAL, body).headers["x-embedding-cache"] == "hit"

    def test_a_second_failure_is_503_and_the_server_survives(self, picture: Picture) -> None:
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

    def test_a_job_is_retried(self, picture: Picture) -> None:
        with self._full(2) as (server, _):
            job = server.answer(JOB, image=picture.sent, prompts=[click(picture.scene.objects[0])])
            where = f"/v2/requests/{job['request_id']}"
            until(lambda: server.get(f"{where}/status").json()["status"] == "COMPLETED", pause=0.2)
            assert server.metric("inference_jobs_total", outcome="retried") == 1

    def test_host_memory(self, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*arguments: object) -> object:
            return np.empty(10**15)

        with serving(visual_model="sam2") as server:
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
    def test_a_dead_worker_thread_is_replaced(self, picture: Picture, times: int) -> None:
        """After one death its request is retried; after two it fails."""
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
            with serving(encode_batch=1, visual_model="sam2") as server:
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
    def test_a_hanging_server_delays_only_its_own_request(
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
    def test_an_outage(self, picture: Picture) -> None:
        item = picture.scene.objects[0]
        body = {"image": picture.sent, "prompts": [click(item)], "format": "rle"}
        with cluster() as postgres, serving(database_url=postgres.url) as server:

            def state(job_id: str) -> str:
                return str(server.get(f"/v2/requests/{job_id}/status").json().get("status"))

            done = server.answer(JOB, **body)["request_id"]
            until(lambda: state(done) == "COMPLETED", pause=0.1)
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
            # Everything else works.
            assert_clicks_are_right(server, picture)
            assert server.get("/readyz").status_code == 200
            assert server.get("/metrics").status_code == 200
            postgres.start()
            until(lambda: server.get(f"/v2/requests/{done}/status").status_code == 200, pause=0.1)
            assert state(done) == "COMPLETED"
            again = server.answer(JOB, **body)["request_id"]
            until(lambda: state(again) == "COMPLETED", pause=0.1)
            (prediction,) = server.get(f"/v2/requests/{again}").json()["output"]["predictions"]
            assert iou(plane(prediction, picture.size), item.mask) > 0.8


class TestDisk:
    """A full disk, simulated by a limit on file sizes, which needs no privileges."""

    @contextmanager
    def _full(self, server: Process, nbytes: int) -> Iterator[None]:
        limits = resource.prlimit(server.popen.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.popen.pid, resource.RLIMIT_FSIZE, (nbytes, limits[1]))
        try:
            yield
        finally:
            resource.prlimit(server.popen.pid, resource.RLIMIT_FSIZE, limits)

    def test_jobs_and_uploads_get_503_until_there_is_space(
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
                # Requests that need no disk space are served.
                assert_clicks_are_right(server, picture)
                assert server.get("/readyz").status_code == 200
            job = server.answer(JOB, **{**body, "image": in_base64(large)})["request_id"]
            status = f"/v2/requests/{job}/status"
            until(lambda: server.get(status).json()["status"] == "COMPLETED", pause=0.1)
            upload = post(server, TEXT, large, prompt="red circle", output_format="json")
            assert upload.status_code == 404, "the upload was read, and noise contains no circle"
            assert "Traceback" not in server.log.read_text()


def test_a_concept_is_answered_while_the_other_model_has_no_memory(picture: Picture) -> None:
    def full(self: VisualEngine, images: Sequence[Prepared]) -> list[Embedding]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VisualEngine, "encode", full)
        with serving(visual_model="sam2") as server:
            assert server.post(VISUAL, {"image": noise(830)}).status_code == 503
            text = {"image": picture.sent, "prompts": [{"type": "text", "text": "red circle"}]}
            (result,) = server.answer(CONCEPT, **text)["prompt_results"]
            assert len(result["predictions"]) == 2
