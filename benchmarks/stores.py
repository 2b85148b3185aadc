"""Throughput of PostgreSQL and Redis: jobs, credits and rate limits."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
from redis import Redis
from sqlalchemy import insert

from benchmarks.report import Cell, Report, Table
from inference_server.auth import Charge, KeyRepository, day_of, parse_rate
from inference_server.auth.rate_limit import RateLimiter
from inference_server.database import Database
from inference_server.jobs import JSON_OUTPUT, JobRepository, Output, Submission
from inference_server.jobs.models import JOBS
from inference_server.jobs.task import ResultFile
from inference_server.settings import Settings

_KIND, _ANSWER = "visual", b"x" * 1220
"""A response as long as that of a click (see `overhead`)."""
_PAYLOAD = b"x" * 100_000
_CONNECTIONS = 4
"""Number of connections that a server keeps open."""
_RATE = "100000/s"


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def _postgresql() -> Iterator[tuple[str, psutil.Process]]:
    """Run a PostgreSQL with `fsync=off`; yield its URL and process."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True)
    on_path = shutil.which("pg_ctl")
    if not on_path and not found:
        raise RuntimeError("PostgreSQL is not installed: apt-get install postgresql")
    program = Path(on_path or found[0]).resolve()
    root = os.getuid() == 0  # PostgreSQL refuses to run as root
    user = "postgres" if root and any(e.pw_name == "postgres" for e in pwd.getpwall()) else None
    port = _port()
    with tempfile.TemporaryDirectory(prefix="pg") as directory:
        if user:
            shutil.chown(directory, user)

        def run(*command: str) -> None:
            # Not captured, because the server would keep the pipe open.
            subprocess.run(  # noqa: S603 - constant command
                command, check=True, user=user, cwd=directory, stdout=subprocess.DEVNULL
            )

        data = f"{directory}/data"
        initdb = str(program.with_name("initdb"))
        run(initdb, "-D", data, "-U", "bench", "--auth=trust", "-E", "UTF8")
        options = f"-p {port} -c fsync=off -c listen_addresses=127.0.0.1 -k {directory}"
        control = (str(program), "-D", data, "-w", "-l", f"{directory}/log")
        run(*control, "-o", options, "start")
        try:
            process = psutil.Process(int(Path(data, "postmaster.pid").read_text().split()[0]))
            yield f"postgresql://bench@127.0.0.1:{port}/postgres", process
        finally:
            run(*control, "-m", "fast", "stop")


@contextmanager
def _redis() -> Iterator[str]:
    """Run a Redis without persistence; yield its URL."""
    program, port = shutil.which("redis-server"), _port()
    if program is None:
        raise RuntimeError("Redis is not installed: apt-get install redis-server")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - constant command
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def _processor(process: psutil.Process) -> float:
    """Return the CPU seconds of a server and its children."""
    all_ = [process, *process.children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in all_)


def _measured(
    work: Callable[[], object], count: int, process: psutil.Process
) -> tuple[float, float]:
    """Repeat an operation in several threads; return its rate per second and its CPU seconds."""
    with ThreadPoolExecutor(_CONNECTIONS) as threads:

        def do(times: int) -> None:
            for each in [threads.submit(work) for _ in range(times)]:
                each.result()

        do(_CONNECTIONS)  # opens the connections
        before, begin = _processor(process), time.perf_counter()
        do(count)
        seconds = time.perf_counter() - begin
        return count / seconds, (_processor(process) - before) / count


def _row(rate: float, cpu: float) -> dict[str, Cell]:
    return {
        "per second here": rate,
        "CPU per operation (ms)": 1e3 * cpu,
        "per second and core": 1 / max(cpu, 1e-6),
    }


def _jobs(url: str, process: psutil.Process, count: int, kept: Sequence[int]) -> list[Table]:
    """Measure jobs and credits, then jobs with an increasing number of stored results."""
    database = Database(Path(), url)
    settings = Settings(job_queue_size=10**6, job_queue_per_key=10**6, job_storage_mb=10**6)
    store, keys = JobRepository(database, settings), KeyRepository(database)
    charge = Charge(keys.create("bench", credits=10**9)[1].id, 1, day_of())
    output = Output((ResultFile(JSON_OUTPUT, "application/json", _ANSWER),), 0.1)

    def submit() -> None:
        store.submit(Submission("tenant", _KIND, _PAYLOAD))

    def answer() -> None:
        claim = store.claim("owner", [_KIND])
        if claim is None or not store.finish(claim.lease, output):
            raise RuntimeError("a job is missing")

    works: Mapping[str, Callable[[], object]] = {
        "accept a job": submit,
        "claim and finish a job": answer,  # finishes the jobs accepted above
        "poll an empty queue": lambda: store.claim("owner", [_KIND]),
        "deduct a credit from one key": lambda: keys.take(charge),
    }
    rows: list[dict[str, Cell]] = [
        {"PostgreSQL": name, **_row(*_measured(work, count, process))}
        for name, work in works.items()
    ]
    growing: list[dict[str, Cell]] = []
    for number, results in enumerate(kept):
        _keep(database, number, results - (kept[number - 1] if number else 0))
        accepting = _measured(submit, count, process)
        _measured(answer, count, process)
        growing.append({"stored results": results, **_row(*accepting)})
    database.close()
    return [
        Table("Jobs and credits", rows),
        Table("Accept a job, by number of stored results", growing),
    ]


def _keep(database: Database, number: int, count: int) -> None:
    """Insert stored results of completed jobs."""
    done = {"tenant": "other", "kind": _KIND, "status": "COMPLETED", "token": 1, "attempts": 1}
    done |= {"created": time.time(), "expires": time.time() + 3600, "nbytes": len(_ANSWER)}
    with database.writing() as connection:
        connection.execute(
            insert(JOBS), [done | {"id": f"{number:02x}{n:030x}"} for n in range(count)]
        )


async def _counts(url: str, count: int, tasks: int) -> float:
    """Return the requests per second that one process counts."""
    rates, rate = RateLimiter(url), parse_rate(_RATE)

    async def some(task: int) -> None:
        for _ in range(count // tasks):
            await rates.count(f"key-{task}", rate)

    await asyncio.gather(*map(some, range(tasks)))  # opens the connections
    begin = time.perf_counter()
    await asyncio.gather(*map(some, range(tasks)))
    seconds = time.perf_counter() - begin
    await rates.close()
    return count // tasks * tasks / seconds


def _limits(url: str, count: int) -> Table:
    """Measure rate limits, and the CPU time of Redis, which uses one core."""
    client = Redis.from_url(url)

    def used() -> float:
        info = client.info("cpu")
        return float(info["used_cpu_sys"] + info["used_cpu_user"])

    rows: list[dict[str, Cell]] = []
    for tasks in (1, 32):
        before = used()
        rate = asyncio.run(_counts(url, count, tasks))
        cpu = (used() - before) / (2 * (count // tasks * tasks))
        rows.append(
            {
                "Redis": f"count a request, concurrency {tasks}",
                **_row(rate, cpu),
            }
        )
    client.close()
    return Table(f"Rate limit of {_RATE}", rows)


def run(small: bool) -> Report:
    """Run the benchmark from one process.

    Args:
        small: use few operations, for a run of a few seconds.
    """
    count, kept = (40, (100,)) if small else (400, (1000, 10_000, 100_000))
    with _postgresql() as (url, process):
        tables = _jobs(url, process, count, kept)
    with _redis() as url:
        tables.append(_limits(url, 64 if small else 6400))
    return Report(
        "stores",
        "The database and Redis",
        tables,
        notes=[
            "PostgreSQL with `fsync=off` and Redis without persistence share the machine with "
            "the client and perhaps other work, so only the CPU time is meaningful. Each commit "
            "also waits for the disk; accepting a job, claiming it, finishing it and deducting "
            f"credits are one commit each. {_CONNECTIONS} client threads. Requests of "
            f"{len(_PAYLOAD):,} bytes, responses of {len(_ANSWER):,}.",
        ],
    )
