"""What the queue tells about jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inference_server.tasks import ResultFile

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
