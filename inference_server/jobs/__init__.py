"""Jobs: requests that are kept in a database until a worker has answered them.

`Store` keeps them, `Jobs` runs them. Any task can be a job, and no task knows that it is one.
"""

from inference_server.jobs.models import (
    JSON_OUTPUT,
    Backlog,
    Claim,
    Output,
    Status,
    StoredFile,
    Ticket,
)
from inference_server.jobs.queue import Jobs
from inference_server.jobs.repository import Store
from inference_server.jobs.signing import LinkSigner

__all__ = [
    "JSON_OUTPUT",
    "Backlog",
    "Claim",
    "Jobs",
    "LinkSigner",
    "Output",
    "Status",
    "Store",
    "StoredFile",
    "Ticket",
]
