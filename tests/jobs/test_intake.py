"""Submissions are repeated under a client's key, and undone, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from inference_server.auth import Charge, KeyRepository, Usage, day_of
from inference_server.errors import (
    CapacityError,
    CreditsError,
    DeadlineError,
    PromptError,
    UnknownImageError,
)
from inference_server.jobs import Accepted, JobRepository, RequestKey, Submission, intake
from inference_server.jobs.models import (
    CHARGES,
    FILES,
    IMAGE_FILES,
    IMAGES,
    JOBS,
    PAYLOADS,
    SUBMISSIONS,
)
from inference_server.segmentation.types import StoredImage
from tests.jobs.conftest import Opener
from tests.jobs.submitting import purged
from tests.jobs.test_repository import KIND, OUTPUT, claimed, count, pass_time, state

KEY = RequestKey("k" * 64, "r" * 64)
IMAGE = StoredImage.of(b"a picture")


@pytest.fixture
def keys(store: JobRepository) -> KeyRepository:
    return KeyRepository(store._database)


def credits_left(keys: KeyRepository, key_id: str) -> int | None:
    return next(key.credits for key in keys.all() if key.id == key_id)


def submission(bill: Charge | None = None, key: RequestKey | None = KEY, **more: str) -> Submission:
    return Submission(more.get("tenant", "alice"), KIND, b"{}", bill, IMAGE, key)


class TestRepeated:
    def test_the_same_key_is_one_job_and_one_charge(
        self, store: JobRepository, keys: KeyRepository
    ) -> None:
        made = keys.create("one", credits=5)[1]
        bill = Charge(made.id, 3, day_of())
        first = store.submit(submission(bill))
        assert first == Accepted(first.job_id, credits_left=2)
        for _ in range(3):
            assert store.submit(submission(bill)) == Accepted(first.job_id, repeated=True)
        assert credits_left(keys, made.id) == 2
        assert count(store, JOBS) == 1
        with pytest.raises(CreditsError):
            store.submit(submission(bill, RequestKey("other", "r")))

    def test_a_repetition_after_the_job_has_ended(self, store: JobRepository) -> None:
        first = store.submit(submission())
        store.finish(claimed(store).lease, OUTPUT)
        assert store.submit(submission()) == Accepted(first.job_id, repeated=True)

    def test_another_request_is_refused(self, store: JobRepository) -> None:
        store.submit(submission())
        with pytest.raises(PromptError, match="Idempotency-Key") as caught:
            store.submit(submission(key=RequestKey(KEY.name, "s" * 64)))
        assert caught.value.location == ("header", "Idempotency-Key")
        assert count(store, JOBS) == 1

    def test_keys_are_separate_per_tenant(self, store: JobRepository) -> None:
        mine = store.submit(submission())
        theirs = store.submit(submission(key=RequestKey(KEY.name, "s" * 64), tenant="bob"))
        assert mine.job_id != theirs.job_id
        assert not theirs.repeated

    def test_without_a_key_each_submission_is_a_job(self, store: JobRepository) -> None:
        ids = {store.submit(submission(key=None)).job_id for _ in range(3)}
        assert len(ids) == 3

    @pytest.mark.parametrize("is_purged", [True, False], ids=["purged", "not yet purged"])
    def test_an_expired_job_frees_its_key(self, opened: Opener, is_purged: bool) -> None:
        store = opened(job_retention=600)
        first = store.submit(submission())
        store.finish(claimed(store).lease, OUTPUT)
        pass_time(store, 600)
        if is_purged:
            purged(store)
        second = store.submit(submission(key=RequestKey(KEY.name, "s" * 64)))
        assert second == Accepted(second.job_id)
        assert second.job_id != first.job_id

    def test_a_repetition_needs_neither_storage_nor_image(self, opened: Opener) -> None:
        store = opened(job_queue_size=1)
        first = store.submit(submission())
        with pytest.raises(CapacityError):
            store.submit(submission(key=None))
        gone = UnknownImageError("evicted")
        again = Submission("alice", KIND, b"{}", key=KEY, unknown=gone)
        assert store.submit(again) == Accepted(first.job_id, repeated=True)
        with pytest.raises(UnknownImageError, match="evicted"):
            store.submit(Submission("alice", KIND, b"{}", key=RequestKey("new", "r"), unknown=gone))

    def test_concurrent_submissions(self, opened: Opener) -> None:
        stores = [opened() for _ in range(3)]
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda n: stores[n % 3].submit(submission()), range(12)))
        assert len({each.job_id for each in found}) == 1
        assert sum(not each.repeated for each in found) == 1

    def test_a_lost_connection_is_not_a_repetition(self, store: JobRepository) -> None:
        """The retry finds the job that the first attempt has committed."""
        job_id = "a" * 32
        for key in (KEY, None):
            first = store.submit(submission(key=key), job_id)
            assert store.submit(submission(key=key), job_id) == first
            assert store.undo(job_id)
            assert count(store, JOBS) == 0

    def test_a_connection_lost_after_a_repetition(self, store: JobRepository) -> None:
        """The retry does not count it twice: the job would be kept when all were undone."""
        first, again = store.submit(submission()), "b" * 32
        for _ in range(2):
            assert store.submit(submission(), again).repeated
        assert not store.undo(first.submission_id)
        assert store.undo(again)


class TestUndone:
    def test_nothing_is_left_in_any_state(self, store: JobRepository, keys: KeyRepository) -> None:
        made = keys.create("one", credits=9)[1]
        bill = Charge(made.id, 3, "2026-01-01")
        for end in ("queued", "processing", "completed", "failed"):
            job_id = store.submit(submission(bill)).job_id
            assert credits_left(keys, made.id) == 6
            claim = None if end == "queued" else claimed(store)
            if end == "completed" and claim is not None:
                assert store.finish(claim.lease, OUTPUT)
            if end == "failed" and claim is not None:
                assert store.fail(claim.lease, "no")
            assert store.undo(job_id)
            assert not store.undo(job_id)
            assert credits_left(keys, made.id) == 9, end
            assert keys.usage("2026-01-01") == [Usage(made.id, "2026-01-01")]
            for table in (JOBS, PAYLOADS, FILES, IMAGES, IMAGE_FILES, CHARGES, SUBMISSIONS):
                assert count(store, table) == 0, (end, table)
            assert state(store, job_id) is None
            if end == "processing" and claim is not None:
                assert not store.renew(claim.lease)
                assert not store.finish(claim.lease, OUTPUT)
            assert store.claim("me", [KIND]) is None

    def test_a_job_that_another_submission_received_is_kept(
        self, store: JobRepository, keys: KeyRepository
    ) -> None:
        made = keys.create("one", credits=9)[1]
        bill = Charge(made.id, 3, day_of())
        job_id = store.submit(submission(bill)).job_id
        again = store.submit(submission(bill))
        assert again.repeated
        for _ in range(2):  # a second attempt at the same one changes nothing
            assert not store.undo(job_id)
            assert credits_left(keys, made.id) == 6
            assert state(store, job_id) == "QUEUED"
        # It is removed when that one is undone as well.
        assert store.undo(again.submission_id)
        assert credits_left(keys, made.id) == 9
        assert not store.submit(submission(bill)).repeated

    @pytest.mark.parametrize("end", ["queued", "completed", "failed"])
    @pytest.mark.parametrize("payer_last", [True, False], ids=["payer last", "payer first"])
    def test_the_key_that_paid_is_refunded_once(
        self, store: JobRepository, keys: KeyRepository, end: str, payer_last: bool
    ) -> None:
        """Two keys of one tenant submit under one name, and neither gets a response."""
        payer, other = (keys.create(name, credits=9)[1] for name in ("payer", "other"))
        paid, free = (
            store.submit(submission(Charge(made.id, 3, "2026-01-01"))) for made in (payer, other)
        )
        assert free.repeated
        assert credits_left(keys, payer.id) == 6
        if end == "completed":
            assert store.finish(claimed(store).lease, OUTPUT)
        if end == "failed":
            assert store.fail(claimed(store).lease, "no")
        first, last = (free, paid) if payer_last else (paid, free)
        assert not store.undo(first.submission_id)
        assert store.undo(last.submission_id)
        for each in (first, last):
            assert not store.undo(each.submission_id)
        assert [credits_left(keys, made.id) for made in (payer, other)] == [9, 9]
        assert keys.usage("2026-01-01") == [Usage(payer.id, "2026-01-01")]

    def test_the_charge_is_known_until_the_job_is_purged(
        self, opened: Opener, keys: KeyRepository
    ) -> None:
        store = opened(job_retention=600)
        made = keys.create("one", credits=9)[1]
        job_id = store.submit(submission(Charge(made.id, 3, day_of()))).job_id
        assert store.finish(claimed(store).lease, OUTPUT)
        assert count(store, CHARGES) == 1
        pass_time(store, 600)
        assert purged(store) == 1
        assert (count(store, CHARGES), count(store, SUBMISSIONS)) == (0, 0)
        assert not store.undo(job_id)
        assert credits_left(keys, made.id) == 6

    def test_submissions_that_are_undone_together(self, opened: Opener) -> None:
        """Each of several servers undoes one of the submissions of a job."""
        stores = [opened() for _ in range(4)]
        for _ in range(5):
            made = [store.submit(submission()).submission_id for store in stores]
            start = threading.Barrier(len(stores))

            def undo(
                store: JobRepository, submission_id: str, start: threading.Barrier = start
            ) -> bool:
                start.wait()
                return store.undo(submission_id)

            with ThreadPoolExecutor(len(stores)) as pool:
                assert sum(pool.map(undo, stores, made)) == 1
            assert count(stores[0], JOBS) == 0

    def test_the_records_of_repetitions_are_bounded(
        self, store: JobRepository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(intake, "MOST_REPETITIONS", 3)
        made = [store.submit(submission()) for _ in range(10)]
        assert count(store, SUBMISSIONS) == 4
        for each in made:
            assert not store.undo(each.submission_id)
        assert state(store, made[0].job_id) == "QUEUED", "one of the others may have got it"

    def test_an_abandoned_submission_is_not_stored(
        self, store: JobRepository, keys: KeyRepository
    ) -> None:
        made = keys.create("one", credits=9)[1]
        abandoned = threading.Event()
        abandoned.set()
        with pytest.raises(DeadlineError):
            store.submit(submission(Charge(made.id, 3, day_of())), abandoned=abandoned)
        assert count(store, JOBS) == 0
        assert credits_left(keys, made.id) == 9

    def test_a_client_that_leaves_during_the_transaction(
        self, store: JobRepository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its client leaves while it waits for the lock."""
        abandoned = threading.Event()
        monkeypatch.setattr(store._database, "lock_submits", lambda connection: abandoned.set())
        with pytest.raises(DeadlineError):
            store.submit(submission(), abandoned=abandoned)
        assert count(store, JOBS) == 0
