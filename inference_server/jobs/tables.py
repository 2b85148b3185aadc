"""The tables of the jobs.

Results live in the database too, not in files beside it: a result and the word that it is there are
then one transaction, processes on several machines read each other's, and nothing is orphaned.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, String, Table, Text

from inference_server.database import METADATA

JOBS = Table(
    "inference_jobs",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("status", String(10), nullable=False),
    # Grows with each claim: what a worker does under an older one is refused.
    Column("token", Integer, nullable=False),
    # Claims that count; those of a server that shut down in good order do not.
    Column("attempts", Integer, nullable=False),
    # When it may be claimed: at once, after a pause, or when its lease ends. Null once it ended.
    Column("due", Double),
    Column("owner", String(32)),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("seconds", Double),
    # Of the payload, later of the result.
    Column("nbytes", BigInteger, nullable=False),
    Column("model", Text),
    Column("error", Text),
    Index("inference_jobs_due", "due"),
    Index("inference_jobs_expires", "expires"),
)
PAYLOADS = Table(
    "inference_job_payloads",
    METADATA,
    Column("job_id", String(32), primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
CHARGES = Table(
    "inference_job_charges",
    METADATA,
    # What was paid for a job, as long as it may have to be given back.
    Column("job_id", String(32), primary_key=True),
    Column("key_id", String(32), nullable=False),
    Column("credits", BigInteger, nullable=False),
    Column("day", String(10), nullable=False),
)
FILES = Table(
    "inference_job_files",
    METADATA,
    Column("job_id", String(32), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("name", String(255), nullable=False),
    Column("media_type", String(255), nullable=False),
    Column("nbytes", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),
)
