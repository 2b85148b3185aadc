"""Short forms of submissions, for tests that need a job."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select

from inference_server.auth import Charge, Tenant
from inference_server.jobs import JobQueue, JobRepository, Retention, Submission
from inference_server.jobs.models import JOBS
from inference_server.jobs.results import ResultReader
from inference_server.jobs.task import TaskContext
from inference_server.observability.metrics import Metrics
from inference_server.segmentation.raster_files import RasterFiles
from inference_server.settings import Settings
from schemas.common import Limits


def task_context(settings: Settings) -> TaskContext:
    """What tasks that segment nothing need from a process."""
    segmenter: Any = None
    metrics = Metrics()
    return TaskContext(segmenter, Limits(), settings, metrics, RasterFiles(settings, metrics))


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


async def content_of(jobs: JobQueue, job_id: str, name: str) -> bytes | None:
    """Read a file of a result; None if it is unknown or has expired."""
    found = await jobs.find_file(job_id, name)
    return None if found is None else await jobs.piece(job_id, name, 0, found[0].nbytes)


def names_of(repository: JobRepository, job_id: str) -> list[str]:
    """List the names of a result's files."""
    return [file.name for file in ResultReader(repository._database).files(job_id)]


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
