"""Bounds on stored jobs: their number and bytes, in total and per tenant."""

from __future__ import annotations

from math import ceil

from sqlalchemy import Connection, case, func, select

from inference_server.errors import CapacityError, ImageTooLargeError
from inference_server.jobs.models import IMAGES, JOBS, Submission
from inference_server.settings import MiB, Settings

_RETRY_AFTER = 5.0
"""Seconds after which a client whose job was refused should try again."""


def check_input(settings: Settings, submission: Submission) -> None:
    """Check that a job's input can fit into its tenant's storage at all.

    Args:
        settings: limits on the number and the bytes of jobs.
        submission: the request, whose body and image are stored until the job ends.

    Raises:
        ImageTooLargeError: it cannot fit, even if nothing else is stored.
    """
    nbytes = len(submission.payload)
    parts = "request body has"
    if submission.image is not None:
        nbytes += len(submission.image.data)
        parts = "request body and the image that it names have"
    if nbytes > _most_of_key(settings):
        raise ImageTooLargeError(
            f"The {parts} {_size(nbytes)}; {_share(settings)}. Send a smaller image or its "
            "URL, or raise INFERENCE_JOB_STORAGE_MB or INFERENCE_JOB_STORAGE_SHARE."
        )


def trouble_with_result(settings: Settings, nbytes: int) -> str:
    """Say why a result can never be stored.

    Args:
        settings: limits on the number and the bytes of jobs.
        nbytes: size of the result in bytes.

    Returns:
        The reason and what to do; empty if the result can be stored, once there is room.
    """
    if nbytes > settings.job_result_mb * MiB:
        return (
            f"The result has {_size(nbytes)}; the limit is {settings.job_result_mb} MiB. Request "
            "fewer masks or files, or raise INFERENCE_JOB_RESULT_MB."
        )
    if nbytes > _most_of_key(settings):
        return (
            f"The result has {_size(nbytes)}; {_share(settings)}. Request fewer masks or files, or "
            "raise INFERENCE_JOB_STORAGE_MB or INFERENCE_JOB_STORAGE_SHARE."
        )
    return ""


def check_submit(connection: Connection, settings: Settings, tenant: str, nbytes: int) -> None:
    """Check that there is room for another job.

    Args:
        connection: in a transaction that excludes other submits, so that the bounds are exact.
        settings: limits on the number and the bytes of jobs.
        tenant: name of the tenant who submits the job.
        nbytes: size of the request body in bytes, which is not stored yet. The image that the job
            needs is.

    Raises:
        CapacityError: a bound is reached.
    """
    unfinished = JOBS.c.due.is_not(None)
    all_, own = connection.execute(
        select(
            func.count(case((unfinished, 1))),
            func.count(case((unfinished & (JOBS.c.tenant == tenant), 1))),
        )
    ).one()
    if own >= settings.job_queue_per_key:
        raise CapacityError(
            f"This API key has {own} unfinished jobs. Try again when some have ended, or raise "
            "INFERENCE_JOB_QUEUE_PER_KEY.",
            _RETRY_AFTER,
            full="jobs_of_key",
        )
    if all_ >= settings.job_queue_size:
        raise CapacityError(
            f"The queue has {all_} unfinished jobs. Try again when some have ended, or raise "
            "INFERENCE_JOB_QUEUE_SIZE.",
            _RETRY_AFTER,
            full="jobs",
        )
    stored, own_stored = _stored(connection, tenant)
    limit = settings.job_storage_mb * MiB
    if stored + nbytes > limit:
        raise CapacityError(
            "Job storage is full. Try again when some results have expired, raise "
            "INFERENCE_JOB_STORAGE_MB, or lower INFERENCE_JOB_RETENTION.",
            _RETRY_AFTER,
            full="job_storage",
        )
    if own_stored + nbytes > settings.job_storage_share * (limit - stored + own_stored):
        raise CapacityError(
            f"The jobs and results of this API key have {own_stored / MiB:.1f} MiB, its share of "
            "the job storage. Try again when some results have expired, or raise "
            "INFERENCE_JOB_STORAGE_MB or INFERENCE_JOB_STORAGE_SHARE.",
            _RETRY_AFTER,
            full="job_storage_of_key",
        )


def check_result(connection: Connection, settings: Settings, tenant: str, nbytes: int) -> None:
    """Check that a tenant's share has room for a result.

    A result counts against the same share as a submit, because a few small requests can have
    results of many gigabytes.

    Args:
        connection: in a transaction in which the job has its size with the result, and no input.
        settings: limits on the number and the bytes of jobs.
        tenant: name of the tenant who submitted the job.
        nbytes: size of the result in bytes, which is stored already.

    Raises:
        CapacityError: the tenant's share is exceeded.
    """
    stored, own = _stored(connection, tenant)
    limit = settings.job_storage_mb * MiB
    if own > settings.job_storage_share * (limit - stored + own):
        raise CapacityError(
            f"The result has {nbytes / MiB:.1f} MiB, more than is left of this API key's share of "
            "the job storage. Submit the job again when earlier results have expired, request "
            "fewer masks or files, or raise INFERENCE_JOB_STORAGE_MB or "
            "INFERENCE_JOB_STORAGE_SHARE.",
            full="job_storage_of_key",
        )


def _most_of_key(settings: Settings) -> float:
    """The most bytes that one tenant's jobs can take, while no other has any."""
    return settings.job_storage_share * settings.job_storage_mb * MiB


def _share(settings: Settings) -> str:
    return (
        f"the jobs of one API key can take at most {_most_of_key(settings) / MiB:,.6g} MiB "
        f"({settings.job_storage_share:g} of {settings.job_storage_mb} MiB)"
    )


def _size(nbytes: int) -> str:
    """A size in MiB, rounded up, so that it is seen to exceed a limit."""
    return f"{ceil(nbytes * 100 / MiB) / 100:,.2f} MiB"


def _stored(connection: Connection, tenant: str) -> tuple[int, int]:
    """Sum the bytes of payloads, results and images: (of all tenants, of this one)."""
    all_ = own = 0
    for table in (JOBS, IMAGES):
        nbytes = table.c.nbytes
        sums = connection.execute(
            select(
                func.coalesce(func.sum(nbytes), 0),
                func.coalesce(func.sum(case((table.c.tenant == tenant, nbytes))), 0),
            )
        ).one()
        all_, own = all_ + int(sums[0]), own + int(sums[1])
    return all_, own
