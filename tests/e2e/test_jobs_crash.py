"""The real server, killed and started again: what it accepted, it answers."""

from __future__ import annotations

import io
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from inference_server.demo.scenes import make_scene
from tests.http.pictures import Picture, click, iou, plane
from tests.http.serving import ALICE, TIMEOUT, Running, until
from tests.jobs.postgres import fresh_database

ROOT = Path(__file__).parents[2]
COUNT = 12


class Server(Running):
    """A server in a process of its own, as `make serve` starts it."""

    def __init__(self, directory: Path, database_url: str = "") -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("INFERENCE_")}
        self.log = directory / f"log{time.monotonic_ns()}"
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "inference_server.cli", "serve", "--port", "0"],
                cwd=ROOT,
                env={
                    **clean,
                    "INFERENCE_API_KEYS": ALICE,
                    "INFERENCE_DATA_DIR": str(directory / "data"),
                    "INFERENCE_DATABASE_URL": database_url,
                    "INFERENCE_LOG_FORMAT": "text",
                    "INFERENCE_JOB_LEASE": "2",
                    "INFERENCE_PRELOAD": "sam2:sam2-hiera-large",
                },
                stderr=log,
            )
        until(lambda: " on http://" in self.log.read_text(), TIMEOUT, 0.05)
        address = re.search(r" on (http://\S+)", self.log.read_text())
        assert address
        super().__init__(address[1], httpx.Client(base_url=address[1], timeout=TIMEOUT))
        until(self.listens, TIMEOUT, 0.05)

    def listens(self) -> bool:
        assert self.popen.poll() is None, self.log.read_text()
        try:
            return self.http.get("/livez").is_success
        except httpx.TransportError:
            return False

    def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        self.http.close()
        self.popen.send_signal(how)
        return self.popen.wait(60)

    def state(self, job_id: str) -> str:
        status = self.get(f"/v2/requests/{job_id}/status").json()
        assert status.get("status") != "FAILED", status
        return str(status.get("status"))

    def done(self, jobs: list[tuple[str, Picture]]) -> int:
        return sum(self.state(job_id) == "COMPLETED" for job_id, _ in jobs)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    """Each has something else to click at."""
    return [Picture(make_scene(seed, (320, 240), count=(2, 3))) for seed in range(900, 904)]


def submit(server: Server, picture: Picture, *, as_json: bool) -> tuple[str, Picture]:
    item = picture.scene.objects[0]
    # SAM 2 alone: it is loaded in half the time.
    path = "/v2/sam-v2-image"
    body: dict[str, Any] = {"image": picture.sent["value"], "coordinates": list(item.click())}
    body["overlay_mask"] = False
    if as_json:
        path = "/v2/sam3/visual_segment"
        body = {"image": picture.sent, "prompts": [click(item)], "format": "rle"}
    answer = server.post(path, body)
    assert answer.status_code == 200, answer.text
    return answer.json()["request_id"], picture


def assert_right(server: Server, job_id: str, picture: Picture) -> None:
    job: dict[str, Any] = server.get(f"/v2/requests/{job_id}").json()
    if isinstance(job["output"], dict):
        found = plane(job["output"]["predictions"][0], picture.size)
    else:
        with Image.open(io.BytesIO(httpx.get(job["output"]).content)) as image:
            found = np.asarray(image) > 127
    assert iou(found, picture.scene.objects[0].mask) > 0.6


def test_what_was_accepted_is_answered(tmp_path: Path, pictures: list[Picture]) -> None:
    chance = random.Random()
    jobs: list[tuple[str, Picture]] = []
    server = Server(tmp_path)
    try:
        for index in range(COUNT):
            picture = pictures[index % len(pictures)]
            jobs.append(submit(server, picture, as_json=index % 2 == 0))
        until(lambda: server.done(jobs) > 0, TIMEOUT)
        time.sleep(chance.uniform(0, 0.1))
        server.end()
        server = Server(tmp_path)
        time.sleep(chance.uniform(0, 2))
        server.end()
        server = Server(tmp_path)
        begin = time.monotonic()
        until(lambda: server.done(jobs) == len(jobs), TIMEOUT, 0.1)
        print(f"all were done {time.monotonic() - begin:.1f} s after the last start")
        for job_id, picture in jobs:
            assert_right(server, job_id, picture)
        assert server.end(signal.SIGTERM) in (0, -signal.SIGTERM)
        log = server.log.read_text()
        assert "Traceback" not in log, log
    finally:
        server.end()


def test_two_servers_share_the_work_and_a_third_ends_it(
    postgres_url: str, tmp_path: Path, pictures: list[Picture]
) -> None:
    with fresh_database(postgres_url, "shared") as url:
        (tmp_path / "other").mkdir()
        one, other = Server(tmp_path, url), Server(tmp_path / "other", url)
        try:
            one.until_ready()
            other.until_ready()
            jobs = [submit(one, pictures[0], as_json=False) for _ in range(50)]
            until(lambda: other.done(jobs) >= 25, TIMEOUT)
            shares = [
                server.metric("inference_jobs_total", outcome="completed")
                for server in (one, other)
            ]
            assert min(shares) > 0
            jobs += [submit(one, picture, as_json=True) for picture in pictures]
            one.end()
            other.end()
            other = Server(tmp_path / "other", url)
            until(lambda: other.done(jobs) == len(jobs), TIMEOUT, 0.1)
            for job_id, picture in jobs:
                assert_right(other, job_id, picture)
        finally:
            one.end()
            other.end()
