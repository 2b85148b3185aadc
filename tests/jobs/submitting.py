"""Short forms of submissions, for tests that need a job."""

from __future__ import annotations

from typing import Any

from inference_server.auth import Charge, Tenant
from inference_server.jobs import JobQueue, JobRepository, Submission


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
