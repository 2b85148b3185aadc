"""Images that jobs name by an id belong to the jobs, on SQLite and on PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from inference_server.jobs import JobRepository
from inference_server.jobs.models import IMAGES
from inference_server.segmentation.types import StoredImage
from tests.jobs.conftest import Opener
from tests.jobs.submitting import purged, submit
from tests.jobs.test_repository import KIND, OUTPUT, claimed, count, pass_time

IMAGE = StoredImage.of(b"a picture")
OTHER = StoredImage.of(b"another picture")


def test_a_claim_includes_the_image(opened: Opener) -> None:
    submit(opened(), "alice", KIND, b"{}", image=IMAGE)
    submit(opened(), "alice", KIND, b"{}")
    store = opened()  # another process
    assert [claimed(store).image, claimed(store).image] == [IMAGE, None]


def test_an_image_is_stored_once_and_until_its_last_job_ends(store: JobRepository) -> None:
    for _ in range(3):
        submit(store, "alice", KIND, b"{}", image=IMAGE)
    assert count(store, IMAGES) == 1
    claims = [claimed(store) for _ in range(3)]
    assert store.finish(claims[0].lease, OUTPUT)
    assert not store.finish(claims[0].lease, OUTPUT)
    assert store.fail(claims[1].lease, "no")
    assert count(store, IMAGES) == 1
    assert store.requeue("me", counts=False) == 1
    assert claimed(store).image == IMAGE
    assert store.requeue("me", counts=False) == 1
    assert store.finish(claimed(store).lease, OUTPUT)
    assert count(store, IMAGES) == 0


def test_tenants_do_not_share_images(store: JobRepository) -> None:
    submit(store, "alice", KIND, b"{}", image=IMAGE)
    submit(store, "bob", KIND, b"{}", image=IMAGE)
    submit(store, "bob", KIND, b"{}", image=OTHER)
    assert count(store, IMAGES) == 3
    claims = [claimed(store) for _ in range(3)]
    assert [(c.tenant, c.image) for c in claims] == [
        ("alice", IMAGE),
        ("bob", IMAGE),
        ("bob", OTHER),
    ]
    assert store.finish(claims[1].lease, OUTPUT)
    assert count(store, IMAGES) == 2


def test_a_job_that_exceeds_its_attempts_leaves_no_image(opened: Opener) -> None:
    store = opened(job_attempts=1)
    submit(store, "alice", KIND, b"{}", image=IMAGE)
    claimed(store, "dead")
    store.requeue("dead", counts=True)
    assert store.claim("me", [KIND]) is None
    assert count(store, IMAGES) == 0


def test_no_image_outlives_an_expired_job(opened: Opener) -> None:
    store = opened(job_retention=600)
    submit(store, "alice", KIND, b"{}", image=IMAGE)
    assert store.finish(claimed(store).lease, OUTPUT)
    pass_time(store, 600)
    assert purged(store) == 1
    assert count(store, IMAGES) == 0


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
    assert count(working, IMAGES) == 0
