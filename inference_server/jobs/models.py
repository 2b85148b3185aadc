"""Database tables of jobs, and the records that `JobRepository` returns.

Results are stored in the database, not in files beside it. The result and the status are then
written in one transaction, every process can read them, and no file is orphaned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)

from inference_server.auth import Charge
from inference_server.database import METADATA
from inference_server.errors import UnknownImageError
from inference_server.jobs.progress import JobProgress
from inference_server.jobs.task import ResultFile
from inference_server.segmentation.types import StoredImage

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
class RequestKey:
    """A client's name for a submission, so that repeating the submission creates no second job.

    Attributes:
        name: SHA-256 of the name in hexadecimal.
        request: SHA-256 of the task's name and the request body in hexadecimal; the same name with
            another request is refused.
    """

    name: str
    request: str


@dataclass(frozen=True, slots=True)
class Submission:
    """A request to be stored as a job.

    Attributes:
        tenant: name of the tenant who submits it.
        kind: name of the task.
        payload: the request body as JSON, without an API key.
        bill: credits to charge now and to refund if the job fails; None charges nothing.
        image: file of the image that the body names by its id alone; None if there is none.
        key: the client's name for the submission; None if it has none.
        unknown: why there is no `image` although the body needs it. It is raised unless the
            submission repeats an earlier one, which has its image already.
    """

    tenant: str
    kind: str
    payload: bytes = field(repr=False)
    bill: Charge | None = None
    image: StoredImage | None = None
    key: RequestKey | None = None
    unknown: UnknownImageError | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The job of a submission.

    Attributes:
        job_id: the job's id.
        repeated: whether an earlier submission with the same key created the job.
        credits_left: credits left after the charge; None if nothing was charged now.
        submission_id: id of this submission, to undo it.
    """

    job_id: str
    repeated: bool = False
    credits_left: int | None = None
    submission_id: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that a worker has claimed.

    Attributes:
        lease: the lease on the job.
        tenant: name of the tenant who submitted it.
        kind: name of the task.
        attempt: number of this attempt, from 1.
        payload: the request body as JSON.
        image: file of the image that the body names by its id alone; None if there is none.
    """

    lease: Lease
    tenant: str
    kind: str
    attempt: int
    payload: bytes
    image: StoredImage | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the headers of a synchronous response tell about a result.

    Attributes:
        model: the checkpoint that was used, such as `sam3/demo`; None if none was.
        hit: whether the embedding came from the cache; None if no image was encoded.
        mismatch: whether the request sent an image that differs from the one cached under its
            `image_id`, which was used.
        stages: seconds spent in each stage of the task.
    """

    model: str | None = None
    hit: bool | None = None
    mismatch: bool = False
    stages: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Output:
    """The result of a completed job.

    Attributes:
        files: the result's files; a JSON result is one file with the name `JSON_OUTPUT`.
        seconds: duration of the task.
        facts: model, cache hit and stages. Default: none.
        progress: what the task reported last. Default: None, it reported nothing.
    """

    files: tuple[ResultFile, ...]
    seconds: float
    facts: Facts = Facts()
    progress: JobProgress | None = None

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
        facts: model, cache hit and stages of the result.
        progress: what the current attempt, or the last one of a completed job, reported last.
            Default: None, it reported nothing.
    """

    job_id: str
    state: State
    seconds: float | None
    error: str | None
    expires: float | None
    facts: Facts
    progress: JobProgress | None = None


@dataclass(frozen=True, slots=True)
class Deleted:
    """A job that its tenant cancelled or deleted.

    Attributes:
        job_id: the job's id.
        kind: name of its task.
        state: the state that it had.
    """

    job_id: str
    kind: str
    state: State


@dataclass(frozen=True, slots=True)
class Backlog:
    """The size of the queue.

    Attributes:
        queued: number of jobs that wait for a worker.
        processing: number of jobs that a worker has claimed.
        oldest: seconds since the oldest queued job was submitted; 0 if there is none.
        nbytes: total size of all payloads, images and results in bytes.
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
    # Number of the latest claim in the order of all claims; 0 before the first.
    Column("turn", BigInteger, nullable=False, server_default="0"),
    # Digest of the file in `IMAGES` that the payload names by its id; null once the job has ended.
    Column("image", String(64)),
    Column("request_key", String(64)),
    Column("request_digest", String(64)),
    Column("cache_hit", Boolean),
    Column("image_mismatch", Boolean),
    # Seconds by stage, as JSON.
    Column("stages", Text),
    # What the current attempt reported last, see `JobProgress`; null once it is given up.
    Column("progress", Text),
    Index("inference_jobs_due", "due"),
    Index("inference_jobs_expires", "expires"),
    Index("inference_jobs_tenant_turn", "tenant", "turn"),
    Index("inference_jobs_turn", "turn"),
    Index("inference_jobs_request_key", "tenant", "request_key", unique=True),
)
SUBMISSIONS = Table(
    "inference_job_submissions",
    METADATA,
    # Submissions that were answered, or may still be answered, with the job. That which created
    # it has the job's id.
    Column("id", String(32), primary_key=True),
    Column("job_id", String(32), nullable=False),
    Index("inference_job_submissions_job_id", "job_id"),
)
PAYLOADS = Table(
    "inference_job_payloads",
    METADATA,
    Column("job_id", String(32), primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
IMAGES = Table(
    "inference_job_images",
    METADATA,
    # The files that unfinished jobs name by an id: one per tenant and content.
    Column("tenant", String(64), primary_key=True),
    Column("digest", String(64), primary_key=True),
    # Unfinished jobs that need it.
    Column("jobs", Integer, nullable=False),
    Column("nbytes", BigInteger, nullable=False),
    # Id of its content in `IMAGE_FILES`.
    Column("file", String(129), nullable=False, server_default=""),
)
IMAGE_FILES = Table(
    "inference_job_image_files",
    METADATA,
    # Content of the images in `IMAGES`. Apart, so that it can be transferred before the lock under
    # which the image gets its record.
    Column("id", String(129), primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
CHARGES = Table(
    "inference_job_charges",
    METADATA,
    # Credits charged for a job and not refunded, kept as long as the job.
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
