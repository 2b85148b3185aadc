"""Jobs: requests that are kept in a database until a worker has answered them.

`Store` keeps them, `Jobs` runs them. Any task can be a job, and no task knows that it is one.
"""

from inference_server.jobs.links import Links
from inference_server.jobs.queue import Jobs
from inference_server.jobs.records import (
    JSON_OUTPUT,
    Backlog,
    Claim,
    Output,
    Status,
    StoredFile,
    Ticket,
)
from inference_server.jobs.store import Store

__all__ = [
    "JSON_OUTPUT",
    "Backlog",
    "Claim",
    "Jobs",
    "Links",
    "Output",
    "Status",
    "Store",
    "StoredFile",
    "Ticket",
]
