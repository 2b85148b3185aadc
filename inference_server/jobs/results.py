"""Result files in the database, read in pieces, so that a download never holds a whole file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, literal_column, select
from sqlalchemy.sql.elements import ColumnElement

from inference_server.database import Database
from inference_server.jobs.models import FILES, JOBS, Facts, StoredFile

FACT_COLUMNS = (JOBS.c.model, JOBS.c.cache_hit, JOBS.c.image_mismatch, JOBS.c.stages)
"""The columns that `facts_of` needs."""


def facts_of(row: Any) -> Facts:
    """Return the facts of a job from a `Row` with `FACT_COLUMNS`."""
    stages = json.loads(row.stages) if row.stages else {}
    return Facts(row.model, row.cache_hit, bool(row.image_mismatch), stages)


class ResultReader:
    """Reads result files. Every method blocks, so call it in a worker thread.

    Args:
        database: holds the files.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, job_id: str, name: str) -> tuple[StoredFile, float, Facts] | None:
        """Look up a file of a result.

        Args:
            job_id: the job's id, unchecked.
            name: the file's name, unchecked.

        Returns:
            (the file without its content, seconds until it expires, facts of the result); None
            if it is unknown or has expired.
        """
        found = self._files(job_id, FILES.c.name == name)
        return found[0] if found else None

    def files(self, job_id: str) -> Sequence[StoredFile]:
        """List the files of a result in order; none if it is unknown or has expired."""
        return [file for file, _, _ in self._files(job_id)]

    def _files(
        self, job_id: str, *which: ColumnElement[bool]
    ) -> Sequence[tuple[StoredFile, float, Facts]]:
        now = self._database.now
        query = (
            select(
                *(FILES.c.name, FILES.c.media_type, FILES.c.nbytes),
                (JOBS.c.expires - now).label("left"),
                *FACT_COLUMNS,
            )
            .join(JOBS, JOBS.c.id == FILES.c.job_id)
            .where(FILES.c.job_id == job_id, JOBS.c.expires > now, *which)
            .order_by(FILES.c.position)
        )
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [(StoredFile(*row[:3]), row.left, facts_of(row)) for row in rows]

    def piece(self, job_id: str, name: str, offset: int, size: int) -> bytes | None:
        """Read a piece of a file.

        Args:
            job_id: the job's id.
            name: the file's name.
            offset: position of the piece in bytes; not beyond the end of the file.
            size: maximum length of the piece in bytes.

        Returns:
            The piece; None if the file has been deleted.
        """

        def read(connection: Connection) -> bytes | None:
            where = (FILES.c.job_id == job_id, FILES.c.name == name)
            if not self._database.is_sqlite:
                part = func.substr(FILES.c.content, offset + 1, size)
                found: bytes | None = connection.scalar(select(part).where(*where))
                return None if found is None else bytes(found)
            row = connection.scalar(
                select(literal_column("rowid")).select_from(FILES).where(*where)
            )
            raw = connection.connection.dbapi_connection
            if row is None or raw is None:
                return None
            # SQLite's `substr` would load the whole file for each piece.
            with raw.blobopen(FILES.name, FILES.c.content.name, row, readonly=True) as blob:
                blob.seek(offset)
                return bytes(blob.read(size))

        return self._database.read(read)
