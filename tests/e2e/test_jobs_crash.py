"""A server that is killed and restarted completes every accepted job."""

from __future__ import annotations

import io
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from inference_server.demo.scenes import make_scene
from tests.api.pictures import Picture, click, iou, plane
from tests.api.serving import TIMEOUT, until
from tests.e2e.processes import Process, process
from tests.jobs.postgres import fresh_database

COUNT = 12


@contextmanager
def running(directory: Path, database_url: str = "") -> Iterator[Process]:
    """Run a server, perhaps without loaded models, and kill it at the end of the block.

    Leases are short: on a busy machine some expire during the work, and the job is started again.
    The limit on attempts is high enough for that.
    """
    settings = {
        "database_url": database_url,
        "job_lease": 2,
        "job_attempts": 100,
        "log_format": "text",
    }
    with process(directory, ready=False, options=(), **settings) as server:
        # It can listen before it has opened its database.
        until(lambda: server.get("/v2/requests/0/status").status_code == 404, TIMEOUT)
        yield server


def state(server: Process, job_id: str) -> str:
    status = server.get(f"/v2/requests/{job_id}/status").json()
    assert status.get("status") != "FAILED", status
    return str(status.get("status"))


def done(server: Process, jobs: list[tuple[str, Picture]]) -> int:
    return sum(state(server, job_id) == "COMPLETED" for job_id, _ in jobs)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    """Images with different objects."""
    return [Picture(make_scene(seed, (320, 240), count=(2, 3))) for seed in range(900, 904)]


def submit(server: Process, picture: Picture, *, as_json: bool) -> tuple[str, Picture]:
    item = picture.scene.objects[0]
    # SAM 2 only, which loads in half the time.
    path = "/v2/sam-v2-image"
    body: dict[str, Any] = {"image": picture.sent["value"], "coordinates": list(item.click())}
    body["overlay_mask"] = False
    if as_json:
        path = "/v2/sam3/visual_segment"
        body = {"image": picture.sent, "prompts": [click(item)], "format": "rle"}
    answer = server.post(path, body)
    assert answer.status_code == 200, answer.text
    return answer.json()["request_id"], picture


def assert_right(server: Process, job_id: str, picture: Picture) -> None:
    job: dict[str, Any] = server.get(f"/v2/requests/{job_id}").json()
    if isinstance(job["output"], dict):
        found = plane(job["output"]["predictions"][0], picture.size)
    else:
        with Image.open(io.BytesIO(httpx.get(job["output"], timeout=TIMEOUT).content)) as image:
            found = np.asarray(image) > 127
    assert iou(found, picture.scene.objects[0].mask) > 0.6


def test_no_accepted_job_is_lost(tmp_path: Path, pictures: list[Picture]) -> None:
    chance = random.Random()
    jobs: list[tuple[str, Picture]] = []
    with running(tmp_path) as server:
        for index in range(COUNT):
            picture = pictures[index % len(pictures)]
            jobs.append(submit(server, picture, as_json=index % 2 == 0))
        until(lambda: done(server, jobs) > 0, TIMEOUT)
        time.sleep(chance.uniform(0, 0.1))
    with running(tmp_path):
        time.sleep(chance.uniform(0, 2))
    with running(tmp_path) as server:
        begin = time.monotonic()
        until(lambda: done(server, jobs) == len(jobs), TIMEOUT, 0.1)
        print(f"all jobs were completed {time.monotonic() - begin:.1f} s after the last start")
        for job_id, picture in jobs:
            assert_right(server, job_id, picture)
        server.signal_process(signal.SIGTERM)
        assert server.ended() == 0
        log = server.log.read_text()
        assert "Traceback" not in log, log


def test_two_servers_share_the_jobs_and_a_third_completes_them(
    postgres_url: str, tmp_path: Path, pictures: list[Picture]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    with fresh_database(postgres_url, "shared") as url:
        with running(here, url) as one, running(there, url) as other:
            one.until_ready()
            other.until_ready()
            jobs = [submit(one, pictures[0], as_json=False) for _ in range(50)]
            until(lambda: done(other, jobs) >= 25, TIMEOUT)

            def both() -> bool:
                """Whether each has completed some; jobs are added until both have."""
                if done(other, jobs) == len(jobs):
                    jobs.extend(submit(one, pictures[0], as_json=False) for _ in range(10))
                completed = "inference_jobs_total"
                shares = [each.metric(completed, outcome="completed") for each in (one, other)]
                return min(shares) > 0

            until(both, TIMEOUT, 0.1)
            jobs += [submit(one, picture, as_json=True) for picture in pictures]
        with running(there, url) as third:
            until(lambda: done(third, jobs) == len(jobs), TIMEOUT, 0.1)
            for job_id, picture in jobs:
                assert_right(third, job_id, picture)
