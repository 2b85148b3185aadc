"""Killing worker processes at random times loses no job and corrupts no result."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from inference_server.database import Database
from inference_server.jobs import JobRepository
from inference_server.jobs.models import FILES, PAYLOADS
from inference_server.jobs.results import ResultReader
from tests.jobs.crashing import KIND, doubled, settings
from tests.jobs.postgres import fresh_database
from tests.jobs.submitting import submit
from tests.waiting import until

ROUNDS = 5
JOBS = 80


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "sqlite":
        yield ""
        return
    with fresh_database(request.getfixturevalue("postgres_url"), "crash") as database:
        yield database


def test_no_job_is_lost(url: str, tmp_path: Path) -> None:
    data, log = str(tmp_path / "data"), tmp_path / "log"
    command = [sys.executable, "-m", "tests.jobs.crashing", data, str(log), url]
    chance = random.Random()
    database = Database(tmp_path / "data", url)
    store = JobRepository(database, settings(data, url))
    reader = ResultReader(database)
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))

    def state(job_id: str) -> str:
        status = store.status(job_id, "alice")
        assert status is not None
        return status.state

    try:
        ids = [submit(store, "alice", KIND, b'{"number": %d}' % n) for n in range(JOBS)]
        for _ in range(3):
            start()
        # One of these three now runs a task that does not end. Each of the three is killed below.
        until((tmp_path / "log.held").exists)
        for _ in range(ROUNDS):
            time.sleep(chance.uniform(0.2, 0.8))
            # Kill the oldest process; the others may not have started yet.
            processes[0].kill()
            processes.pop(0).wait()
            start()
        # Detecting a crash takes up to two seconds; the rest is for the jobs.
        until(lambda: all(state(job_id) == "COMPLETED" for job_id in ids), pause=0.1)
        for number, job_id in enumerate(ids):
            for expected in doubled(number):
                content = reader.piece(job_id, expected.name, 0, len(expected.content) + 1)
                assert content == expected.content
        with database.reading() as connection:
            files = connection.execute(select(func.count()).select_from(FILES)).scalar_one()
            left = connection.execute(select(func.count()).select_from(PAYLOADS)).scalar_one()
        assert (files, left) == (2 * JOBS, 0)
        begun = Counter(map(int, log.read_text().split()))
        assert set(begun) == set(range(JOBS))
        assert max(begun.values()) > 1, "no kill hit a job"
    finally:
        for process in processes:
            process.kill()
            process.wait()
        database.close()
