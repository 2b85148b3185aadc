"""A stop finishes admitted requests, refuses new ones, and exits with status 0."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from inference_server.demo.scenes import make_scene
from tests.api.pictures import Picture, click, iou, plane
from tests.api.serving import ALICE, TIMEOUT, VISUAL, until
from tests.e2e.processes import PartialRequest, PausedImages, Process, process, send_image

CLIENTS = 12


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    """Images with different objects."""
    return [Picture(make_scene(seed, (320, 240), count=(2, 3))) for seed in range(920, 920 + 8)]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


def automatic(picture: Picture, points: int) -> dict[str, Any]:
    """Return a slow request, with a grid of `points` by `points` clicks."""
    return {"image": picture.sent["value"], "points_per_side": points, "return_preview": True}


def ask(pool: ThreadPoolExecutor, server: Process, path: str, body: Any) -> Future[httpx.Response]:
    """Send a request on a separate connection, in the background."""
    headers = {"x-api-key": ALICE}
    return pool.submit(httpx.post, server.url + path, json=body, headers=headers, timeout=TIMEOUT)


def until_working(server: Process, path: str) -> None:
    """Wait until a request has encoded its image and decodes its prompts."""
    lanes = ("sam2 decode", "sam3 visual decode")

    def is_working() -> bool:
        return any(server.metric("inference_batch_size_count", lane=lane) for lane in lanes)

    until(is_working, TIMEOUT)


def is_stopping(server: Process) -> bool:
    """Whether a server reports that it is stopping, or has ended."""
    try:
        return server.get("/readyz").status_code == 503
    except httpx.TransportError:
        return server.popen.poll() is not None


def logged_statuses(log: str) -> Counter[int]:
    """Count the logged responses to clicks by status."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    asked = [line for line in lines if line["logger"] == "inference_server.access"]
    return Counter(line["status"] for line in asked if line["route"] == VISUAL)


class TestUnderLoad:
    def test_no_admitted_request_is_lost_or_truncated(
        self, tmp_path: Path, pictures: list[Picture]
    ) -> None:
        statuses: Counter[int] = Counter()
        wrong: list[str] = []
        after: list[str] = []
        signalled, leaving = threading.Event(), threading.Event()

        def client(number: int) -> None:
            """Send clicks on one connection until the server has ended."""
            mine = pictures[number % len(pictures)]
            body = {"image": mine.sent, "format": "rle"}
            with httpx.Client(base_url=server.url, headers={"x-api-key": ALICE}) as http:
                for turn in range(10**6):
                    item = mine.scene.objects[turn % len(mine.scene.objects)]
                    try:
                        answer = http.post(
                            VISUAL, json={**body, "prompts": [click(item)]}, timeout=TIMEOUT
                        )
                    except httpx.ConnectError:  # the connection was refused
                        after.append("refused")
                        return
                    except httpx.HTTPError as error:
                        # The server may close an idle connection while a request is sent on it.
                        # Admitted requests are in its log, and are counted.
                        (after if signalled.is_set() else wrong).append(repr(error))
                        return
                    statuses[answer.status_code] += 1
                    if answer.status_code == 503:
                        after.append(answer.json()["message"])
                        assert answer.headers["connection"] == "close"
                        assert int(answer.headers["retry-after"]) >= 1
                        return
                    found = plane(answer.json()["predictions"][0], mine.size)
                    if answer.status_code != 200 or iou(found, item.mask) < 0.6:
                        wrong.append(answer.text[:200])
                    if leaving.is_set() and answer.headers.get("connection") != "close":
                        late.append(turn)

        late: list[int] = []
        with process(tmp_path) as server:
            threads = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
            for thread in threads:
                thread.start()
            until(lambda: wrong or statuses[200] > 3 * CLIENTS, TIMEOUT)
            signalled.set()
            server.signal_process(signal.SIGTERM)
            until(lambda: is_stopping(server), TIMEOUT, 0.005)
            leaving.set()
            for thread in threads:
                thread.join(TIMEOUT)
            assert server.ended() == 0
            log = server.log.read_text()
        assert not wrong, wrong
        assert set(statuses) <= {200, 503}
        assert statuses == logged_statuses(log), "every admitted request is answered"
        assert len(after) == CLIENTS
        stopping = "The server is stopping. Send the request again."
        assert statuses[503] == after.count(stopping)
        # Each client may get one response that was sent before the stop.
        assert len(late) <= CLIENTS
        assert "Traceback" not in log, log

    def test_requests_are_served_during_the_grace_period(
        self, tmp_path: Path, pictures: list[Picture]
    ) -> None:
        item = pictures[0].scene.objects[0]
        body = {"image": pictures[0].sent, "format": "rle", "prompts": [click(item)]}
        with process(tmp_path, drain_seconds=3600) as server:
            assert server.get("/readyz").status_code == 200
            server.signal_process(signal.SIGTERM)
            until(lambda: server.get("/readyz").status_code == 503, TIMEOUT)
            assert server.get("/readyz").json()["status"] == "stopping"
            assert server.get("/livez").status_code == 200
            for _ in range(3):
                answer = server.post(VISUAL, body)
                assert answer.status_code == 200
                assert answer.headers["connection"] == "close"
                assert iou(plane(answer.json()["predictions"][0], (240, 320)), item.mask) > 0.6
            # The second signal ends the wait.
            server.signal_process(signal.SIGTERM)
            assert server.ended() == 0


class TestDrain:
    def test_requests_in_progress_are_finished_and_new_work_is_refused(
        self, tmp_path: Path, pictures: list[Picture], pool: ThreadPoolExecutor
    ) -> None:
        path = "/v1/sam3-image"
        with process(tmp_path, shutdown_timeout=TIMEOUT) as server:
            long = ask(pool, server, path, automatic(pictures[0], 32))
            until_working(server, path)
            host, port = server.url.removeprefix("http://").split(":")
            idle = socket.create_connection((host, int(port)), timeout=TIMEOUT)
            # The server drains until this request is complete, even if the long one ends sooner.
            partial = PartialRequest(server, VISUAL, {"image": pictures[2].sent})
            server.signal_process(signal.SIGTERM)
            until(lambda: server.get("/readyz").status_code == 503, TIMEOUT)
            assert server.get("/livez").status_code == 200
            assert server.get("/metrics").status_code == 200
            refusals: list[tuple[str, dict[str, Any], str, int]] = [
                (VISUAL, {"image": pictures[1].sent}, "message", 503),
                ("/api/predict", {"data": ["x", "y", 0.5]}, "error", 503),
                (path, automatic(pictures[1], 4), "error", 502),
                ("/v2/sam3-image", automatic(pictures[1], 4), "error", 502),
            ]
            for where, body, word, status in refusals:
                refused = server.post(where, body)
                assert refused.status_code == status, refused.text
                assert "stopping" in refused.json()[word]
                assert int(refused.headers["retry-after"]) >= 1
            with partial:
                assert partial.finish().startswith(b"HTTP/1.1 200 ")
            assert long.result().status_code == 200
            with Image.open(io.BytesIO(long.result().content)) as preview:
                assert np.asarray(preview).any()
            with idle:
                assert idle.recv(100) == b"", "an idle connection is closed"
            assert server.ended() == 0
            assert "Traceback" not in server.log.read_text()

    def test_a_second_signal_drops_requests_with_an_error(
        self, tmp_path: Path, pictures: list[Picture], pool: ThreadPoolExecutor
    ) -> None:
        with process(tmp_path, shutdown_timeout=3600) as server:
            dropped = ask(pool, server, "/v1/sam3-image", automatic(pictures[0], 128))
            until_working(server, "/v1/sam3-image")
            server.signal_process(signal.SIGINT)
            until(lambda: server.get("/readyz").status_code == 503, TIMEOUT)
            server.signal_process(signal.SIGINT)
            answer = dropped.result()
            assert answer.status_code == 502
            assert answer.json()["error"] == "The server is stopping. Send the request again."
            assert answer.json()["code"] == "stopping"
            assert answer.headers["connection"] == "close"
            assert server.ended() == 0
            log = server.log.read_text()
            assert "Interrupt again to cancel them" in log
            assert "Traceback" not in log, log

    def test_jobs_in_progress_are_requeued_and_done_once(
        self, tmp_path: Path, pictures: list[Picture]
    ) -> None:
        """One job decodes prompts, and one waits for its image."""
        kept: dict[str, Any] = {"fetch_networks": "127.0.0.0/8", "fetch_timeout": 3600}
        item = pictures[1].scene.objects[0]
        with PausedImages() as far:
            click_far = {"image": far.url, "coordinates": list(item.click()), "overlay_mask": False}
            with process(tmp_path, shutdown_timeout=0.1, job_lease=3600, **kept) as server:
                near = server.answer("/v2/sam3-image", **automatic(pictures[0], 24))["request_id"]
                until_working(server, "/v2/sam3-image")
                job = server.answer("/v2/sam-v2-image", **click_far)["request_id"]
                with far.accept_request():
                    where = f"/v2/requests/{job}"
                    assert server.get(f"{where}/status").json()["status"] == "PROCESSING"
                    server.signal_process(signal.SIGTERM)
                    assert server.ended() == 0
                log = server.log.read_text()
                back = re.search(r"([12]) unfinished jobs were requeued", log)
                assert back, log
                assert "Traceback" not in log, log
            # The lease of an hour was released, and the attempt does not count.
            with process(tmp_path, job_attempts=1, **kept) as server:
                send_image(pictures[1].data, far.accept_request())
                for each, name in ((job, "mask.png"), (near, "preview.png")):
                    where = f"/v2/requests/{each}"
                    until(
                        lambda: server.get(f"{where}/status").json()["status"] == "COMPLETED",  # noqa: B023
                        TIMEOUT,
                    )
                    (image,) = server.get(where).json()["images"]
                    assert image["file_name"] == name
                # A job is counted after its result is stored.
                counted = "inference_jobs_total"
                until(lambda: server.metric(counted) == int(back[1]), TIMEOUT)
                assert server.metric(counted, outcome="completed") == int(back[1])
                server.signal_process(signal.SIGTERM)
                assert server.ended() == 0

    def test_jobs_that_finish_in_time_are_not_requeued(
        self, tmp_path: Path, pictures: list[Picture]
    ) -> None:
        with (
            PausedImages() as far,
            process(
                tmp_path,
                shutdown_timeout=TIMEOUT,
                job_workers=2,
                fetch_networks="127.0.0.0/8",
                fetch_timeout=3600,
            ) as server,
        ):
            body = {**automatic(pictures[0], 16), "image": far.url}
            jobs = [server.answer("/v2/sam3-image", **body)["request_id"] for _ in range(4)]
            visits = [far.accept_request() for _ in range(2)]
            server.signal_process(signal.SIGTERM)
            until(lambda: server.get("/readyz").status_code == 503, TIMEOUT)
            assert server.get(f"/v2/requests/{jobs[0]}/status").json()["status"] == "PROCESSING"
            for visit in visits:
                send_image(pictures[0].data, visit)
            assert server.ended() == 0
            log = server.log.read_text()
            assert "were requeued" not in log
            # No further jobs were started.
            assert log.count(" completed at attempt 1") == 2

    def test_a_client_that_does_not_read_does_not_delay_the_stop(
        self, tmp_path: Path, pictures: list[Picture]
    ) -> None:
        scene = make_scene(930, (2600, 2600), count=(3, 3))
        prompts = [click(item) for item in scene.objects]
        with process(tmp_path, shutdown_timeout=3600) as server:
            request = httpx.Request(
                "POST",
                server.url + "/sam2/segment_image",
                json={"image": Picture(scene).sent, "prompts": prompts * 20, "format": "polygon"},
                headers={"x-api-key": ALICE, "accept-encoding": "identity"},
            )
            head = "".join(f"{k}: {v}\r\n" for k, v in request.headers.items())
            host, port = server.url.removeprefix("http://").split(":")
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.connect((host, int(port)))
                deaf.sendall(f"POST {request.url.path} HTTP/1.1\r\n{head}\r\n".encode())
                deaf.sendall(request.read())
                until_working(server, "/sam2/segment_image")
                server.signal_process(signal.SIGTERM)
                assert server.ended() == 0
            assert "Traceback" not in server.log.read_text()
