"""Keys in SQLite and in PostgreSQL: exact credits and usage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select

from inference_server.auth import Charge, KeyRepository, Tenant, Usage, day_of
from inference_server.auth.models import USAGE
from inference_server.database import Database
from inference_server.errors import CreditsError
from inference_server.jobs import JobRepository, Output
from inference_server.settings import Settings
from tests.databases import prepare
from tests.jobs.postgres import migrated_database
from tests.jobs.submitting import submit


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        opened = Database(prepare(tmp_path / "data"))
        yield opened
        opened.close()
        return
    server = request.getfixturevalue("postgres_url")
    with migrated_database(server, f"keys{time.monotonic_ns()}") as url:
        opened = Database(tmp_path / "data", url)
        yield opened
        opened.close()


@pytest.fixture
def store(database: Database) -> KeyRepository:
    return KeyRepository(database)


def used(database: Database) -> int:
    """Return the total of used credits."""
    with database.reading() as connection:
        return int(connection.scalar(select(func.coalesce(func.sum(USAGE.c.credits), 0))) or 0)


def credits_left(store: KeyRepository, key_id: str) -> int | None:
    (found,) = (key for key in store.all() if key.id == key_id)
    return found.credits


def test_a_key_is_recognised_by_its_digest(store: KeyRepository) -> None:
    key, made = store.create("one", scopes=("admin",), rate="3/m", credits=7, expires=9.5)
    _, found = store.secrets(None)
    assert found is not None
    secret = found[made.id]
    assert secret.is_of(key)
    assert not secret.is_of(key[:-1] + ("A" if key[-1] != "A" else "B"))
    assert secret.stored == made
    assert secret.key.scopes == {"admin"}
    assert secret.key.has_credits
    assert [rate.amount for rate in secret.key.rates] == [3]
    assert key.split("_", 2)[2] not in repr(secret)


def test_a_tenant_is_that_of_the_key_or_named(store: KeyRepository) -> None:
    own, other = store.create("a")[1], store.create("b")[1]
    named, same = store.create("c", tenant="acme")[1], store.create("d", tenant="acme")[1]
    assert len({own.key.tenant, other.key.tenant, named.key.tenant}) == 3
    assert named.key.tenant == same.key.tenant == Tenant("tenant/acme")
    # A named tenant cannot collide with the tenant of a key in the database or in the settings.
    assert store.create("e", tenant=own.id)[1].key.tenant != own.key.tenant
    assert "/" in own.key.tenant.name


def test_a_change_is_noticed_once(store: KeyRepository) -> None:
    change, found = store.secrets(None)
    assert found == {}
    assert store.secrets(change) == (change, None)
    made = store.create("one", credits=1)[1]
    for action in (
        lambda: store.create("two"),
        lambda: store.change(made.id, {"name": "new"}),
        lambda: store.revoke(made.id),
    ):
        before = store.secrets(change)[0]
        action()
        change, found = store.secrets(before)
        assert found is not None
        assert change != before
        assert store.secrets(change) == (change, None)


def test_a_charge_does_not_change_the_version_of_the_keys(store: KeyRepository) -> None:
    made = store.create("one", credits=5)[1]
    change, _ = store.secrets(None)
    store.take(Charge(made.id, 2, day_of()))
    assert store.secrets(change)[1] is None
    assert credits_left(store, made.id) == 3


def test_parallel_requests_cannot_overspend(store: KeyRepository, database: Database) -> None:
    made = store.create("few", credits=20)[1]

    def take(_: int) -> int | str | None:
        try:
            return store.take(Charge(made.id, 3, day_of()))
        except CreditsError as error:
            return error.message

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(take, range(24)))
    refusal = "Insufficient credits: this request costs 3, and the API key has 2 left."
    assert outcomes.count(refusal) == 18
    assert {17, 14, 11, 8, 5, 2} == {*outcomes} - {refusal}
    assert credits_left(store, made.id) == 2
    assert used(database) == 18


def test_refunded_credits_can_be_spent(store: KeyRepository, database: Database) -> None:
    made = store.create("one", credits=1)[1]
    charge = Charge(made.id, 1, day_of())
    assert store.take(charge) == 0
    with pytest.raises(CreditsError):
        store.take(charge)
    store.give_back(charge)
    assert used(database) == 0
    assert store.take(charge) == 0


def test_a_key_without_a_balance_records_usage(store: KeyRepository, database: Database) -> None:
    made = store.create("free")[1]
    for key_id in (made.id, "of-the-settings"):
        assert store.take(Charge(key_id, 4, day_of())) is None
        store.give_back(Charge(key_id, 1, day_of()))
    assert credits_left(store, made.id) is None
    assert used(database) == 6


def test_usage_adds_up_from_many_servers(store: KeyRepository) -> None:
    days = ["2026-01-01", "2026-01-02"]
    counts = [Usage(key, day, 1, 1, 2) for key in ("b", "a", "c") for day in reversed(days)]

    def add(_: int) -> None:
        store.add(counts)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(24)))
    assert store.usage("2026-01-01") == [
        Usage(key, day, 24, 24, 48) for day in reversed(days) for key in ("a", "b", "c")
    ]
    assert store.usage("2026-01-02", "b") == [Usage("b", "2026-01-02", 24, 24, 48)]
    store.forget_usage("2026-01-02")
    assert {each.day for each in store.usage("2000-01-01")} == {"2026-01-02"}


@pytest.fixture
def jobs(database: Database) -> JobRepository:
    return JobRepository(database, Settings(job_lease=1.0, job_attempts=1, job_queue_per_key=3))


def test_a_job_is_charged_at_its_submission(
    store: KeyRepository, jobs: JobRepository, database: Database
) -> None:
    made = store.create("one", credits=5)[1]
    bill = Charge(made.id, 3, day_of())
    submit(jobs, "tenant", "kind", b"{}", bill)
    assert credits_left(store, made.id) == 2
    with pytest.raises(CreditsError):
        submit(jobs, "tenant", "kind", b"{}", bill)
    # A job that was not paid for is not stored.
    assert jobs.claim("me", ["kind"]) is not None
    assert jobs.claim("me", ["kind"]) is None
    assert used(database) == 3


def test_a_failed_job_is_refunded_once(
    store: KeyRepository, jobs: JobRepository, database: Database
) -> None:
    made = store.create("one", credits=3)[1]
    submit(jobs, "tenant", "kind", b"{}", Charge(made.id, 3, "2026-01-01"))
    claim = jobs.claim("me", ["kind"])
    assert claim is not None
    assert jobs.fail(claim.lease, "It failed.")
    assert not jobs.fail(claim.lease, "It failed again.")
    assert credits_left(store, made.id) == 3
    assert used(database) == 0
    assert store.usage("2026-01-01") == [Usage(made.id, "2026-01-01")]


def test_a_job_that_kills_its_servers_is_refunded(
    store: KeyRepository, jobs: JobRepository
) -> None:
    made = store.create("one", credits=3)[1]
    submit(jobs, "tenant", "kind", b"{}", Charge(made.id, 3, day_of()))
    assert jobs.claim("dead", ["kind"]) is not None
    assert credits_left(store, made.id) == 0
    assert jobs.requeue("dead", counts=True) == 1
    assert jobs.claim("me", ["kind"]) is None
    assert credits_left(store, made.id) == 3


def test_a_completed_job_is_not_refunded(
    store: KeyRepository, jobs: JobRepository, database: Database
) -> None:
    made = store.create("one", credits=3)[1]
    submit(jobs, "tenant", "kind", b"{}", Charge(made.id, 3, day_of()))
    claim = jobs.claim("me", ["kind"])
    assert claim is not None
    assert jobs.finish(claim.lease, Output((), 0.1))
    assert credits_left(store, made.id) == 0
    assert used(database) == 3


def test_a_job_refused_by_a_limit_costs_nothing(store: KeyRepository, jobs: JobRepository) -> None:
    made = store.create("one", credits=9)[1]
    for _ in range(3):
        submit(jobs, "tenant", "kind", b"{}", Charge(made.id, 1, day_of()))
    with pytest.raises(Exception, match="unfinished jobs"):
        submit(jobs, "tenant", "kind", b"{}", Charge(made.id, 1, day_of()))
    assert credits_left(store, made.id) == 6
