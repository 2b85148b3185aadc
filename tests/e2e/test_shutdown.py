"""The end of a server: what it let in is answered, what comes later is told, and it ends with 0."""

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
from tests.e2e.processes import Held, Pictures, Process, process, show

CLIENTS = 12


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    """Each has something else to click at."""
    return [Picture(make_scene(seed, (320, 240), count=(2, 3))) for seed in range(920, 920 + 8)]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


def everything(picture: Picture, points: int) -> dict[str, Any]:
    """A request that takes a while: so many clicks a side."""
    return {"image": picture.sent["value"], "points_per_side": points, "return_preview": True}


def ask(pool: ThreadPoolExecutor, server: Process, path: str, body: Any) -> Future[httpx.Response]:
    """On a connection of its own."""
    headers = {"x-api-key": ALICE}
    return pool.submit(httpx.post, server.url + path, json=body, headers=headers, timeout=TIMEOUT)


def begun(server: Process, path: str) -> None:
    """Waits until a request is being worked on: its image was encoded, and clicks are decoded."""
    until(lambda: server.metric("inference_batch_size_count", lane="sam2 decode") > 0, TIMEOUT)


def leaves(server: Process) -> bool:
    """Whether a server says that it stops, or is gone."""
    try:
        return server.get("/readyz").status_code == 503
    except httpx.TransportError:
        return server.popen.poll() is not None


def answers_in(log: str) -> Counter[int]:
    """What a server says that it has answered to clicks, by status."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    asked = [line for line in lines if line["logger"] == "inference_server.access"]
    return Counter(line["status"] for line in asked if line["route"] == VISUAL)


class TestUnderLoad:
    def test_what_was_let_in_is_answered_right_and_nothing_is_cut(
        self, tmp_path: Path, pictures: list[Picture]
    ) -> None:
        statuses: Counter[int] = Counter()
        wrong: list[str] = []
        after: list[str] = []
        told, leaving = threading.Event(), threading.Event()

        def client(number: int) -> None:
            """Clicks on and on, on a kept connection, until the server is gone."""
            mine = pictures[number % len(pictures)]
            body = {"image": mine.sent, "format": "rle"}
            with httpx.Client(base_url=server.url, headers={"x-api-key": ALICE}) as http:
                for turn in range(10**6):
                    item = mine.scene.objects[turn % len(mine.scene.objects)]
                    try:
                        answer = http.post(
                            VISUAL, json={**body, "prompts": [click(item)]}, timeout=TIMEOUT
                        )
                    except httpx.ConnectError:  # nobody took the connection
                        after.append("refused")
                        return
                    except httpx.HTTPError as error:
                        # The server may close a connection just as a request sets out on it; what
                        # it has let in is in its log, and is counted.
                        (after if told.is_set() else wrong).append(repr(error))
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
            told.set()
            server.tell(signal.SIGTERM)
            until(lambda: leaves(server), TIMEOUT, 0.005)
            leaving.set()
            for thread in threads:
                thread.join(TIMEOUT)
            assert server.ended() == 0
            log = server.log.read_text()
        assert not wrong, wrong
        assert set(statuses) <= {200, 503}
        assert statuses == answers_in(log), "everything that was let in has come back"
        assert len(after) == CLIENTS
        stopping = "The server is stopping. Send the request again."
        assert statuses[503] == after.count(stopping)
        # Each client may have one answer on its way that does not say so yet.
        assert len(late) <= CLIENTS
        assert "Traceback" not in log, log

    def test_a_grace_period_answers_as_ever_and_is_not_ready(
        self, tmp_path: Path, pictures: list[Picture]
    ) -> None:
        item = pictures[0].scene.objects[0]
        body = {"image": pictures[0].sent, "format": "rle", "prompts": [click(item)]}
        with process(tmp_path, drain_seconds=3600) as server:
            assert server.get("/readyz").status_code == 200
            server.tell(signal.SIGTERM)
            until(lambda: server.get("/readyz").status_code == 503, TIMEOUT)
            assert server.get("/readyz").json()["status"] == "stopping"
            assert server.get("/livez").status_code == 200
            for _ in range(3):
                answer = server.post(VISUAL, body)
                assert answer.status_code == 200
                assert answer.headers["connection"] == "close"
                assert iou(plane(answer.json()["predictions"][0], (240, 320)), item.mask) > 0.6
            # The second signal ends the wait.
            server.tell(signal.SIGTERM)
            assert server.ended() == 0


class TestDrain:
    def test_a_long_request_is_finished_while_new_work_is_told_to_go_elsewhere(
        self, tmp_path: Path, pictures: list[Picture], pool: ThreadPoolExecutor
    ) -> None:
        path = "/v1/sam3-image"
        with process(tmp_path, shutdown_timeout=TIMEOUT) as server:
            long = ask(pool, server, path, everything(pictures[0], 32))
            begun(server, path)
            host, port = server.url.removeprefix("http://").split(":")
            idle = socket.create_connection((host, int(port)), timeout=TIMEOUT)
            # However fast the long one is: the server drains until this one is whole.
            held = Held(server, VISUAL, {"image": pictures[2].sent})
            server.tell(signal.SIGTERM)
            until(lambda: server.get("/readyz").status_code == 503, TIMEOUT)
            assert server.get("/livez").status_code == 200
            assert server.get("/metrics").status_code == 200
            refusals: list[tuple[str, dict[str, Any], str, int]] = [
                (VISUAL, {"image": pictures[1].sent}, "message", 503),
                ("/api/predict", {"data": ["x", "y", 0.5]}, "error", 503),
                (path, everything(pictures[1], 4), "error", 502),
                ("/v2/sam3-image", everything(pictures[1], 4), "error", 502),
            ]
            for where, body, word, status in refusals:
                refused = server.post(where, body)
                assert refused.status_code == status, refused.text
                assert "stopping" in refused.json()[word]
                assert int(refused.headers["retry-after"]) >= 1
            with held:
                assert held.finish().startswith(b"HTTP/1.1 200 ")
            assert long.result().status_code == 200
            with Image.open(io.BytesIO(long.result().content)) as preview:
                assert np.asarray(preview).any()
            with idle:
                assert idle.recv(100) == b"", "a connection that says nothing is closed"
            assert server.ended() == 0
            assert "Traceback" not in server.log.read_text()

    def test_a_second_signal_drops_in_the_contracts_words(
        self, tmp_path: Path, pictures: list[Picture], pool: ThreadPoolExecutor
    ) -> None:
        with process(tmp_path, shutdown_timeout=3600) as server:
            dropped = ask(pool, server, "/v1/sam3-image", everything(pictures[0], 128))
            begun(server, "/v1/sam3-image")
            server.tell(signal.SIGINT)
            until(lambda: server.get("/readyz").status_code == 503, TIMEOUT)
            server.tell(signal.SIGINT)
            answer = dropped.result()
            assert answer.status_code == 502
            assert answer.json() == {"error": "The server is stopping. Send the request again."}
            assert answer.headers["connection"] == "close"
            assert server.ended() == 0
            log = server.log.read_text()
            assert "Interrupt again to cancel them" in log
            assert "Traceback" not in log, log

    def test_jobs_in_the_middle_are_done_after_the_restart_once(
        self, tmp_path: Path, pictures: list[Picture]
    ) -> None:
        """One that is decoded, however fast, and one whose picture does not come."""
        kept: dict[str, Any] = {"fetch_networks": "127.0.0.0/8", "fetch_timeout": 3600}
        item = pictures[1].scene.objects[0]
        with Pictures() as far:
            click_far = {"image": far.url, "coordinates": list(item.click()), "overlay_mask": False}
            with process(tmp_path, shutdown_timeout=0.1, job_lease=3600, **kept) as server:
                near = server.answer("/v2/sam3-image", **everything(pictures[0], 24))["request_id"]
                begun(server, "/v2/sam3-image")
                job = server.answer("/v2/sam-v2-image", **click_far)["request_id"]
                with far.visited():
                    where = f"/v2/requests/{job}"
                    assert server.get(f"{where}/status").json()["status"] == "PROCESSING"
                    server.tell(signal.SIGTERM)
                    assert server.ended() == 0
                log = server.log.read_text()
                back = re.search(r"([12]) unfinished jobs were requeued", log)
                assert back, log
                assert "Traceback" not in log, log
            # The lease would hold for an hour: it was given back, and the attempt does not count.
            with process(tmp_path, job_attempts=1, **kept) as server:
                show(pictures[1].data, far.visited())
                for each, name in ((job, "mask.png"), (near, "preview.png")):
                    where = f"/v2/requests/{each}"
                    until(
                        lambda: server.get(f"{where}/status").json()["status"] == "COMPLETED",  # noqa: B023
                        TIMEOUT,
                    )
                    (image,) = server.get(where).json()["images"]
                    assert image["file_name"] == name
                # A job is counted after it was written down.
                counted = "inference_jobs_total"
                until(lambda: server.metric(counted) == int(back[1]), TIMEOUT)
                assert server.metric(counted, outcome="completed") == int(back[1])
                server.tell(signal.SIGTERM)
                assert server.ended() == 0

    def test_jobs_that_can_be_finished_in_time_are(
        self, tmp_path: Path, pictures: list[Picture]
    ) -> None:
        with (
            Pictures() as far,
            process(
                tmp_path,
                shutdown_timeout=TIMEOUT,
                job_workers=2,
                fetch_networks="127.0.0.0/8",
                fetch_timeout=3600,
            ) as server,
        ):
            body = {**everything(pictures[0], 16), "image": far.url}
            jobs = [server.answer("/v2/sam3-image", **body)["request_id"] for _ in range(4)]
            visits = [far.visited() for _ in range(2)]
            server.tell(signal.SIGTERM)
            until(lambda: server.get("/readyz").status_code == 503, TIMEOUT)
            assert server.get(f"/v2/requests/{jobs[0]}/status").json()["status"] == "PROCESSING"
            for visit in visits:
                show(pictures[0].data, visit)
            assert server.ended() == 0
            log = server.log.read_text()
            assert "were requeued" not in log
            # Others are not begun any more.
            assert log.count(" completed at attempt 1") == 2

    def test_a_client_that_does_not_fetch_its_answer_holds_nobody_up(
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
                begun(server, "/sam2/segment_image")
                server.tell(signal.SIGTERM)
                assert server.ended() == 0
            assert "Traceback" not in server.log.read_text()
