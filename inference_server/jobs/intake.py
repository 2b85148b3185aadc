"""How submissions become jobs: inserted once per client's key, and undone without a trace.

Call these functions in a transaction that writes.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, insert, null, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

from inference_server.auth import Charge, give_back, take
from inference_server.errors import PromptError
from inference_server.jobs import inputs, quota
from inference_server.jobs.models import (
    CHARGES,
    FILES,
    JOBS,
    SUBMISSIONS,
    Accepted,
    Deleted,
    Submission,
)
from inference_server.settings import Settings

MOST_REPETITIONS = 100
"""Submissions of one job that are recorded, so that they can be undone."""


def repeated(
    connection: Connection, now: ColumnElement[float], submission: Submission, job_id: str
) -> Accepted | None:
    """Find the job of an earlier submission under the same key, and record this submission.

    Args:
        connection: in a transaction that excludes other submits.
        now: the current time.
        submission: the request.
        job_id: the submission's id, which its job will get, or has got before the connection was
            lost.

    Returns:
        The job; None if the submission has no key, or a new one.

    Raises:
        PromptError: another request was submitted under the same key.
    """
    key = submission.key
    if key is None:
        return None
    found = connection.execute(
        select(JOBS.c.id, JOBS.c.request_digest, (JOBS.c.expires <= now).label("expired"))
        .where(JOBS.c.tenant == submission.tenant, JOBS.c.request_key == key.name)
        # No row if the job is undone meanwhile.
        .with_for_update()
    ).one_or_none()
    if found is None:
        return None
    if found.expired:  # it is as good as deleted, which the purge does later
        free = update(JOBS).where(JOBS.c.id == found.id)
        connection.execute(free.values(request_key=None, request_digest=None))
        return None
    if found.request_digest != key.request:
        raise PromptError(
            "This Idempotency-Key was used for another request. Send a new key with each request, "
            "and the same key only to repeat one.",
            ("header", "Idempotency-Key"),
        )
    if found.id == job_id:
        return Accepted(job_id, submission_id=job_id)
    _record(connection, found.id, job_id)
    return Accepted(found.id, repeated=True, submission_id=job_id)


def _record(connection: Connection, job_id: str, submission_id: str) -> None:
    """Record a submission, unless that was done before the connection was lost.

    Beyond `MOST_REPETITIONS`, one row stands for all further ones, which cannot be undone: the job
    stays.
    """
    of_job = SUBMISSIONS.c.job_id == job_id
    count = connection.execute(select(func.count()).where(of_job)).scalar_one()
    if count >= MOST_REPETITIONS:
        submission_id = f"more-{job_id}"[:32]
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = dialect.insert(SUBMISSIONS).values(id=submission_id, job_id=job_id)
    connection.execute(row.on_conflict_do_nothing())


def insert_job(
    connection: Connection,
    settings: Settings,
    now: ColumnElement[float],
    submission: Submission,
    job_id: str,
) -> Accepted:
    """Insert and charge a job whose request body is stored already, if there is room for it.

    Args:
        connection: in a transaction that excludes other submits.
        settings: limits on the number and the bytes of jobs.
        now: the current time.
        submission: the request.
        job_id: id of the submission and of the job.

    Raises:
        CapacityError: a limit on jobs or on their storage is reached.
        CreditsError: the key has insufficient credits.
        UnknownImageError: `submission.unknown`.
    """
    if submission.unknown is not None:
        raise submission.unknown
    tenant, image, key = submission.tenant, submission.image, submission.key
    if image is not None:
        # Before the check, which then counts it unless it was there; a refusal rolls it back.
        inputs.keep_image(connection, job_id, tenant, image)
    nbytes = len(submission.payload)
    quota.check_submit(connection, settings, tenant, nbytes)
    connection.execute(
        insert(JOBS).values(
            id=job_id,
            tenant=tenant,
            kind=submission.kind,
            status="QUEUED",
            token=0,
            attempts=0,
            due=now,
            created=now,
            nbytes=nbytes,
            turn=0,
            image=None if image is None else image.digest,
            request_key=None if key is None else key.name,
            request_digest=None if key is None else key.request,
        )
    )
    connection.execute(insert(SUBMISSIONS).values(id=job_id, job_id=job_id))
    bill = submission.bill
    if bill is None or not bill.credits:
        return Accepted(job_id, submission_id=job_id)
    left = take(connection, bill)
    connection.execute(
        insert(CHARGES).values(
            job_id=job_id, key_id=bill.key_id, credits=bill.credits, day=bill.day
        )
    )
    return Accepted(job_id, credits_left=left, submission_id=job_id)


def undo(connection: Connection, submission_id: str) -> bool:
    """Undo a submission; see `JobRepository.undo`."""
    of_it = SUBMISSIONS.c.id == submission_id
    job_id = connection.scalar(select(SUBMISSIONS.c.job_id).where(of_it))
    if job_id is None:
        return False
    this = JOBS.c.id == job_id
    # Before any other row of the job, as workers and the purge do. Of two submissions that are
    # undone together, the later one sees that the earlier one is gone.
    connection.execute(select(JOBS.c.id).where(this).with_for_update())
    if not connection.execute(delete(SUBMISSIONS).where(of_it)).rowcount:
        return False
    others = select(SUBMISSIONS.c.id).where(SUBMISSIONS.c.job_id == job_id).limit(1)
    if connection.scalar(others) is not None:
        return False
    inputs.discard(connection, job_id)
    connection.execute(delete(FILES).where(FILES.c.job_id == job_id))
    connection.execute(delete(JOBS).where(this))
    # Of a failed job there is none: it was refunded when it failed.
    paid = forget_charge(connection, job_id)
    if paid is not None:
        give_back(connection, paid)
    return True


def delete_job(
    connection: Connection, now: ColumnElement[float], job_id: str, tenant: str
) -> Deleted | None:
    """Cancel or delete a job; see `JobRepository.delete`.

    It expires now: nobody sees it any more, and the purge deletes its files in small steps. The
    lease of its worker is lost. The charge is refunded only if no attempt was made.
    """
    this = JOBS.c.id == job_id
    found = connection.execute(
        select(JOBS.c.status, JOBS.c.kind, JOBS.c.attempts)
        .where(this, JOBS.c.tenant == tenant, JOBS.c.expires.is_(None) | (JOBS.c.expires > now))
        .with_for_update()
    ).one_or_none()
    if found is None:
        return None
    if found.status in ("QUEUED", "PROCESSING"):
        inputs.discard(connection, job_id)
        paid = forget_charge(connection, job_id)
        if paid is not None and not found.attempts:
            give_back(connection, paid)
        ended = {"status": "FAILED", "nbytes": 0, "error": "The job was cancelled."}
    else:
        ended = {}
    connection.execute(
        update(JOBS)
        .where(this)
        .values(due=null(), owner=null(), progress=null(), expires=now, **ended)
    )
    return Deleted(job_id, found.kind, found.status)


def forget_charge(connection: Connection, job_id: str) -> Charge | None:
    """Delete the record of a job's charge, and return the charge; None if there is none."""
    paid = connection.execute(
        delete(CHARGES)
        .where(CHARGES.c.job_id == job_id)
        .returning(CHARGES.c.key_id, CHARGES.c.credits, CHARGES.c.day)
    ).one_or_none()
    return None if paid is None else Charge(*paid)
