"""What is done to stored jobs from time to time: expired ones deleted, late ones made due."""

from __future__ import annotations

from sqlalchemy import Connection, delete, exists, func, select, update

from inference_server.database import Database
from inference_server.jobs import inputs
from inference_server.jobs.models import CHARGES, FILES, JOBS, SUBMISSIONS
from inference_server.settings import MiB, Settings

_PURGE_BATCH = 100
_PURGE_BYTES = 16 * MiB
"""Bytes of results to delete per transaction: a few tenths of a second, in which nobody writes."""

_LONGEST_PAUSE = 600.0
"""Seconds that an error may ask a job to wait for its next attempt."""


class Retention:
    """Deletes expired jobs in steps. Every method blocks, so call it in a worker thread.

    Args:
        database: holds the jobs.
        settings: the lengths of leases and of pauses.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    def purge(self) -> bool:
        """Delete some results of expired jobs, in a short transaction, and such jobs without any.

        Returns:
            Whether there may be more; the caller pauses, so that others can write, and calls again.
        """
        gone = JOBS.c.expires <= self._database.now

        def delete_some(connection: Connection) -> bool:
            files = connection.execute(
                select(FILES.c.job_id, FILES.c.position, FILES.c.nbytes)
                .join(JOBS, JOBS.c.id == FILES.c.job_id)
                .where(gone)
                .limit(_PURGE_BATCH)
                .with_for_update(skip_locked=True, of=FILES)
            ).all()
            room = _PURGE_BYTES
            for job_id, position, nbytes in files:
                connection.execute(
                    delete(FILES).where(FILES.c.job_id == job_id, FILES.c.position == position)
                )
                room -= nbytes
                if room <= 0:
                    return True
            ids = connection.scalars(
                select(JOBS.c.id)
                .where(gone, ~exists().where(FILES.c.job_id == JOBS.c.id))
                .limit(_PURGE_BATCH)
                .with_for_update(skip_locked=True)
            ).all()
            for job_id in ids:
                inputs.discard(connection, job_id)  # of a job that a server of 0.1.0 ended
            for table in (CHARGES, SUBMISSIONS):
                connection.execute(delete(table).where(table.c.job_id.in_(ids)))
            connection.execute(delete(JOBS).where(JOBS.c.id.in_(ids)))
            return _PURGE_BATCH in (len(files), len(ids))

        if self._database.read(
            lambda connection: connection.execute(select(JOBS.c.id).where(gone).limit(1)).first()
        ):
            return self._database.write(delete_some)
        return False

    def compact(self) -> None:
        """Return the space of deleted results to the file system, some per call."""
        self._database.retrying(self._database.compact)

    def pull_in(self) -> int:
        """Make jobs due that would wait for longer than any pause, as the clock was set back.

        Returns:
            The number of jobs.
        """
        settings = self._settings
        pause = settings.job_retry_pause * 2.0**settings.job_attempts
        last = self._database.now + max(_LONGEST_PAUSE, settings.job_lease, pause)

        def count(connection: Connection) -> int:
            return connection.execute(
                select(func.count()).select_from(JOBS).where(JOBS.c.due > last)
            ).scalar_one()

        if not self._database.read(count):
            return 0
        change = update(JOBS).where(JOBS.c.due > last).values(due=self._database.now)
        return self._database.write(lambda connection: connection.execute(change).rowcount)
