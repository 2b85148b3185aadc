"""Expired jobs are deleted in short transactions; jobs that the clock made late are made due."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, select, update

from inference_server.jobs import Claim, JobRepository, Output, Retention
from inference_server.jobs.models import FILES, IMAGE_FILES, JOBS, PAYLOADS
from inference_server.jobs.task import ResultFile
from inference_server.segmentation.types import StoredImage
from tests.jobs.conftest import LEASE, Opener
from tests.jobs.submitting import submit
from tests.jobs.test_repository import KIND, claimed, count, pass_time

MB = 1_000_000


def retention_of(store: JobRepository) -> Retention:
    return Retention(store._database, store._settings)


def dues(store: JobRepository) -> dict[str, float]:
    """When each unfinished job may be claimed, in seconds from now."""
    with store._database.reading() as connection:
        rows = connection.execute(select(JOBS.c.id, JOBS.c.due - store._database.now))
        return {row[0]: row[1] for row in rows}


def test_large_results_are_deleted_in_steps(opened: Opener) -> None:
    """So that others can write in between: deleting takes time by the byte."""
    store = opened(job_retention=600)
    for _ in range(2):
        submit(store, "alice", KIND, b"{}")
        files = [ResultFile(f"{n}.png", "image/png", bytes(9 * MB)) for n in range(3)]
        assert store.finish(claimed(store).lease, Output(tuple(files), 0.1))
    submit(store, "alice", KIND, b"{}")
    retention = retention_of(store)
    assert not retention.purge()
    assert count(store, FILES) == 6
    pass_time(store, 600)
    left = [count(store, FILES)]
    while retention.purge():
        left.append(count(store, FILES))
    assert left == [6, 4, 2, 0], "16 MiB and the file that exceeds it"
    assert (count(store, JOBS), count(store, PAYLOADS)) == (1, 1)
    retention.compact()


def test_a_job_is_deleted_after_its_files(opened: Opener) -> None:
    """Otherwise files that nobody knows would be left when the server ends in between."""
    store = opened(job_retention=600)
    submit(store, "alice", KIND, b"{}")
    files = [ResultFile(f"{n}.png", "image/png", bytes(9 * MB)) for n in range(3)]
    store.finish(claimed(store).lease, Output(tuple(files), 0.1))
    pass_time(store, 600)
    assert retention_of(store).purge()
    assert (count(store, JOBS), count(store, FILES)) == (1, 1)
    assert not retention_of(store).purge()
    assert (count(store, JOBS), count(store, FILES)) == (0, 0)


def test_jobs_that_the_clock_made_late_are_made_due(opened: Opener) -> None:
    """A server's clock, or PostgreSQL's, that was set back must not leave them in the queue."""
    store = opened(job_retry_pause=5.0, job_attempts=3)
    waiting, paused = (submit(store, "alice", KIND, b"{}") for _ in range(2))
    retention = retention_of(store)
    assert store.retry(claimed(store).lease, 500)
    assert retention.pull_in() == 0
    assert store.claim("me", [KIND]) is not None
    assert store.claim("me", [KIND]) is None
    with store._database.writing() as connection:
        connection.execute(update(JOBS).values(due=JOBS.c.due + 86400))
    assert store.claim("me", [KIND]) is None
    assert retention.pull_in() == 2
    assert {waiting, paused} == {job_id for job_id, due in dues(store).items() if due <= 0}
    assert isinstance(store.claim("me", [KIND]), Claim)
    assert LEASE - 60 < max(dues(store).values()) <= LEASE


def test_a_body_and_its_image_are_transferred_before_the_lock_on_submissions(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else waits for a server that is slow, or freezes, within the transfer."""
    store = opened()
    lock = store._database.lock_submits
    stored: list[object] = []

    def noting(connection: Connection) -> None:
        stored.extend(
            connection.execute(select(table.c.content)).scalars().all()
            for table in (PAYLOADS, IMAGE_FILES)
        )
        lock(connection)

    monkeypatch.setattr(store._database, "lock_submits", noting)
    submit(store, "alice", KIND, b"a large body", image=StoredImage.of(b"a large image"))
    assert stored == [[b"a large body"], [b"a large image"]]
