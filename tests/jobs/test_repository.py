"""The job repository, on SQLite and on PostgreSQL."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import func, select, text, update

from inference_server.auth import Charge, KeyRepository, day_of
from inference_server.errors import CapacityError
from inference_server.jobs import (
    Backlog,
    Claim,
    Deleted,
    Facts,
    JobProgress,
    JobRepository,
    Lease,
    Output,
    RequestKey,
    Submission,
)
from inference_server.jobs.models import FILES, JOBS, PAYLOADS
from inference_server.jobs.task import ResultFile
from tests.jobs.conftest import LEASE, Opener
from tests.jobs.postgres import fresh_database
from tests.jobs.submitting import names_of, purged, submit
from tests.waiting import until

KIND = "sam3-image"
PNG = ResultFile("preview.png", "image/png", b"\x89PNG...")
MASK = ResultFile("mask_1.png", "image/png", b"\x89PNG")
OUTPUT = Output((PNG, MASK), 0.5, Facts("sam3/demo"))


def claimed(store: JobRepository, owner: str = "me") -> Claim:
    claim = store.claim(owner, [KIND])
    assert claim is not None
    return claim


def count(store: JobRepository, table: Any) -> int:
    with store._database.reading() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def pass_time(store: JobRepository, seconds: float) -> None:
    """Move all times of jobs into the past, as if some seconds had passed."""
    with store._database.writing() as connection:
        sooner = {name: JOBS.c[name] - seconds for name in ("created", "due", "expires")}
        connection.execute(update(JOBS).values(**sooner))


def state(store: JobRepository, job_id: str, tenant: str = "alice") -> str | None:
    status = store.status(job_id, tenant)
    return None if status is None else status.state


def test_a_job_from_submit_to_result(store: JobRepository) -> None:
    job_id = submit(store, "alice", KIND, b'{"image": "..."}')
    assert state(store, job_id) == "QUEUED"
    claim = claimed(store)
    assert claim == Claim(Lease(job_id, 1), "alice", KIND, 1, b'{"image": "..."}')
    assert state(store, job_id) == "PROCESSING"
    assert store.claim("other", [KIND]) is None
    begin = time.time()
    assert store.finish(claim.lease, OUTPUT)
    status = store.status(job_id, "alice")
    assert status is not None
    assert (status.state, status.seconds, status.facts.model) == ("COMPLETED", 0.5, "sam3/demo")
    assert status.error is None
    assert status.expires == pytest.approx(begin + 3600, abs=60)
    assert names_of(store, job_id) == ["preview.png", "mask_1.png"]


def test_the_input_is_deleted_when_the_job_ends(store: JobRepository) -> None:
    ends: list[Callable[[Lease], bool]] = [
        lambda lease: store.finish(lease, OUTPUT),
        lambda lease: store.fail(lease, "no"),
    ]
    for end in ends:
        submit(store, "alice", KIND, b"{}")
        assert count(store, PAYLOADS) == 1
        assert end(claimed(store).lease)
        assert count(store, PAYLOADS) == 0


def test_a_failure_is_reported(store: JobRepository) -> None:
    job_id = submit(store, "alice", KIND, b"{}")
    assert store.fail(claimed(store).lease, "It is no image.")
    status = store.status(job_id, "alice")
    assert status is not None
    assert (status.state, status.error) == ("FAILED", "It is no image.")
    assert names_of(store, job_id) == []


def test_other_tenants_do_not_see_a_job(store: JobRepository) -> None:
    job_id = submit(store, "alice", KIND, b"{}")
    assert state(store, job_id, "bob") is None
    assert state(store, "0" * 32) is None
    assert state(store, "'; drop table inference_jobs; --") is None


def test_first_come_first_served(store: JobRepository) -> None:
    ids = [submit(store, "alice", KIND, b"{}") for _ in range(5)]
    assert [claimed(store).lease.job_id for _ in ids] == ids


def test_unknown_kinds_are_left_to_other_processes(
    store: JobRepository,
) -> None:
    submit(store, "alice", "newer", b"{}")
    assert store.claim("me", [KIND]) is None
    assert store.claim("me", [KIND, "newer"]) is not None


def test_an_expired_lease_is_taken_over_and_the_stale_finish_refused(
    store: JobRepository,
) -> None:
    job_id = submit(store, "alice", KIND, b"{}")
    stale = claimed(store, "dead")
    assert store.claim("other", [KIND]) is None
    pass_time(store, 0.99 * LEASE - 60)
    assert store.claim("other", [KIND]) is None
    pass_time(store, 0.01 * LEASE + 60)
    fresh = claimed(store, "other")
    assert fresh.lease == Lease(job_id, 2)
    assert fresh.attempt == 2
    assert not store.finish(stale.lease, OUTPUT)
    assert not store.fail(stale.lease, "no")
    assert not store.renew(stale.lease)
    assert not store.retry(stale.lease, 0)
    assert state(store, job_id) == "PROCESSING"
    assert count(store, FILES) == 0
    assert store.finish(fresh.lease, Output((MASK,), 0.1))
    assert not store.finish(fresh.lease, OUTPUT)
    assert names_of(store, job_id) == ["mask_1.png"]


def test_a_renewed_lease_holds(store: JobRepository) -> None:
    submit(store, "alice", KIND, b"{}")
    claim = claimed(store)
    for _ in range(4):
        pass_time(store, 0.4 * LEASE)
        assert store.claim("other", [KIND]) is None
        assert store.renew(claim.lease)


def test_a_job_that_kills_its_server_fails_in_the_end(opened: Opener) -> None:
    store = opened(job_attempts=2)
    job_id = submit(store, "alice", KIND, b"{}")
    for _ in range(2):
        claimed(store, "dead")
        assert store.requeue("dead", counts=True) == 1
        assert state(store, job_id) == "QUEUED"
    assert store.claim("me", [KIND]) is None
    status = store.status(job_id, "alice")
    assert status is not None
    assert status.state == "FAILED"
    assert status.error == "The server stopped 2 times while it processed this request."
    assert count(store, PAYLOADS) == 0


def test_a_shutdown_does_not_count_as_an_attempt(opened: Opener) -> None:
    store = opened(job_attempts=1)
    submit(store, "alice", KIND, b"{}")
    for token in range(1, 5):
        claim = claimed(store)
        assert (claim.lease.token, claim.attempt) == (token, 1)
        assert store.requeue("me", counts=False) == 1
        assert not store.finish(claim.lease, OUTPUT)


def test_a_retry_waits(store: JobRepository) -> None:
    submit(store, "alice", KIND, b"{}")
    assert store.retry(claimed(store).lease, 500)
    assert store.claim("me", [KIND]) is None
    pass_time(store, 500)
    assert claimed(store).attempt == 2


def test_progress_belongs_to_an_attempt(store: JobRepository) -> None:
    job_id = submit(store, "alice", KIND, b"{}")

    def progress() -> JobProgress | None:
        status = store.status(job_id, "alice")
        assert status is not None
        return status.progress

    half = JobProgress(5, 10, 1, 7)
    ends: tuple[Callable[[Lease], bool], ...] = (
        lambda lease: store.retry(lease, 0),
        lambda lease: store.requeue("me", counts=True) == 1,
    )
    for end in ends:
        claim = claimed(store)
        assert progress() is None
        assert store.report(claim.lease, half)
        assert progress() == half
        assert end(claim.lease)
        assert progress() is None
        assert not store.report(claim.lease, half), "the lease is lost"
    claim = claimed(store)
    assert store.finish(claim.lease, replace(OUTPUT, progress=JobProgress(10, 10)))
    assert progress() == JobProgress(10, 10)


class TestDeleted:
    """A client cancels its job, or deletes the result."""

    @pytest.fixture
    def keys(self, store: JobRepository) -> KeyRepository:
        return KeyRepository(store._database)

    def test_a_waiting_job_is_refunded(self, store: JobRepository, keys: KeyRepository) -> None:
        made = keys.create("one", credits=5)[1]
        job_id = submit(store, "alice", KIND, b"{}", Charge(made.id, 3, day_of()))
        assert store.delete(job_id, "bob") is None
        assert store.delete("0" * 32, "alice") is None
        assert store.delete(job_id, "alice") == Deleted(job_id, KIND, "QUEUED")
        assert store.delete(job_id, "alice") is None
        assert state(store, job_id) is None
        assert store.claim("me", [KIND]) is None
        assert (count(store, PAYLOADS), store.backlog()) == (0, Backlog(0, 0, 0.0, 0))
        assert [key.credits for key in keys.all()] == [5]
        assert purged(store) == 1

    def test_a_job_that_was_begun_is_not(self, store: JobRepository, keys: KeyRepository) -> None:
        made = keys.create("one", credits=5)[1]
        job_id = submit(store, "alice", KIND, b"{}", Charge(made.id, 3, day_of()))
        lease = claimed(store).lease
        assert store.holds(lease)
        assert store.delete(job_id, "alice") == Deleted(job_id, KIND, "PROCESSING")
        assert not store.holds(lease)
        assert not store.renew(lease)
        assert not store.finish(lease, OUTPUT)
        assert not store.retry(lease, 0)
        store.undo(job_id)
        assert [key.credits for key in keys.all()] == [2]
        purged(store)
        assert count(store, JOBS) == 0

    def test_a_result_is_deleted(self, store: JobRepository) -> None:
        job_id = submit(store, "alice", KIND, b"{}")
        store.finish(claimed(store).lease, OUTPUT)
        assert store.delete(job_id, "alice") == Deleted(job_id, KIND, "COMPLETED")
        assert names_of(store, job_id) == []
        assert state(store, job_id) is None
        assert purged(store) == 1
        assert count(store, FILES) == 0

    def test_its_idempotency_key_is_free(self, store: JobRepository) -> None:
        again = Submission("alice", KIND, b"{}", key=RequestKey("k" * 64, "r" * 64))
        first = store.submit(again).job_id
        store.delete(first, "alice")
        second = store.submit(again)
        assert not second.repeated
        assert second.job_id != first


def test_the_backlog_counts_all_tenants(store: JobRepository) -> None:
    assert store.backlog() == Backlog(0, 0, 0.0, 0)
    for tenant in ("alice", "bob", "bob"):
        submit(store, tenant, KIND, b"{}")
    claim = claimed(store)
    backlog = store.backlog()
    assert (backlog.queued, backlog.processing, backlog.nbytes) == (2, 1, 6)
    pass_time(store, 50)
    assert store.backlog().oldest >= backlog.oldest + 50
    store.fail(claim.lease, "no")
    assert (store.backlog().queued, store.backlog().processing) == (2, 0)


def test_owners(store: JobRepository) -> None:
    for _ in range(3):
        submit(store, "alice", KIND, b"{}")
    claims = [claimed(store, owner) for owner in ("one", "two", "two")]
    assert sorted(store.workers()) == ["one", "two"]
    assert store.requeue("two", counts=True) == 2
    assert store.finish(claims[0].lease, OUTPUT)
    assert store.workers() == []


class TestBounds:
    def test_the_limit_per_key(self, opened: Opener) -> None:
        store = opened(job_queue_per_key=2)
        submit(store, "alice", KIND, b"{}")
        submit(store, "alice", KIND, b"{}")
        with pytest.raises(CapacityError, match="INFERENCE_JOB_QUEUE_PER_KEY") as caught:
            submit(store, "alice", KIND, b"{}")
        assert int(caught.value.headers["retry-after"]) >= 1
        submit(store, "bob", KIND, b"{}")
        # Claimed jobs count, ended ones do not.
        claim = claimed(store)
        with pytest.raises(CapacityError):
            submit(store, "alice", KIND, b"{}")
        store.finish(claim.lease, OUTPUT)
        submit(store, "alice", KIND, b"{}")

    def test_the_limit_of_the_queue(self, opened: Opener) -> None:
        store = opened(job_queue_size=2)
        submit(store, "alice", KIND, b"{}")
        submit(store, "bob", KIND, b"{}")
        with pytest.raises(CapacityError, match="INFERENCE_JOB_QUEUE_SIZE"):
            submit(store, "carol", KIND, b"{}")

    def test_limits_hold_for_concurrent_submits(self, opened: Opener) -> None:
        stores = [opened(job_queue_size=10) for _ in range(3)]

        def accepts(index: int) -> bool:
            try:
                submit(stores[index % 3], "alice", KIND, b"{}")
            except CapacityError:
                return False
            return True

        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(accepts, range(30))) == 10

    def test_the_limit_of_storage(self, opened: Opener) -> None:
        store = opened(job_storage_mb=1, job_storage_share=1, job_retention=600)
        submit(store, "alice", KIND, bytes(600_000))
        with pytest.raises(CapacityError, match="INFERENCE_JOB_STORAGE_MB"):
            submit(store, "alice", KIND, bytes(600_000))
        big = ResultFile("preview.png", "image/png", bytes(900_000))
        store.finish(claimed(store).lease, Output((big,), 0.1))
        with pytest.raises(CapacityError):
            submit(store, "alice", KIND, bytes(200_000))
        pass_time(store, 600)
        assert purged(store) == 1
        submit(store, "alice", KIND, bytes(600_000))


def test_expired_jobs_are_hidden_before_and_after_the_purge(opened: Opener) -> None:
    store = opened(job_retention=600)
    ids = [submit(store, "alice", KIND, b"{}") for _ in range(3)]
    store.finish(claimed(store).lease, OUTPUT)
    store.fail(claimed(store).lease, "no")
    assert purged(store) == 0
    pass_time(store, 600)
    assert [state(store, job_id) for job_id in ids] == [None, None, "QUEUED"]
    assert names_of(store, ids[0]) == []
    assert purged(store) == 2
    assert (count(store, JOBS), count(store, FILES), count(store, PAYLOADS)) == (1, 0, 1)


def test_many_are_purged(opened: Opener) -> None:
    store = opened(job_queue_per_key=300, job_queue_size=300)
    for _ in range(120):
        submit(store, "alice", KIND, b"{}")
    with store._database.writing() as connection:
        connection.execute(update(JOBS).values(expires=1.0))
    assert purged(store) == 120


def test_concurrent_workers_claim_each_job_once(opened: Opener) -> None:
    stores = [opened() for _ in range(4)]
    ids = [submit(stores[0], "alice", KIND, b"{}") for _ in range(40)]
    taken: Counter[str] = Counter()
    shares: Counter[int] = Counter()
    start = threading.Barrier(4)

    def work(index: int) -> None:
        start.wait()
        while (claim := stores[index].claim(f"worker{index}", [KIND])) is not None:
            taken[claim.lease.job_id] += 1
            shares[index] += 1
            until(lambda: len(shares) > 1)  # so that one thread does not take all
            assert stores[index].finish(claim.lease, OUTPUT)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, index) for index in range(4)]:
            future.result()
    assert taken == Counter(ids)
    assert sum(shares.values()) == len(ids)


def test_the_secret_and_the_jobs_survive(opened: Opener) -> None:
    first = opened()
    job_id = submit(first, "alice", KIND, b"{}")
    second = opened()
    assert second._database.secret == first._database.secret
    assert len(first._database.secret) == 32
    assert claimed(second).lease.job_id == job_id


class TestSqlite:
    @pytest.fixture
    def url(self) -> str:
        return ""

    def test_waits_for_a_writer(
        self, store: JobRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, writing = threading.Event(), store._database.writing

        def notify_and_write() -> Any:
            begun.set()
            return writing()

        monkeypatch.setattr(store._database, "writing", notify_and_write)
        other = sqlite3.connect(tmp_path / "data" / "jobs.sqlite", isolation_level=None)
        other.execute("begin immediate")
        with ThreadPoolExecutor(1) as pool:
            submitted = pool.submit(submit, store, "alice", KIND, b"{}")
            assert begun.wait(60)
            # Readers do not wait for the writer.
            assert state(store, "0" * 32) is None
            assert not submitted.done()
            other.execute("rollback")
            assert state(store, submitted.result(60)) == "QUEUED"
        other.close()

    def test_free_pages_are_returned_to_the_disk(self, opened: Opener, tmp_path: Path) -> None:
        store = opened(job_retention=600)
        file = tmp_path / "data" / "jobs.sqlite"
        marker = b"a picture of somebody" * 50_000
        submit(store, "alice", KIND, marker)
        store.finish(claimed(store).lease, OUTPUT)
        pass_time(store, 600)
        assert purged(store) == 1
        with store._database.writing() as connection:
            pages = connection.execute(text("pragma freelist_count")).scalar_one()
        assert pages < 10
        store._database.close()
        assert file.stat().st_size < 200_000
        assert b"picture of somebody" not in file.read_bytes()


class TestPostgresql:
    @pytest.fixture
    def url(self, postgres_url: str) -> Iterator[str]:
        with fresh_database(postgres_url, f"lost{time.monotonic_ns()}") as database:
            yield database

    def test_lost_connections_are_replaced(self, store: JobRepository, url: str) -> None:
        job_id = submit(store, "alice", KIND, b"{}")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
        assert claimed(store).lease.job_id == job_id
