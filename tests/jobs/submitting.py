"""Short forms of submissions, for tests that need a job."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select

from inference_server.auth import Charge, Tenant
from inference_server.jobs import JobQueue, JobRepository, Retention, Submission
from inference_server.jobs.models import JOBS


def submit(
    store: JobRepository,
    tenant: str,
    kind: str,
    payload: bytes,
    bill: Charge | None = None,
    **more: Any,
) -> str:
    """Submit a job to a repository, and return its id."""
    return store.submit(Submission(tenant, kind, payload, bill, **more)).job_id


async def queued(jobs: JobQueue, tenant: Tenant, kind: str, payload: bytes) -> str:
    """Submit a job to a queue, and return its id."""
    return (await jobs.submit(Submission(tenant.name, kind, payload))).job_id


def purged(repository: JobRepository) -> int:
    """Purge in steps until nothing is left, and return how many jobs are gone."""
    database = repository._database
    retention = Retention(database, repository._settings)

    def count(connection: Connection) -> int:
        return connection.execute(select(func.count()).select_from(JOBS)).scalar_one()

    before = database.read(count)
    while retention.purge():
        pass
    retention.compact()
    return before - database.read(count)
