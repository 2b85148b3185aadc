"""What one PostgreSQL and one Redis take of a cluster: jobs, credits and rates, for real."""

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
from inference_server.jobs import JSON_OUTPUT, JobRepository, Output
from inference_server.jobs.models import JOBS
from inference_server.jobs.task import ResultFile
from inference_server.settings import Settings

_KIND, _ANSWER = "visual", b"x" * 1220
"""An answer as long as that of a click (`overhead`)."""
_PAYLOAD = b"x" * 100_000
_CONNECTIONS = 4
"""As many as a server keeps open."""
_RATE = "100000/s"


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def _postgresql() -> Iterator[tuple[str, psutil.Process]]:
    """A PostgreSQL of our own, which does not wait for the disk: its URL and its process."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True)
    on_path = shutil.which("pg_ctl")
    if not on_path and not found:
        raise RuntimeError("PostgreSQL is not installed: apt-get install postgresql")
    program = Path(on_path or found[0]).resolve()
    root = os.getuid() == 0  # as whom it refuses to run
    user = "postgres" if root and any(e.pw_name == "postgres" for e in pwd.getpwall()) else None
    port = _port()
    with tempfile.TemporaryDirectory(prefix="pg") as directory:
        if user:
            shutil.chown(directory, user)

        def run(*command: str) -> None:
            # Not captured: the server would keep a pipe open.
            subprocess.run(  # noqa: S603 - its own words
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
    """A Redis of our own, in memory alone."""
    program, port = shutil.which("redis-server"), _port()
    if program is None:
        raise RuntimeError("Redis is not installed: apt-get install redis-server")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - its own words
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
    """Seconds of the processor that a server and its children have used."""
    all_ = [process, *process.children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in all_)


def _measured(
    work: Callable[[], object], count: int, process: psutil.Process
) -> tuple[float, float]:
    """Do something, several at a time, and each once more before: (a second, its CPU seconds)."""
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
        "a second here": rate,
        "CPU of the server (ms)": 1e3 * cpu,
        "a second for each of its cores": 1 / max(cpu, 1e-6),
    }


def _jobs(url: str, process: psutil.Process, count: int, kept: Sequence[int]) -> list[Table]:
    """Jobs and credits; then jobs beside more and more results that are kept."""
    database = Database(Path(), url)
    settings = Settings(job_queue_size=10**6, job_queue_per_key=10**6, job_storage_mb=10**6)
    store, keys = JobRepository(database, settings), KeyRepository(database)
    charge = Charge(keys.create("bench", credits=10**9)[1].id, 1, day_of())
    output = Output((ResultFile(JSON_OUTPUT, "application/json", _ANSWER),), 0.1)

    def submit() -> None:
        store.submit("tenant", _KIND, _PAYLOAD)

    def answer() -> None:
        claim = store.claim("owner", [_KIND])
        if claim is None or not store.finish(claim.lease, output):
            raise RuntimeError("a job is missing")

    works: Mapping[str, Callable[[], object]] = {
        "accept a job": submit,
        "claim a job and end it": answer,  # those that were accepted just before
        "look for a job where there is none": lambda: store.claim("owner", [_KIND]),
        "take a credit, of one key": lambda: keys.take(charge),
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
        growing.append({"results that are kept": results, **_row(*accepting)})
    database.close()
    return [Table("Jobs and credits", rows), Table("Accepting jobs", growing)]


def _keep(database: Database, number: int, count: int) -> None:
    """Results as they are kept until they are forgotten."""
    done = {"tenant": "other", "kind": _KIND, "status": "COMPLETED", "token": 1, "attempts": 1}
    done |= {"created": time.time(), "expires": time.time() + 3600, "nbytes": len(_ANSWER)}
    with database.writing() as connection:
        connection.execute(
            insert(JOBS), [done | {"id": f"{number:02x}{n:030x}"} for n in range(count)]
        )


async def _counts(url: str, count: int, tasks: int) -> float:
    """Requests counted a second by one process."""
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
    """Rates, and what they take of the one core that Redis uses."""
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
                "Redis": f"count a request, {tasks} at a time",
                **_row(rate, cpu),
            }
        )
    client.close()
    return Table(f"Rates, {_RATE}", rows)


def run(small: bool) -> Report:
    """Ask both as servers do, from one process.

    Args:
        small: little of it.
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
            "A PostgreSQL that does not wait for the disk (`fsync=off`) and a Redis in memory, "
            "both on the machine that asks, and that may have other work: what they take of the "
            "processor is what counts. A disk's time for a commit comes on top; accepting a job, "
            f"claiming it, ending it and taking credits are one each. {_CONNECTIONS} threads ask. "
            f"Requests of {len(_PAYLOAD):,} bytes, answers of {len(_ANSWER):,}.",
        ],
    )
