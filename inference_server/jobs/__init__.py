"""Jobs: requests that are stored in a database until a worker has processed them.

`JobQueue` accepts and runs jobs, and `JobRepository` stores them. Any task can run as a job.
"""

from inference_server.jobs.models import (
    JSON_OUTPUT,
    Backlog,
    Claim,
    Lease,
    Output,
    Status,
    StoredFile,
)
from inference_server.jobs.queue import JobQueue
from inference_server.jobs.repository import JobRepository
from inference_server.jobs.signing import LinkSigner
from inference_server.jobs.timing import JobTiming

__all__ = [
    "JSON_OUTPUT",
    "Backlog",
    "Claim",
    "JobQueue",
    "JobRepository",
    "JobTiming",
    "Lease",
    "LinkSigner",
    "Output",
    "Status",
    "StoredFile",
]
