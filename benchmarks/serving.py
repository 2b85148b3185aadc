"""Servers in their own processes, and their cost in CPU time and memory."""

from __future__ import annotations

import ctypes
import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click
import orjson
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.http_client import Client

CORES = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
ROOT = Path(__file__).parents[1]

_START_SECONDS = 300.0
_STOP_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Server:
    """A server in its own process; costs are read from `/proc` (Linux only).

    Attributes:
        url: address, `http://HOST:PORT`.
        pid: process id.
        start: seconds from the start of the process until it was ready.
        log: file with its output.
    """

    url: str
    pid: int
    start: float
    log: Path

    def client(self) -> Client:
        """Open a connection."""
        return Client(self.url)

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all its threads so far, including finished ones."""
        text = Path(f"/proc/{self.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident(self) -> int:
        """Resident memory in bytes."""
        return self._status("VmRSS")

    @property
    def peak_resident(self) -> int:
        """Peak resident memory since `reset_peak`, in bytes."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        """Reset the peak to the current resident memory."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise ValueError(name)

    def metric(self, name: str) -> float:
        """Return the sum of a Prometheus metric's samples.

        Args:
            name: name of the samples.
        """
        with self.client() as client:
            text = client.get("/metrics").body.decode()
        families = text_string_to_metric_families(text)
        return sum(s.value for family in families for s in family.samples if s.name == name)


@contextmanager
def process(
    arguments: Sequence[str], *, label: str, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run a server in a Python process while the context is open.

    The server must print `on http://HOST:PORT` once it listens, and return 200 from `/readyz` when
    it is ready. The process is terminated at the end, on Linux also if this process is killed.

    Args:
        arguments: command-line arguments of Python.
        label: name in progress messages.
        environment: additional variables; `INFERENCE_*` variables are not inherited. Default: none.

    Raises:
        RuntimeError: The process exited or was not ready in time; the message has its log.
    """
    variables = {k: v for k, v in os.environ.items() if not k.startswith("INFERENCE_")}
    variables.update(environment or {})
    with tempfile.TemporaryDirectory() as directory:
        # Must not be the data of another server on this machine.
        variables.setdefault("INFERENCE_DATA_DIR", f"{directory}/data")
        log = Path(directory) / "log"
        with log.open("wb") as output:
            begin = time.perf_counter()
            running = _spawn([sys.executable, *arguments], variables, output)
            try:
                url = _ready(running, log, label, begin)
                yield Server(url, running.pid, time.perf_counter() - begin, log)
            finally:
                _end(running)


def _spawn(
    command: Sequence[str], variables: Mapping[str, str], output: IO[bytes]
) -> subprocess.Popen[bytes]:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def die_with_parent() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return subprocess.Popen(  # noqa: S603 - a command built by this module
        command,
        cwd=ROOT,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        preexec_fn=die_with_parent,
    )


def _ready(running: subprocess.Popen[bytes], log: Path, label: str, begin: float) -> str:
    """Wait until the server is ready; return its address."""
    shown = 0.0
    while (waited := time.perf_counter() - begin) < _START_SECONDS:
        text = log.read_text("utf-8", "replace")
        if running.poll() is not None:
            raise RuntimeError(f"{label} exited with code {running.returncode}:\n{text}")
        found = re.search(r"on (http://\S+:\d+)", text)
        state = _state(found[1]) if found else ""
        if found and state == "ok":
            click.echo(f"  {label}: ready after {waited:.1f} s", err=True)
            return found[1]
        if state == "failed":
            raise RuntimeError(f"{label} failed to load:\n{text}")
        if waited - shown >= 5:
            shown = waited
            click.echo(f"  {label}: starting, {waited:.0f} s", err=True)
        time.sleep(0.02)
    raise RuntimeError(f"{label} was not ready in time:\n{log.read_text('utf-8', 'replace')}")


def _state(url: str) -> str:
    """Return the state from `/readyz`: `ok`, `loading` or `failed`; empty if unreachable."""
    try:
        with Client(url) as client:
            return str(orjson.loads(client.ask("GET", "/readyz")[1].body)["status"])
    except (OSError, http.client.HTTPException):
        return ""


def _end(running: subprocess.Popen[bytes]) -> None:
    running.terminate()
    try:
        running.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()


@contextmanager
def our_server(
    sam2_weights: str, *, options: Sequence[str] = (), cluster: bool = False, **settings: str | int
) -> Iterator[Server]:
    """Run `inference-server serve` on the CPU in float32, without authentication.

    Args:
        sam2_weights: value of `INFERENCE_SAM2_WEIGHTS`.
        options: options of the Python interpreter. Default: none.
        cluster: serve on Ray. Default: one process.
        settings: further settings by lower-case name, also others than those above.
    """
    values = {"sam2_weights": sam2_weights, "auth": "off", "port": 0, "device": "cpu"}
    values |= {"dtype": "float32"}  # as the references; on some machines `auto` is bfloat16
    values |= {"log_level": "warning", "log_format": "text", **settings}
    environment = {f"INFERENCE_{name.upper()}": str(value) for name, value in values.items()}
    arguments = [*options, "-m", "inference_server.cli", "serve", *["--cluster"] * cluster]
    label = "cluster" if cluster else "server"
    with process(arguments, label=label, environment=environment) as server:
        yield server
