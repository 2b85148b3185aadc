"""Jobs in the database: submitted, claimed under a lease, renewed, and ended.

Each claim increments the job's token. A worker with an older token has lost its lease: it can
neither renew nor end the job.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Collection, Sequence

from sqlalchemy import Connection, case, exists, func, insert, null, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.elements import ColumnElement

from inference_server.auth import give_back
from inference_server.database import Database
from inference_server.errors import DeadlineError
from inference_server.jobs import inputs, intake, quota
from inference_server.jobs.models import (
    FILES,
    IMAGES,
    JOBS,
    Accepted,
    Backlog,
    Claim,
    Deleted,
    Facts,
    Lease,
    Output,
    Status,
    Submission,
)
from inference_server.jobs.progress import JobProgress
from inference_server.jobs.results import FACT_COLUMNS, facts_of
from inference_server.settings import Settings


class JobRepository:
    """Stores jobs and their results. Every method blocks, so call it in a worker thread.

    Args:
        database: holds the jobs.
        settings: the limits, and the lengths of leases and of retention.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    def submit(
        self,
        submission: Submission,
        job_id: str = "",
        abandoned: threading.Event | None = None,
    ) -> Accepted:
        """Store a request as a job, unless it repeats an earlier submission of the same key.

        Args:
            submission: the request.
            job_id: id of the submission, and for its job; empty makes one.
            abandoned: once set, nothing is stored, because nobody waits for the job.

        Returns:
            The job.

        Raises:
            CapacityError: a limit on jobs or on their storage is reached.
            ImageTooLargeError: the body and its image cannot fit into the storage at all.
            CreditsError: the key has insufficient credits.
            PromptError: another request was submitted under the same key.
            UnknownImageError: `submission.unknown`.
            DeadlineError: the submission was abandoned.
        """
        quota.check_input(self._settings, submission)
        job_id = job_id or secrets.token_hex(16)

        def insert_job(connection: Connection) -> Accepted:
            _check_wanted(abandoned)
            # Before the lock, so that nobody waits for the transfer of a large body or image.
            inputs.transfer(
                *(connection, job_id, submission.tenant, submission.payload), submission.image
            )
            self._database.lock_submits(connection)
            accepted = intake.repeated(connection, self._database.now, submission, job_id)
            if accepted is None:
                accepted = intake.insert_job(
                    connection, self._settings, self._database.now, submission, job_id
                )
            else:
                inputs.drop_transfer(connection, job_id)
            # The locks may have taken longer than the client waits.
            _check_wanted(abandoned)
            return accepted

        try:
            return self._database.write(insert_job)
        except IntegrityError:
            # The connection was lost after the commit, and the retry found the job.
            return Accepted(job_id, submission_id=job_id)

    def undo(self, submission_id: str) -> bool:
        """Undo a submission that got no response, whatever became of its job.

        The job is deleted, with its result, and its credits are refunded to the key that paid,
        unless another submission under the same key got or may get the job as its response.

        Args:
            submission_id: the submission's id. Nothing happens if it does not exist, such as at a
                second call.

        Returns:
            Whether the job was deleted.
        """
        return self._database.write(lambda connection: intake.undo(connection, submission_id))

    def delete(self, job_id: str, tenant: str) -> Deleted | None:
        """Cancel an unfinished job, or delete the result of one that has ended.

        Args:
            job_id: the job's id, unchecked.
            tenant: name of the tenant who asks.

        Returns:
            The job as it was; None if it is unknown, has expired, or is another tenant's.
        """
        now = self._database.now
        return self._database.write(
            lambda connection: intake.delete_job(connection, now, job_id, tenant)
        )

    def claim(self, worker: str, kinds: Collection[str], newcomers: bool = False) -> Claim | None:
        """Claim a job of the tenant whose latest claim is the longest ago: tenants take turns.

        Of one tenant's jobs, it is the one that has been due for longest.

        Args:
            worker: name of the claiming process.
            kinds: names of the tasks that it can run.
            newcomers: claim only jobs of tenants that have no job in progress. Default: False.

        Returns:
            The job with a lease; None if no job is due.
        """
        ready: ColumnElement[bool] = JOBS.c.kind.in_(kinds)
        if newcomers:
            other = JOBS.alias()
            mine, at_work = other.c.tenant == JOBS.c.tenant, other.c.status == "PROCESSING"
            ready &= ~exists().where(mine, at_work)
        due = JOBS.c.due <= self._database.now

        def work() -> Claim | None:
            # Read first: an idle worker then takes no write lock.
            with self._database.reading() as connection:
                if connection.execute(select(JOBS.c.id).where(due, ready).limit(1)).first() is None:
                    return None
            while True:
                with self._database.writing() as connection:
                    found, claim = self._claim(connection, worker, ready)
                if claim is not None or not found:
                    return claim

        return self._database.retrying(work)

    def _claim(
        self, connection: Connection, worker: str, ready: ColumnElement[bool]
    ) -> tuple[bool, Claim | None]:
        """Claim one job that is ready and due, or fail it if it exceeded its attempts.

        Returns:
            (whether a job was due, the claim or None).
        """
        now = self._database.now
        other = JOBS.alias()
        latest = select(func.max(other.c.turn))
        first = (
            select(JOBS.c.id)
            .where(JOBS.c.due <= now, ready)
            .order_by(latest.where(other.c.tenant == JOBS.c.tenant).scalar_subquery(), JOBS.c.due)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        row = connection.execute(
            update(JOBS)
            .where(JOBS.c.id == first)
            .values(
                status="PROCESSING",
                token=JOBS.c.token + 1,
                attempts=JOBS.c.attempts + 1,
                due=now + self._settings.job_lease,
                owner=worker,
                turn=1 + latest.scalar_subquery(),
                progress=null(),
            )
            .returning(
                *(JOBS.c.id, JOBS.c.token, JOBS.c.tenant, JOBS.c.kind, JOBS.c.attempts),
                JOBS.c.image,
            )
        ).one_or_none()
        if row is None:
            return False, None
        lease = Lease(row.id, row.token)
        if row.attempts > self._settings.job_attempts:
            times = self._settings.job_attempts
            self._end(
                connection,
                lease,
                error=f"The server stopped {times} times while it processed this request.",
            )
            return True, None
        payload = inputs.payload_of(connection, row.id)
        image = inputs.image_of(connection, row.tenant, row.image)
        return True, Claim(lease, row.tenant, row.kind, row.attempts, payload, image)

    def renew(self, lease: Lease) -> bool:
        """Extend a lease to its full length from now; return False if the lease was lost."""
        return self._change(lease, due=self._database.now + self._settings.job_lease)

    def holds(self, lease: Lease) -> bool:
        """Return whether a lease is still held: not if it expired or the job was cancelled."""
        held = select(JOBS.c.id).where(_held(lease))
        return self._database.read(lambda connection: connection.execute(held).first() is not None)

    def report(self, lease: Lease, progress: JobProgress) -> bool:
        """Store how far an attempt is; return False if the lease was lost."""
        return self._change(lease, progress=progress.dump())

    def retry(self, lease: Lease, pause: float) -> bool:
        """Requeue a job after a failed attempt.

        Args:
            lease: the lease of the claim.
            pause: seconds until the job may be claimed again.

        Returns:
            False if the lease was lost.
        """
        due = self._database.now + pause
        return self._change(lease, status="QUEUED", due=due, owner=null(), progress=null())

    def _change(self, lease: Lease, **values: object) -> bool:
        change = update(JOBS).where(_held(lease)).values(**values)
        return self._database.write(lambda connection: connection.execute(change).rowcount == 1)

    def finish(self, lease: Lease, output: Output) -> bool:
        """Complete a job with its result; return False if the lease was lost.

        Raises:
            CapacityError: the result does not fit into the tenant's share of the job storage.
        """
        return self._database.write(lambda connection: self._end(connection, lease, output))

    def fail(self, lease: Lease, error: str) -> bool:
        """Fail a job with an error message; return False if the lease was lost."""
        return self._database.write(lambda connection: self._end(connection, lease, error=error))

    def _end(
        self,
        connection: Connection,
        lease: Lease,
        output: Output | None = None,
        error: str = "",
    ) -> bool:
        facts = Facts() if output is None else output.facts
        ended = connection.execute(
            update(JOBS)
            .where(_held(lease))
            .values(
                status="FAILED" if output is None else "COMPLETED",
                due=null(),
                owner=null(),
                expires=self._database.now + self._settings.job_retention,
                nbytes=0 if output is None else output.nbytes,
                seconds=None if output is None else output.seconds,
                model=facts.model,
                cache_hit=facts.hit,
                image_mismatch=facts.mismatch,
                stages=json.dumps(dict(facts.stages)),
                progress=output.progress.dump() if output and output.progress else null(),
                error=error if output is None else None,
            )
            .returning(JOBS.c.tenant)
        ).one_or_none()
        if ended is None:
            return False
        inputs.discard(connection, lease.job_id)
        if output is not None:
            quota.check_result(connection, self._settings, ended.tenant, output.nbytes)
        if output is None and (paid := intake.forget_charge(connection, lease.job_id)):
            give_back(connection, paid)
        if output is not None and output.files:
            connection.execute(
                insert(FILES),
                [
                    {
                        "job_id": lease.job_id,
                        "position": position,
                        "name": file.name,
                        "media_type": file.media_type,
                        "nbytes": len(file.content),
                        "content": file.content,
                    }
                    for position, file in enumerate(output.files)
                ],
            )
        return True

    def status(self, job_id: str, tenant: str) -> Status | None:
        """Get a job's status.

        Args:
            job_id: the job's id, unchecked.
            tenant: name of the tenant who asks.

        Returns:
            The status; None if the job is unknown, has expired, or is another tenant's.
        """
        row = JOBS.c
        query = select(
            *(row.id, row.status, row.seconds, row.error, row.expires, row.progress), *FACT_COLUMNS
        ).where(
            row.id == job_id,
            row.tenant == tenant,
            row.expires.is_(None) | (row.expires > self._database.now),
        )

        found = self._database.read(lambda connection: connection.execute(query).one_or_none())
        if found is None:
            return None
        return Status(*found[:5], facts_of(found), JobProgress.load(found.progress))

    def backlog(self) -> Backlog:
        """Get the size of the queue, over all tenants and processes."""
        row = JOBS.c
        waits = row.status == "QUEUED"
        query = select(
            func.count(case((waits, 1))),
            func.count(case((row.status == "PROCESSING", 1))),
            func.coalesce(self._database.now - func.min(case((waits, row.created))), 0.0),
            func.coalesce(func.sum(row.nbytes), 0)
            + select(func.coalesce(func.sum(IMAGES.c.nbytes), 0)).scalar_subquery(),
        )

        queued, processing, oldest, nbytes = self._database.read(
            lambda connection: connection.execute(query).one()
        )
        return Backlog(queued, processing, max(0.0, float(oldest)), int(nbytes))

    def workers(self) -> Sequence[str]:
        """List the names of processes that hold leases."""
        held = select(JOBS.c.owner).where(JOBS.c.owner.is_not(None)).distinct()
        names = self._database.read(lambda connection: connection.scalars(held).all())
        return [name for name in names if name]

    def requeue(self, worker: str, *, counts: bool) -> int:
        """Requeue all jobs of a process, so that others can claim them at once.

        Args:
            worker: name of the process, which crashed or is stopping.
            counts: whether the current attempts count; not if the server shuts down normally.

        Returns:
            The number of jobs.
        """
        attempts = JOBS.c.attempts if counts else JOBS.c.attempts - 1

        change = (
            update(JOBS)
            .where(JOBS.c.owner == worker, JOBS.c.status == "PROCESSING")
            .values(
                status="QUEUED",
                due=self._database.now,
                attempts=attempts,
                owner=null(),
                progress=null(),
            )
        )
        return self._database.write(lambda connection: connection.execute(change).rowcount)


def _held(lease: Lease) -> ColumnElement[bool]:
    return (
        (JOBS.c.id == lease.job_id)
        & (JOBS.c.token == lease.token)
        & (JOBS.c.status == "PROCESSING")
    )


def _check_wanted(abandoned: threading.Event | None) -> None:
    if abandoned is not None and abandoned.is_set():
        raise DeadlineError("The request ended before its job was stored.")
