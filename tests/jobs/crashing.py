"""A process that runs jobs, starts quickly, and is meant to be killed.

    python -m tests.jobs.crashing DATA_DIR LOG [DATABASE_URL]

Its task doubles a number, and appends each number to LOG when it starts. The first task in any of
the processes creates LOG.held, and runs until its process is killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from contextlib import suppress
from typing import Any

from pydantic import BaseModel

from inference_server.auth import Tenant
from inference_server.jobs import JobQueue
from inference_server.jobs.task import ResultFile, Task, TaskResult
from inference_server.settings import Settings
from tests.jobs.submitting import task_context

KIND = "double"


class Number(BaseModel):
    """The request body."""

    number: int


def settings(directory: str, url: str = "") -> Settings:
    """Settings of all processes of a test."""
    return Settings(
        data_dir=directory,
        database_url=url,
        job_lease=1,
        job_attempts=50,
        job_queue_per_key=200,
    )


def doubled(number: int) -> tuple[ResultFile, ...]:
    """The expected result: two files."""
    content = str(2 * number).encode()
    return tuple(ResultFile(name, "text/plain", content) for name in ("one.txt", "two.txt"))


async def main(directory: str, log: str, url: str = "") -> None:
    """Run jobs until killed."""
    file = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    async def run(state: Any, tenant: Tenant, body: Number, timings: Any) -> TaskResult:
        os.write(file, f"{body.number}\n".encode())
        with suppress(FileExistsError):
            os.close(os.open(f"{log}.held", os.O_CREAT | os.O_EXCL))
            await asyncio.sleep(600)
        await asyncio.sleep(random.uniform(0.02, 0.3))
        return TaskResult(None, files=lambda: doubled(body.number))

    values = settings(directory, url)
    state = task_context(values)
    jobs = JobQueue(values, {KIND: Task(Number, run, lambda body: [])})
    await jobs.start(state)
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
