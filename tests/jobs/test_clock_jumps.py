"""A system clock that is set changes nothing for leases, pauses, results and their links.

Times in SQLite are those of `inference_server.clock`; with PostgreSQL they are those of its server,
and `Retention.pull_in` helps after that was set back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from inference_server import clock
from inference_server.database import Database
from inference_server.jobs import (
    Accepted,
    JobRepository,
    Lease,
    LinkSigner,
    RequestKey,
    Retention,
    Submission,
)
from inference_server.jobs.results import ResultReader
from inference_server.settings import Settings
from tests.jobs.submitting import purged, submit
from tests.jobs.test_repository import KIND, OUTPUT, PNG, claimed, state

HOUR = 3600.0
SETTINGS = Settings(job_lease=30, job_retention=600)

pytestmark = pytest.mark.parametrize("jump", [-HOUR, HOUR, 24 * HOUR])

Process = Callable[[], JobRepository]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine whose clocks and boot id the test sets."""
    here = SimpleNamespace(wall=1_800_000_000.0, up=500.0, boot="one")
    monkeypatch.setattr(time, "time", lambda: here.wall)
    monkeypatch.setattr(clock, "since_boot", lambda: here.up)
    monkeypatch.setattr(clock, "boot_id", lambda: here.boot)
    return here


@pytest.fixture
def process(tmp_path: Path, machine: SimpleNamespace) -> Iterator[Process]:
    """A function that opens the database as a process that starts now does."""
    del machine
    with ExitStack() as stack:

        def start() -> JobRepository:
            database = Database(tmp_path)
            stack.callback(database.close)
            return JobRepository(database, SETTINGS)

        yield start


def test_a_lease(process: Process, machine: SimpleNamespace, jump: float) -> None:
    before = process()
    job_id = submit(before, "alice", KIND, b"{}")
    lease = claimed(before).lease
    machine.wall += jump
    after = process()
    for passes in (29, 29):
        machine.up += passes
        assert after.claim("other", [KIND]) is None
        assert before.renew(lease)
    machine.up += 31
    assert claimed(after, "other").lease == Lease(job_id, 2)
    assert not before.renew(lease)


def test_jobs_that_wait(process: Process, machine: SimpleNamespace, jump: float) -> None:
    before = process()
    paused = submit(before, "alice", KIND, b"{}")
    assert before.retry(claimed(before).lease, 50)
    waiting = submit(before, "alice", KIND, b"{}")
    machine.wall += jump
    after = process()
    new = submit(after, "alice", KIND, b"{}")
    for job_id in (waiting, new):
        lease = claimed(after).lease
        assert lease.job_id == job_id
        assert after.finish(lease, OUTPUT)
    assert 0 <= before.backlog().oldest < 60
    machine.up += 49
    assert before.claim("me", [KIND]) is None
    machine.up += 2
    assert claimed(before).lease.job_id == paused
    assert Retention(after._database, SETTINGS).pull_in() == 0


def test_a_result_its_link_and_its_key(
    process: Process, machine: SimpleNamespace, jump: float
) -> None:
    before = process()
    asked = Submission("alice", KIND, b"{}", key=RequestKey("k", "r"))
    job_id = before.submit(asked).job_id
    assert before.finish(claimed(before).lease, OUTPUT)
    status = before.status(job_id, "alice")
    assert status is not None
    assert status.expires == 1_800_000_600
    link = LinkSigner(before._database.secret).path(job_id, PNG.name, status.expires)
    machine.wall += jump
    after = process()
    for store in (before, after):
        reader = ResultReader(store._database)
        assert purged(store) == 0
        found = reader.find(job_id, PNG.name)
        assert found is not None
        assert found[1] == pytest.approx(600)
        assert LinkSigner(store._database.secret).path(job_id, PNG.name, status.expires) == link
        assert store.submit(asked) == Accepted(job_id, repeated=True)
    machine.up += 599
    assert state(after, job_id) == "COMPLETED"
    machine.up += 2
    for store in (before, after):
        assert state(store, job_id) is None
        assert ResultReader(store._database).files(job_id) == []
    assert not after.submit(asked).repeated
    assert purged(after) == 1


def test_a_clock_that_is_set_while_the_machine_is_off(
    process: Process, machine: SimpleNamespace, jump: float
) -> None:
    """Nothing tells by how much: results may go early, but no job waits for long."""
    before = process()
    waiting, under_way = (submit(before, "alice", KIND, b"{}") for _ in range(2))
    assert before.requeue("me", counts=False) == 0
    assert claimed(before, "dead").lease.job_id == waiting
    machine.wall += 60 + jump
    machine.boot, machine.up = "two", 1.0
    after = process()
    late = Retention(after._database, SETTINGS).pull_in()
    assert late == (2 if jump < 0 else 0)
    claims = {claimed(after).lease.job_id for _ in range(2)}
    assert claims == {waiting, under_way}
