"""Tenants take turns: one key's many jobs do not hold up another key's few."""

from __future__ import annotations

from inference_server.jobs import JobRepository
from tests.jobs.conftest import Opener
from tests.jobs.submitting import submit
from tests.jobs.test_repository import KIND, OUTPUT, claimed, pass_time


def turns(store: JobRepository, count: int) -> list[str]:
    """Claim jobs, and return their tenants."""
    return [claimed(store).tenant for _ in range(count)]


def test_tenants_take_turns(store: JobRepository) -> None:
    for tenant, count in (("alice", 5), ("bob", 2), ("carol", 1)):
        for _ in range(count):
            submit(store, tenant, KIND, b"{}")
    assert turns(store, 8) == ["alice", "bob", "carol", "alice", "bob", "alice", "alice", "alice"]


def test_a_new_tenant_is_next(store: JobRepository) -> None:
    for _ in range(20):
        submit(store, "alice", KIND, b"{}")
    assert turns(store, 3) == ["alice"] * 3
    submit(store, "bob", KIND, b"{}")
    assert turns(store, 2) == ["bob", "alice"]
    submit(store, "bob", KIND, b"{}")
    assert turns(store, 2) == ["bob", "alice"]


def test_turns_hold_across_processes_and_after_results(opened: Opener) -> None:
    one, other = opened(), opened()
    for _ in range(4):
        submit(one, "alice", KIND, b"{}")
    for _ in range(2):
        submit(other, "bob", KIND, b"{}")
    assert one.finish(claimed(one).lease, OUTPUT)
    assert [claimed(other).tenant, claimed(one).tenant, claimed(other).tenant] == [
        "bob",
        "alice",
        "bob",
    ]


def test_retries_take_a_turn(store: JobRepository) -> None:
    """Jobs that fail repeatedly do not precede those of other tenants."""
    for tenant in ("alice", "alice", "bob", "bob"):
        submit(store, tenant, KIND, b"{}")
    first = claimed(store)
    assert first.tenant == "alice"
    assert store.retry(first.lease, 10)
    pass_time(store, 10)
    assert turns(store, 4) == ["bob", "alice", "bob", "alice"]


def test_a_clock_that_is_set_back_changes_no_turn(store: JobRepository) -> None:
    submit(store, "alice", KIND, b"{}")
    claimed(store)
    pass_time(store, -3600)
    for tenant in ("alice", "bob", "alice", "bob"):
        submit(store, tenant, KIND, b"{}")
    assert turns(store, 4) == ["bob", "alice", "bob", "alice"]


def test_newcomers_have_no_job_in_progress(store: JobRepository) -> None:
    for tenant in ("alice", "alice", "bob", "bob"):
        submit(store, tenant, KIND, b"{}")
    assert claimed(store).tenant == "alice"
    new = store.claim("me", [KIND], newcomers=True)
    assert new is not None
    assert new.tenant == "bob"
    assert store.claim("me", [KIND], newcomers=True) is None
    assert store.finish(new.lease, OUTPUT)
    again = store.claim("me", [KIND], newcomers=True)
    assert again is not None
    assert again.tenant == "bob"
