"""Images that jobs name by an id belong to the jobs, on SQLite and on PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection

from inference_server.jobs import JobRepository
from inference_server.jobs.models import IMAGE_FILES, IMAGES
from inference_server.segmentation.types import StoredImage
from tests.jobs.conftest import Opener
from tests.jobs.postgres import fresh_database
from tests.jobs.submitting import purged, submit
from tests.jobs.test_repository import KIND, OUTPUT, claimed, count, pass_time

IMAGE = StoredImage.of(b"a picture")
OTHER = StoredImage.of(b"another picture")


def images(store: JobRepository) -> int:
    """The number of stored images."""
    found = count(store, IMAGES)
    assert count(store, IMAGE_FILES) == found
    return found


def test_a_claim_includes_the_image(opened: Opener) -> None:
    submit(opened(), "alice", KIND, b"{}", image=IMAGE)
    submit(opened(), "alice", KIND, b"{}")
    store = opened()  # another process
    assert [claimed(store).image, claimed(store).image] == [IMAGE, None]


def test_an_image_is_stored_once_and_until_its_last_job_ends(store: JobRepository) -> None:
    for _ in range(3):
        submit(store, "alice", KIND, b"{}", image=IMAGE)
    assert images(store) == 1
    claims = [claimed(store) for _ in range(3)]
    assert store.finish(claims[0].lease, OUTPUT)
    assert not store.finish(claims[0].lease, OUTPUT)
    assert store.fail(claims[1].lease, "no")
    assert images(store) == 1
    assert store.requeue("me", counts=False) == 1
    assert claimed(store).image == IMAGE
    assert store.requeue("me", counts=False) == 1
    assert store.finish(claimed(store).lease, OUTPUT)
    assert images(store) == 0


def test_tenants_do_not_share_images(store: JobRepository) -> None:
    submit(store, "alice", KIND, b"{}", image=IMAGE)
    submit(store, "bob", KIND, b"{}", image=IMAGE)
    submit(store, "bob", KIND, b"{}", image=OTHER)
    assert images(store) == 3
    claims = [claimed(store) for _ in range(3)]
    assert [(c.tenant, c.image) for c in claims] == [
        ("alice", IMAGE),
        ("bob", IMAGE),
        ("bob", OTHER),
    ]
    assert store.finish(claims[1].lease, OUTPUT)
    assert images(store) == 2


def test_a_job_that_exceeds_its_attempts_leaves_no_image(opened: Opener) -> None:
    store = opened(job_attempts=1)
    submit(store, "alice", KIND, b"{}", image=IMAGE)
    claimed(store, "dead")
    store.requeue("dead", counts=True)
    assert store.claim("me", [KIND]) is None
    assert images(store) == 0


def test_no_image_outlives_an_expired_job(opened: Opener) -> None:
    store = opened(job_retention=600)
    submit(store, "alice", KIND, b"{}", image=IMAGE)
    assert store.finish(claimed(store).lease, OUTPUT)
    pass_time(store, 600)
    assert purged(store) == 1
    assert images(store) == 0


def test_an_image_is_kept_if_jobs_end_while_others_are_submitted(opened: Opener) -> None:
    """The last job ends while the next one is submitted."""
    submitting, working = opened(job_queue_per_key=100), opened()

    def submits() -> None:
        for _ in range(40):
            submit(submitting, "alice", KIND, b"{}", image=IMAGE)

    def works() -> int:
        done = 0
        while done < 40:
            claim = working.claim("me", [KIND])
            if claim is not None:
                assert claim.image == IMAGE
                assert working.finish(claim.lease, OUTPUT)
                done += 1
        return done

    with ThreadPoolExecutor(2) as pool:
        worked = pool.submit(works)
        submits()
        assert worked.result(120) == 40
    assert images(working) == 0


class TestConcurrently:
    """On PostgreSQL; SQLite has one writer at a time."""

    @pytest.fixture
    def url(self, postgres_url: str) -> Iterator[str]:
        with fresh_database(postgres_url, f"images{time.monotonic_ns()}") as database:
            yield database

    def test_an_image_that_is_given_up_while_it_is_submitted_again(
        self, opened: Opener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was not transferred, as another job had it; that job ends before the lock is taken."""
        store, other = opened(), opened()
        submit(store, "alice", KIND, b"{}", image=IMAGE)
        lock = store._database.lock_submits

        def locked_late(connection: Connection) -> None:
            assert other.finish(claimed(other).lease, OUTPUT)
            assert images(other) == 0
            lock(connection)

        monkeypatch.setattr(store._database, "lock_submits", locked_late)
        submit(store, "alice", KIND, b"{}", image=IMAGE)
        assert claimed(store).image == IMAGE
        assert images(store) == 1

    def test_an_image_that_another_server_submits_at_the_same_time(
        self, opened: Opener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, other = opened(), opened()
        lock = store._database.lock_submits

        def locked_late(connection: Connection) -> None:
            submit(other, "alice", KIND, b"{}", image=IMAGE)
            lock(connection)

        monkeypatch.setattr(store._database, "lock_submits", locked_late)
        submit(store, "alice", KIND, b"{}", image=IMAGE)
        assert images(store) == 1
        for _ in range(2):
            claim = claimed(other)
            assert claim.image == IMAGE
            assert other.finish(claim.lease, OUTPUT)
        assert images(other) == 0
