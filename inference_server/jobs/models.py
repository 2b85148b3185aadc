"""Database tables of jobs, and the records that `JobRepository` returns.

Results are stored in the database, not in files beside it. The result and the status are then
written in one transaction, every process can read them, and no file is orphaned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, String, Table, Text

from inference_server.database import METADATA
from inference_server.jobs.task import ResultFile

State = Literal["QUEUED", "PROCESSING", "COMPLETED", "FAILED"]

JSON_OUTPUT = "output.json"
"""Name of the file that holds a JSON result; responses do not list it among the files."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's exclusive right to a job, until it expires.

    Attributes:
        job_id: the job's id.
        token: number of the claim; a later claim of the same job has a larger one.
    """

    job_id: str
    token: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that a worker has claimed.

    Attributes:
        lease: the lease on the job.
        tenant: name of the tenant who submitted it.
        kind: name of the task.
        attempt: number of this attempt, from 1.
        payload: the request body as JSON.
    """

    lease: Lease
    tenant: str
    kind: str
    attempt: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Output:
    """The result of a completed job.

    Attributes:
        files: the result's files; a JSON result is one file with the name `JSON_OUTPUT`.
        seconds: duration of the task.
        model: the checkpoint that was used, such as `sam3/demo`; None if none was.
    """

    files: tuple[ResultFile, ...]
    seconds: float
    model: str | None = None

    @property
    def nbytes(self) -> int:
        """Total size of the files in bytes."""
        return sum(len(file.content) for file in self.files)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a result, without its content.

    Attributes:
        name: file name, such as `preview.png`.
        media_type: media type of the content.
        nbytes: size of the content in bytes.
    """

    name: str
    media_type: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Status:
    """A job's status.

    Attributes:
        job_id: the job's id.
        state: the state of the job.
        seconds: duration of the task; None until the job has completed.
        error: the reason for the failure; None unless the job has failed.
        expires: when the job is deleted, in seconds since 1970; None until it has ended.
        model: the checkpoint that was used; None if none was.
    """

    job_id: str
    state: State
    seconds: float | None
    error: str | None
    expires: float | None
    model: str | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """The size of the queue.

    Attributes:
        queued: number of jobs that wait for a worker.
        processing: number of jobs that a worker has claimed.
        oldest: seconds since the oldest queued job was submitted; 0 if there is none.
        nbytes: total size of all payloads and results in bytes.
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
    # Incremented by each claim; changes under an older token are refused.
    Column("token", Integer, nullable=False),
    # Claims that ended in a normal shutdown do not count.
    Column("attempts", Integer, nullable=False),
    # When the job may be claimed: at once, after a pause, or when its lease expires. Null once it
    # has ended.
    Column("due", Double),
    Column("owner", String(32)),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("seconds", Double),
    # Size of the payload, later of the result.
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
    # Credits charged for a job, kept until they can no longer be refunded.
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
