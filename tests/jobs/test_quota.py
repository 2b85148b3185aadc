"""A tenant's share of the job storage, on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest

from inference_server.errors import CapacityError, ImageTooLargeError
from inference_server.jobs import Accepted, JobRepository, Output, RequestKey, Submission
from inference_server.jobs.models import FILES
from inference_server.jobs.task import ResultFile
from inference_server.segmentation.types import StoredImage
from inference_server.settings import Settings
from tests.jobs.conftest import Opener
from tests.jobs.submitting import purged, submit
from tests.jobs.test_repository import KIND, claimed, count, pass_time, state

MB = 1_000_000


def fill(store: JobRepository, tenant: str, nbytes: int) -> None:
    """Store a result of this size."""
    submit(store, tenant, KIND, b"{}")
    assert store.finish(claimed(store).lease, result(nbytes))


def result(nbytes: int) -> Output:
    return Output((ResultFile("preview.png", "image/png", bytes(nbytes)),), 0.1)


def room(store: JobRepository, tenant: str, nbytes: int) -> bool:
    """Whether there is room for a body of this size of a tenant; the body is not kept."""
    try:
        job_id = submit(store, tenant, KIND, bytes(nbytes))
    except CapacityError:
        return False
    assert store.undo(job_id)
    return True


def test_a_full_share_is_refused(opened: Opener) -> None:
    store = opened(job_storage_mb=1)
    submit(store, "alice", KIND, bytes(300_000))
    with pytest.raises(CapacityError, match="INFERENCE_JOB_STORAGE_SHARE") as caught:
        submit(store, "alice", KIND, bytes(300_000))
    assert caught.value.full == "job_storage_of_key"
    assert int(caught.value.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("share", "most", "sizes"),
    [(0.5, "0.5", [524_288, 0]), (0.5, "0.5", [2, 524_286]), (1, "1", [1_048_575, 1])],
)
def test_a_job_that_can_never_fit_is_refused_for_good(
    opened: Opener, share: float, most: str, sizes: list[int]
) -> None:
    """Not with 429: to try again would be of no use, whatever expires."""
    store = opened(job_storage_mb=1, job_storage_share=share)
    body, image = sizes
    key = RequestKey("k", "r")

    def asked(more: int) -> Submission:
        file = StoredImage.of(bytes(image)) if image else None
        return Submission("alice", KIND, bytes(body + more), image=file, key=key)

    for name in (1, 200_000):
        with pytest.raises(ImageTooLargeError) as caught:
            store.submit(asked(name))
        for part in (f"at most {most} MiB", "JOB_STORAGE_MB", "JOB_STORAGE_SHARE"):
            assert part in caught.value.message
        size = 0.7 if share < 1 else 1.2
        assert f" {size if name > 1 else float(most) + 0.01:.2f} MiB" in caught.value.message
        assert ("image that it names" in caught.value.message) == bool(image)
    assert caught.value.status == 413
    accepted = store.submit(asked(0))
    assert store.submit(asked(0)) == Accepted(accepted.job_id, repeated=True)


def test_half_is_the_default() -> None:
    assert Settings().job_storage_share == 0.5


def test_one_key_leaves_room_for_others(opened: Opener) -> None:
    store = opened(job_storage_mb=4, job_storage_share=0.5)  # 4.19 MB
    fill(store, "alice", 2 * MB)
    assert not room(store, "alice", 200_000)
    assert room(store, "bob", MB)
    fill(store, "bob", MB)
    assert not room(store, "bob", 200_000)  # half of the 2.19 MB that alice leaves
    assert room(store, "carol", 500_000)
    fill(store, "carol", 500_000)
    assert room(store, "dave", 300_000)


def test_expired_results_leave_the_share(opened: Opener) -> None:
    store = opened(job_storage_mb=4, job_retention=600)
    fill(store, "alice", 2 * MB)
    assert not room(store, "alice", 200_000)
    pass_time(store, 600)
    purged(store)
    assert room(store, "alice", 2 * MB)


def test_one_key_may_be_given_all_storage(opened: Opener) -> None:
    store = opened(job_storage_mb=4, job_storage_share=1)
    fill(store, "alice", 4 * MB)
    assert room(store, "alice", 100_000)


def test_results_cannot_exceed_the_share(opened: Opener) -> None:
    """Small bodies were accepted, but have large results."""
    store = opened(job_storage_mb=4)
    jobs = [submit(store, "alice", KIND, b"{}") for _ in range(3)]
    assert store.finish(claimed(store).lease, result(1_500_000))
    late = claimed(store)
    with pytest.raises(CapacityError, match=r"1\.4 MiB.*INFERENCE_JOB_STORAGE_SHARE"):
        store.finish(late.lease, result(1_500_000))
    # No part of it is stored, and the job can still fail.
    assert count(store, FILES) == 1
    assert state(store, jobs[1]) == "PROCESSING"
    assert store.fail(late.lease, "no room")
    assert store.finish(claimed(store).lease, result(500_000))
    submit(store, "bob", KIND, b"{}")
    assert store.finish(claimed(store).lease, result(MB))


def test_images_of_jobs_count(opened: Opener) -> None:
    store = opened(job_storage_mb=4)
    image = StoredImage.of(bytes(MB))
    for _ in range(5):  # once, however many jobs need it
        submit(store, "alice", KIND, b"{}", image=image)
    assert store.backlog().nbytes == MB + 5 * 2
    with pytest.raises(CapacityError) as caught:
        submit(store, "alice", KIND, b"{}", image=StoredImage.of(bytes(1_200_000)))
    assert caught.value.full == "job_storage_of_key"
    assert store.backlog().nbytes == MB + 5 * 2
    submit(store, "bob", KIND, b"{}", image=StoredImage.of(bytes(1_200_000)))
