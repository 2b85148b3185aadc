"""Database tables of jobs, and the records that the queue returns.

Results live in the database too, not in files beside it: a result and the status that announces it
are then one transaction, processes on several machines read each other's, and nothing is orphaned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, String, Table, Text

from inference_server.database import METADATA
from inference_server.jobs.task import ResultFile

State = Literal["QUEUED", "PROCESSING", "COMPLETED", "FAILED"]

JSON_OUTPUT = "output.json"
"""The file that a JSON answer is kept as; it is never listed among a result's files."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A worker's hold on a job.

    Attributes:
        job_id: which job.
        token: of this claim.
    """

    job_id: str
    token: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that a worker has taken on.

    Attributes:
        ticket: the hold on it.
        tenant: name of the tenant who submitted it.
        kind: which task.
        attempt: how often it was taken on in earnest, this time included.
        payload: the request, as JSON.
    """

    ticket: Ticket
    tenant: str
    kind: str
    attempt: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Output:
    """What a job ended with.

    Attributes:
        files: the result; JSON is one file of the name `JSON_OUTPUT`.
        seconds: that the task took.
        model: the checkpoint that answered.
    """

    files: tuple[ResultFile, ...]
    seconds: float
    model: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(len(file.content) for file in self.files)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a result, without its content.

    Attributes:
        name: of the file.
        media_type: of its content.
        nbytes: of its content.
    """

    name: str
    media_type: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Status:
    """How it stands with a job.

    Attributes:
        job_id: which job.
        state: where it is.
        seconds: that the task took.
        error: why it failed.
        expires: when it is forgotten, in seconds since 1970.
        model: the checkpoint that answered.
    """

    job_id: str
    state: State
    seconds: float | None
    error: str | None
    expires: float | None
    model: str | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits, and how much is kept.

    Attributes:
        queued: jobs that nobody works on.
        processing: jobs that somebody works on.
        oldest: seconds for which the oldest of those that nobody works on has waited.
        nbytes: bytes of all payloads and results.
    """

    queued: int
    processing: int
    oldest: float
    nbytes: int


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
