"""Real servers in processes of their own, cheap clients of them, and what both cost.

The clients share the machine with the server, so they do as little as clients can: a kept
connection, a body that was written before, and no look at the answer unless it is asked for.
"""

from __future__ import annotations

import base64
import ctypes
import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import click
import cv2
import orjson
from prometheus_client.parser import text_string_to_metric_families

from inference_server.bench.timing import Timing
from inference_server.demo.scenes import make_scene

SEGMENT = "/sam2/segment_image"
EMBED = "/sam2/embed_image"
CONCEPT = "/sam3/concept_segment"

CORES = os.cpu_count() or 1
ROOT = Path(__file__).parents[1]

_START_SECONDS = 300.0
_STOP_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer.

    Attributes:
        headers: by their names in lower case.
        body: as sent.
    """

    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)

    @property
    def stages(self) -> dict[str, float]:
        """The header `server-timing`: milliseconds by stage."""
        parts = re.findall(r"([\w-]+);dur=([\d.]+)", self.headers.get("server-timing", ""))
        return {stage: float(duration) for stage, duration in parts}


class Client:
    """One kept connection; for one thread. Use it in a `with` statement."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def post(self, path: str, body: bytes) -> Answer:
        """Send JSON.

        Raises:
            RuntimeError: the status is not 200.
        """
        return self._well(path, *self.ask("POST", path, body))

    def get(self, path: str) -> Answer:
        """Fetch.

        Raises:
            RuntimeError: the status is not 200.
        """
        return self._well(path, *self.ask("GET", path))

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Answer]:
        """Send JSON or nothing; the status and the answer, whatever it is."""
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            response = self._response(method, path, body, headers)
        except ConnectionError:  # idle for some seconds, and closed by the server
            self._connection.close()
            response = self._response(method, path, body, headers)
        content = response.read()
        named = {name.lower(): value for name, value in response.getheaders()}
        return response.status, Answer(named, content)

    def _response(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        self._connection.request(method, path, body, headers)
        return self._connection.getresponse()

    @staticmethod
    def _well(path: str, status: int, answer: Answer) -> Answer:
        if status != 200:
            raise RuntimeError(f"{path}: {status} {answer.body[:500]!r}")
        return answer


@dataclass(slots=True)
class Server:
    """A server that runs in a process of its own. What it costs is read from Linux's `/proc`.

    Attributes:
        url: where it listens.
        pid: of its process.
        start: seconds from the start of the process until it was ready.
        log: what it printed.
    """

    url: str
    pid: int
    start: float
    log: Path

    def client(self) -> Client:
        """A new connection to it."""
        return Client(self.url)

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all its threads so far, also of those that have ended."""
        text = Path(f"/proc/{self.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident(self) -> int:
        """Resident memory in bytes."""
        return self._status("VmRSS")

    @property
    def peak_resident(self) -> int:
        """The most resident memory since `reset_peak`, in bytes."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        """Let the peak begin anew at what is resident now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise ValueError(name)

    def metric(self, name: str) -> float:
        """The sum of a Prometheus metric's samples."""
        with self.client() as client:
            text = client.get("/metrics").body.decode()
        families = text_string_to_metric_families(text)
        return sum(s.value for family in families for s in family.samples if s.name == name)


@contextmanager
def process(
    arguments: Sequence[str], *, label: str, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run a Python module that serves, until the block is left.

    It must print `on http://HOST:PORT` once it listens, and answer `/readyz` with 200 when it is
    ready. It is ended whatever happens, also if this process is killed (on Linux).

    Args:
        arguments: of Python.
        label: for the line that shows how far it is.
        environment: variables to add; settings of the server are otherwise left out.

    Raises:
        RuntimeError: it ended, or was not ready in time; the message holds its log.
    """
    variables = {k: v for k, v in os.environ.items() if not k.startswith("INFERENCE_")}
    variables.update(environment or {})
    with tempfile.TemporaryDirectory() as directory:
        # Not those of a server that runs here.
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

    return subprocess.Popen(  # noqa: S603 - what this module puts together
        command,
        cwd=ROOT,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        preexec_fn=die_with_parent,
    )


def _ready(running: subprocess.Popen[bytes], log: Path, label: str, begin: float) -> str:
    """Wait until the server answers `/readyz`; its address."""
    shown = 0.0
    while (waited := time.perf_counter() - begin) < _START_SECONDS:
        text = log.read_text("utf-8", "replace")
        if running.poll() is not None:
            raise RuntimeError(f"{label} ended with {running.returncode}:\n{text}")
        found = re.search(r"on (http://\S+:\d+)", text)
        state = _state(found[1]) if found else ""
        if found and state == "ok":
            click.echo(f"  {label}: ready after {waited:.1f} s", err=True)
            return found[1]
        if state == "failed":
            raise RuntimeError(f"{label} cannot become ready:\n{text}")
        if waited - shown >= 5:
            shown = waited
            click.echo(f"  {label}: starting, {waited:.0f} s", err=True)
        time.sleep(0.02)
    raise RuntimeError(f"{label} was not ready in time:\n{log.read_text('utf-8', 'replace')}")


def _state(url: str) -> str:
    """What `/readyz` says: `ok`, `loading` or `failed`; empty where nobody answers yet."""
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
    """This project's server, as `inference-server serve` starts it, on the CPU without keys.

    Args:
        sam2_weights: the setting.
        options: of Python itself.
        cluster: serve on Ray.
        settings: others, by their names in lower case.
    """
    values = {"sam2_weights": sam2_weights, "auth": "off", "port": 0, "device": "cpu"}
    values |= {"log_level": "warning", "log_format": "text", **settings}
    environment = {f"INFERENCE_{name.upper()}": str(value) for name, value in values.items()}
    arguments = [*options, "-m", "inference_server.cli", "serve", *["--cluster"] * cluster]
    label = "cluster" if cluster else "server"
    with process(arguments, label=label, environment=environment) as server:
        yield server


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as clients send it.

    Attributes:
        size: (width, height) in pixels.
        jpeg: the file.
    """

    size: tuple[int, int]
    jpeg: bytes

    def unseen(self, number: int) -> Picture:
        """The same pixels in a file that no server can have seen: with another comment in it."""
        comment = f"{number}-{time.time_ns()}".encode()
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        return Picture(self.size, self.jpeg[:2] + segment + self.jpeg[2:])

    @property
    def field(self) -> dict[str, str]:
        """The `image` of a request."""
        return {"type": "base64", "value": base64.b64encode(self.jpeg).decode()}

    def at(self, share: tuple[float, float]) -> tuple[float, float]:
        """A point in pixels, by shares of the width and the height."""
        return share[0] * self.size[0], share[1] * self.size[1]


def picture(seed: int, size: tuple[int, int]) -> Picture:
    """A generated scene; the same arguments give the same file.

    Args:
        seed: of the scene.
        size: (width, height) in pixels.
    """
    image = make_scene(seed, size).image
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(size)
    return Picture(size, data.tobytes())


def click_body(
    version: str,
    point: tuple[float, float],
    *,
    image_id: str | None = None,
    image: Picture | None = None,
    form: str = "polygon",
) -> bytes:
    """A request for the mask at a point.

    Args:
        version: `sam2_version_id`.
        point: x, y in pixels.
        image_id: of the image.
        image: to send along.
        form: `polygon` or `rle`.
    """
    body: dict[str, Any] = {
        "prompts": [{"points": [{"x": point[0], "y": point[1], "positive": True}]}],
        "format": form,
        "sam2_version_id": version,
        "multimask_output": True,
    }
    return _with_image(body, image_id, image)


def embed_body(version: str, image: Picture, image_id: str | None = None) -> bytes:
    """A request that encodes an image."""
    return _with_image({"sam2_version_id": version}, image_id, image)


def _with_image(body: dict[str, Any], image_id: str | None, image: Picture | None) -> bytes:
    if image_id is not None:
        body["image_id"] = image_id
    if image is not None:
        body["image"] = image.field
    return orjson.dumps(body)


@dataclass(slots=True)
class Load:
    """What clients measured.

    Attributes:
        latencies: seconds of every request, in the order in which each client sent them.
        seconds: from the first request until the last answer.
    """

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def timing(self) -> Timing:
        """The latencies, ascending."""
        return Timing.of(self.latencies)

    @property
    def throughput(self) -> float:
        """Requests a second."""
        return len(self.latencies) / self.seconds


Bodies = Callable[[int, int], bytes]
"""The body of a request, from the client's number and the request's."""


def closed_loop(
    server: Server, path: str, body: Bodies, *, clients: int, seconds: float, warmup: float = 0.0
) -> Load:
    """Clients that each send a request as soon as the one before is answered.

    Args:
        server: that they ask.
        path: of all requests.
        body: of each; called between requests, so it should be cheap.
        clients: how many, each a thread with a connection.
        seconds: for so long their answers count.
        warmup: and for so long before that they do not.

    Raises:
        RuntimeError: a request was not answered with 200.
    """
    with Loop(server, path, body, clients=clients) as loop:
        time.sleep(warmup)
        return loop.measure(seconds)


class Loop:
    """Clients in a closed loop, from the beginning of the block to its end; see `closed_loop`."""

    def __init__(self, server: Server, path: str, body: Bodies, *, clients: int) -> None:
        self._server = server
        self._path = path
        self._body = body
        self._stop = threading.Event()
        self._done: list[list[tuple[float, float]]] = [[] for _ in range(clients)]
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._errors and kind is None:
            raise self._errors[0]

    def _run(self, number: int) -> None:
        try:
            with self._server.client() as client:
                count = 0
                while not self._stop.is_set():
                    body = self._body(number, count)
                    begin = time.perf_counter()
                    client.post(self._path, body)
                    self._done[number].append((begin, time.perf_counter()))
                    count += 1
        except BaseException as error:
            self._errors.append(error)
            self._stop.set()

    def since(self, begin: float) -> Load:
        """The requests that were answered since then (by `time.perf_counter`), until now."""
        now = time.perf_counter()
        finished = [pair for pairs in self._done for pair in list(pairs) if begin <= pair[1] <= now]
        return Load([end - start for start, end in finished], now - begin)

    def measure(self, seconds: float, *, least: int = 3) -> Load:
        """Watch for so many seconds, and until at least so many requests were answered.

        Raises:
            RuntimeError: a request was not answered with 200.
        """
        begin = time.perf_counter()
        while True:
            failed = self._stop.wait(seconds if time.perf_counter() - begin < seconds else 0.1)
            if failed:
                raise RuntimeError("a client failed") from next(iter(self._errors), None)
            load = self.since(begin)
            if len(load.latencies) >= least:
                return load
