"""Jobs: requests that are stored in a database until a worker has processed them.

`JobQueue` accepts and runs jobs, and `JobRepository` stores them. Any task can run as a job.
"""

from inference_server.jobs.models import (
    JSON_OUTPUT,
    Accepted,
    Backlog,
    Claim,
    Deleted,
    Facts,
    Lease,
    Output,
    RequestKey,
    Status,
    StoredFile,
    Submission,
)
from inference_server.jobs.progress import Attempt, JobProgress
from inference_server.jobs.queue import JobQueue
from inference_server.jobs.repository import JobRepository
from inference_server.jobs.retention import Retention
from inference_server.jobs.signing import LinkSigner
from inference_server.jobs.timing import JobTiming

__all__ = [
    "JSON_OUTPUT",
    "Accepted",
    "Attempt",
    "Backlog",
    "Claim",
    "Deleted",
    "Facts",
    "JobProgress",
    "JobQueue",
    "JobRepository",
    "JobTiming",
    "Lease",
    "LinkSigner",
    "Output",
    "RequestKey",
    "Retention",
    "Status",
    "StoredFile",
    "Submission",
]
