"""The durable queue: submit, claim under a lease, renew, and end with a result or an error.

A claim carries a token that grows with every claim of the job. Whoever holds an older one is too
late: neither renewing nor ending the job under it changes anything.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress

from sqlalchemy import Connection, case, delete, func, insert, null, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.elements import ColumnElement

from inference_server.auth import Charge, give_back, take
from inference_server.database import Database
from inference_server.errors import CapacityError
from inference_server.jobs.models import (
    CHARGES,
    FILES,
    JOBS,
    PAYLOADS,
    Backlog,
    Claim,
    Output,
    Status,
    StoredFile,
    Ticket,
)
from inference_server.jobs.task import ResultFile
from inference_server.settings import MiB, Settings

_PURGED_AT_ONCE = 100
_RETRY_AFTER = 5.0


class Store:
    """The queue in a database. Every method blocks, so that it belongs in a worker thread.

    Args:
        database: that holds the jobs.
        settings: the bounds.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    def submit(self, tenant: str, kind: str, payload: bytes, bill: Charge | None = None) -> str:
        """Keep a request until it is answered.

        Args:
            tenant: who asks.
            kind: which task.
            payload: the request, as JSON without a key.
            bill: what is paid for it now, and given back if it fails.

        Returns:
            The job's id.

        Raises:
            CapacityError: there is no room.
            CreditsError: the key has not enough credits.
        """
        job_id = secrets.token_hex(16)

        def work() -> None:
            with self._database.writing() as connection:
                self._database.lock_submits(connection)
                self._check_room(connection, tenant, len(payload))
                now = self._database.now
                connection.execute(
                    insert(JOBS).values(
                        id=job_id,
                        tenant=tenant,
                        kind=kind,
                        status="QUEUED",
                        token=0,
                        attempts=0,
                        due=now,
                        created=now,
                        nbytes=len(payload),
                    )
                )
                connection.execute(insert(PAYLOADS).values(job_id=job_id, content=payload))
                if bill is not None and bill.credits:
                    take(connection, bill)
                    connection.execute(
                        insert(CHARGES).values(
                            job_id=job_id, key_id=bill.key_id, credits=bill.credits, day=bill.day
                        )
                    )

        # A connection may be lost after its commit: the second try then finds the first's job.
        with suppress(IntegrityError):
            self._database.retrying(work)
        return job_id

    def _check_room(self, connection: Connection, tenant: str, nbytes: int) -> None:
        settings = self._settings
        unfinished = JOBS.c.due.is_not(None)
        all_, own, stored = connection.execute(
            select(
                func.count(case((unfinished, 1))),
                func.count(case((unfinished & (JOBS.c.tenant == tenant), 1))),
                func.coalesce(func.sum(JOBS.c.nbytes), 0),
            )
        ).one()
        if own >= settings.job_queue_per_key:
            raise CapacityError(
                f"{own} jobs of this key wait already. Try again when some are done, or raise "
                "INFERENCE_JOB_QUEUE_PER_KEY.",
                _RETRY_AFTER,
                full="jobs_of_key",
            )
        if all_ >= settings.job_queue_size:
            raise CapacityError(
                f"{all_} jobs wait already. Try again when some are done, or raise "
                "INFERENCE_JOB_QUEUE_SIZE.",
                _RETRY_AFTER,
                full="jobs",
            )
        if stored + nbytes > settings.job_storage_mb * MiB:
            raise CapacityError(
                "Jobs and results fill their storage. Try again when some results have expired, "
                "or raise INFERENCE_JOB_STORAGE_MB or lower INFERENCE_JOB_RETENTION.",
                _RETRY_AFTER,
                full="job_storage",
            )

    def claim(self, owner: str, kinds: Collection[str]) -> Claim | None:
        """Take on the job that is due longest.

        Args:
            owner: who takes it on.
            kinds: tasks that the owner can do.

        Returns:
            The job, held for the length of a lease; None if none is due.
        """
        ready = (JOBS.c.due <= self._database.now) & JOBS.c.kind.in_(kinds)

        def work() -> Claim | None:
            # Looking first leaves the writers alone as long as there is nothing to do.
            with self._database.reading() as connection:
                if connection.execute(select(JOBS.c.id).where(ready).limit(1)).first() is None:
                    return None
            while True:
                with self._database.writing() as connection:
                    found, claim = self._claim(connection, owner, kinds)
                if claim is not None or not found:
                    return claim

        return self._database.retrying(work)

    def _claim(
        self, connection: Connection, owner: str, kinds: Collection[str]
    ) -> tuple[bool, Claim | None]:
        """Claims one job, or buries one that was claimed too often: (something was due, claim)."""
        now = self._database.now
        first = (
            select(JOBS.c.id)
            .where(JOBS.c.due <= now, JOBS.c.kind.in_(kinds))
            .order_by(JOBS.c.due)
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
                owner=owner,
            )
            .returning(JOBS.c.id, JOBS.c.token, JOBS.c.tenant, JOBS.c.kind, JOBS.c.attempts)
        ).one_or_none()
        if row is None:
            return False, None
        ticket = Ticket(row.id, row.token)
        if row.attempts > self._settings.job_attempts:
            times = self._settings.job_attempts
            self._end(
                connection,
                ticket,
                error=f"The server stopped {times} times while it worked on this request.",
            )
            return True, None
        payload = connection.execute(
            select(PAYLOADS.c.content).where(PAYLOADS.c.job_id == row.id)
        ).scalar_one()
        return True, Claim(ticket, row.tenant, row.kind, row.attempts, payload)

    def renew(self, ticket: Ticket) -> bool:
        """Begin the lease anew; False if the job is no longer held under this ticket."""
        return self._change(ticket, due=self._database.now + self._settings.job_lease)

    def retry(self, ticket: Ticket, pause: float) -> bool:
        """Put a job back into the queue, to be tried again.

        Args:
            ticket: the hold on it.
            pause: seconds during which nobody may claim it.

        Returns:
            False if the job is no longer held under this ticket.
        """
        due = self._database.now + pause
        return self._change(ticket, status="QUEUED", due=due, owner=null())

    def _change(self, ticket: Ticket, **values: object) -> bool:
        def work() -> bool:
            with self._database.writing() as connection:
                done = connection.execute(update(JOBS).where(_held(ticket)).values(**values))
                return done.rowcount == 1

        return self._database.retrying(work)

    def finish(self, ticket: Ticket, output: Output) -> bool:
        """End a job with its result; False if it is no longer held under this ticket."""
        return self._ended(ticket, output=output)

    def fail(self, ticket: Ticket, error: str) -> bool:
        """End a job with an error; False if it is no longer held under this ticket."""
        return self._ended(ticket, error=error)

    def _ended(self, ticket: Ticket, output: Output | None = None, error: str = "") -> bool:
        def work() -> bool:
            with self._database.writing() as connection:
                return self._end(connection, ticket, output, error)

        return self._database.retrying(work)

    def _end(
        self,
        connection: Connection,
        ticket: Ticket,
        output: Output | None = None,
        error: str = "",
    ) -> bool:
        ended = connection.execute(
            update(JOBS)
            .where(_held(ticket))
            .values(
                status="FAILED" if output is None else "COMPLETED",
                due=null(),
                owner=null(),
                expires=self._database.now + self._settings.job_retention,
                nbytes=0 if output is None else output.nbytes,
                seconds=None if output is None else output.seconds,
                model=None if output is None else output.model,
                error=error if output is None else None,
            )
        )
        if ended.rowcount != 1:
            return False
        connection.execute(delete(PAYLOADS).where(PAYLOADS.c.job_id == ticket.job_id))
        paid = connection.execute(
            delete(CHARGES)
            .where(CHARGES.c.job_id == ticket.job_id)
            .returning(CHARGES.c.key_id, CHARGES.c.credits, CHARGES.c.day)
        ).one_or_none()
        if paid is not None and output is None:
            give_back(connection, Charge(*paid))
        if output is not None and output.files:
            connection.execute(
                insert(FILES),
                [
                    {
                        "job_id": ticket.job_id,
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

    def purge(self) -> int:
        """Forget jobs whose time is over, with their results; returns how many."""

        def some() -> int:
            with self._database.writing() as connection:
                ids = connection.scalars(
                    select(JOBS.c.id)
                    .where(JOBS.c.expires <= self._database.now)
                    .limit(_PURGED_AT_ONCE)
                    .with_for_update(skip_locked=True)
                ).all()
                for table, column in ((FILES, FILES.c.job_id), (JOBS, JOBS.c.id)):
                    connection.execute(delete(table).where(column.in_(ids)))
                return len(ids)

        gone = 0
        while count := self._database.retrying(some):
            gone += count
        if gone:
            self._database.retrying(self._database.compact)
        return gone

    def status(self, job_id: str, tenant: str) -> Status | None:
        """How it stands with a job; None if it is unknown, expired, or another tenant's."""
        row = JOBS.c
        query = select(row.id, row.status, row.seconds, row.error, row.expires, row.model).where(
            row.id == job_id,
            row.tenant == tenant,
            row.expires.is_(None) | (row.expires > self._database.now),
        )

        def work() -> Status | None:
            with self._database.reading() as connection:
                found = connection.execute(query).one_or_none()
                return None if found is None else Status(*found)

        return self._database.retrying(work)

    def files(self, job_id: str) -> Sequence[StoredFile]:
        """The files of a result, in their order."""
        query = (
            select(FILES.c.name, FILES.c.media_type, FILES.c.nbytes)
            .where(FILES.c.job_id == job_id)
            .order_by(FILES.c.position)
        )

        def work() -> Sequence[StoredFile]:
            with self._database.reading() as connection:
                return [StoredFile(*row) for row in connection.execute(query)]

        return self._database.retrying(work)

    def file(self, job_id: str, name: str) -> tuple[ResultFile, float] | None:
        """A file of a result and the seconds it has left; None if there is none any more."""
        now = self._database.now
        query = (
            select(FILES.c.name, FILES.c.media_type, FILES.c.content, JOBS.c.expires - now)
            .join(JOBS, JOBS.c.id == FILES.c.job_id)
            .where(FILES.c.job_id == job_id, FILES.c.name == name, JOBS.c.expires > now)
        )

        def work() -> tuple[ResultFile, float] | None:
            with self._database.reading() as connection:
                row = connection.execute(query).one_or_none()
            return None if row is None else (ResultFile(row[0], row[1], row[2]), row[3])

        return self._database.retrying(work)

    def backlog(self) -> Backlog:
        """How much waits, of all tenants and for all processes."""
        row = JOBS.c
        waits = row.status == "QUEUED"
        query = select(
            func.count(case((waits, 1))),
            func.count(case((row.status == "PROCESSING", 1))),
            func.coalesce(self._database.now - func.min(case((waits, row.created))), 0.0),
            func.coalesce(func.sum(row.nbytes), 0),
        )

        def work() -> Backlog:
            with self._database.reading() as connection:
                queued, processing, oldest, nbytes = connection.execute(query).one()
            return Backlog(queued, processing, max(0.0, float(oldest)), int(nbytes))

        return self._database.retrying(work)

    def owners(self) -> Sequence[str]:
        """Who holds jobs now."""

        def work() -> Sequence[str]:
            with self._database.reading() as connection:
                held = select(JOBS.c.owner).where(JOBS.c.owner.is_not(None)).distinct()
                return [owner for owner in connection.scalars(held) if owner]

        return self._database.retrying(work)

    def free(self, owner: str, *, counts: bool) -> int:
        """Put everything that an owner holds back into the queue, for others to take at once.

        Args:
            owner: who died, or is about to stop.
            counts: the attempts were such; not so if a server stops in good order.

        Returns:
            How many jobs that were.
        """
        attempts = JOBS.c.attempts if counts else JOBS.c.attempts - 1

        def work() -> int:
            with self._database.writing() as connection:
                now = self._database.now
                return connection.execute(
                    update(JOBS)
                    .where(JOBS.c.owner == owner, JOBS.c.status == "PROCESSING")
                    .values(status="QUEUED", due=now, attempts=attempts, owner=null())
                ).rowcount

        return self._database.retrying(work)


def _held(ticket: Ticket) -> ColumnElement[bool]:
    return (
        (JOBS.c.id == ticket.job_id)
        & (JOBS.c.token == ticket.token)
        & (JOBS.c.status == "PROCESSING")
    )
