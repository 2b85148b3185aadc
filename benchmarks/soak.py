"""Mixed traffic to all endpoints at several times capacity, with every response checked.

Each response is compared with the shapes drawn on its image, so lost, duplicate and swapped
responses are detected. Only images that the model segments correctly without load are used.
"""

from __future__ import annotations

import io
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np

from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.serving import Server, our_server
from benchmarks.traffic import KINDS, HungUp, Kind, Sample, samples

PROMISED = {200, 429, 504}
"""Statuses that an overloaded server may return."""

_MB = 1_000_000
_SAMPLE_SECONDS = 0.5
_PROBE_PAUSE = 0.05
_PROBES = ("/livez", "/readyz", "/metrics")
_GROWTH = 1.10


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        seconds: duration of the traffic.
        images: number of images that all clients share.
        clients: number of concurrent clients.
        settings: settings of the server by lower-case name, low enough to reach all limits.
    """

    seconds: float
    images: int
    clients: int
    settings: dict[str, str | int]


_BOUNDS: dict[str, str | int] = {
    "queue_size": 6,
    "max_requests": 24,
    "request_timeout": 20,
    "embedding_cache_mb": 48,
    "image_cache_mb": 16,
    "logits_cache_mb": 4,
    "job_queue_size": 16,
    "job_retention": 30,
    "job_attempts": 50,
    "job_retry_pause": 1,
}
FULL = Scale(seconds=240.0, images=10, clients=48, settings=_BOUNDS)
SMALL = Scale(seconds=5.0, images=2, clients=12, settings={**_BOUNDS, "max_requests": 6})


@dataclass
class Tally:
    """Responses to all clients.

    Attributes:
        seconds: latencies of responses with 200 in seconds, by kind.
        statuses: counts by kind and status; 0 means that the client cancelled.
        wrong: responses for the wrong image, as text.
        strange: undocumented statuses and failures, as text.
        identities: counts by request id.
        accepted: number of accepted jobs.
        lock: guards all attributes.
    """

    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    wrong: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    identities: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, answer: httpx.Response, seconds: float) -> None:
        """Count a response.

        Args:
            kind: kind of request.
            answer: the response.
            seconds: latency.
        """
        with self.lock:
            self.statuses[kind][answer.status_code] += 1
            identity = answer.headers.get("x-request-id", "")
            self.identities[identity] += 1
            if answer.status_code == 200:
                self.seconds[kind].append(seconds)
            if answer.status_code not in PROMISED or not identity:
                self.strange.append(f"{kind}: {answer.status_code} {answer.text[:200]}")
            elif answer.status_code == 429 and "retry-after" not in answer.headers:
                self.strange.append(f"{kind}: 429 without Retry-After")


class Traffic:
    """Clients, probes, and sampling of the server's memory.

    Args:
        server: server under load.
        asked: images to ask about.
        scale: extent of the run.
    """

    def __init__(self, server: Server, asked: Sequence[Sample], scale: Scale) -> None:
        self._server = server
        self._asked = asked
        self._scale = scale
        self._over = threading.Event()
        self.tally = Tally()
        self.memory: list[tuple[float, int]] = []

    def run(self) -> None:
        """Run until the time is over."""
        workers = [
            threading.Thread(target=self._client, args=(number,))
            for number in range(self._scale.clients)
        ]
        workers += [threading.Thread(target=self._probe, args=(path,)) for path in _PROBES]
        workers.append(threading.Thread(target=self._watch))
        for worker in workers:
            worker.start()
        time.sleep(self._scale.seconds)
        self._over.set()
        for worker in workers:
            worker.join()

    def _client(self, number: int) -> None:
        chance = np.random.default_rng(number)
        weights = np.array([kind.weight for kind in KINDS])
        http = httpx.Client(base_url=self._server.url, timeout=120)
        with http:
            for turn in range(10**9):
                if self._over.is_set():
                    return
                kind = KINDS[int(chance.choice(len(KINDS), p=weights / weights.sum()))]
                sample = self._asked[int(chance.integers(len(self._asked)))]
                try:
                    self._ask(http, kind, sample, number * 10**6 + turn)
                except HungUp:
                    with self.tally.lock:
                        self.tally.statuses[kind.name][0] += 1
                except Exception as error:
                    with self.tally.lock:
                        self.tally.strange.append(f"{kind.name}: {error!r}")

    def _ask(self, http: httpx.Client, kind: Kind, sample: Sample, turn: int) -> None:
        begin = time.perf_counter()
        answer = kind.send(http, sample, turn)
        self.tally.note(kind.name, answer, time.perf_counter() - begin)
        if answer.status_code == 429:
            self._over.wait(min(0.5, float(answer.headers.get("retry-after", 1))))
        if answer.status_code != 200:
            return
        if kind.is_job:
            with self.tally.lock:
                self.tally.accepted += 1
        if not kind.right(http, answer, sample):
            with self.tally.lock:
                self.tally.wrong.append(f"{kind.name}: {sample.name}")

    def _probe(self, path: str) -> None:
        with httpx.Client(base_url=self._server.url, timeout=60) as http:
            while not self._over.wait(_PROBE_PAUSE):
                begin = time.perf_counter()
                try:
                    answer = http.get(path)
                except httpx.HTTPError as error:
                    with self.tally.lock:
                        self.tally.strange.append(f"GET {path}: {error!r}")
                else:
                    self.tally.note(f"GET {path}", answer, time.perf_counter() - begin)

    def _watch(self) -> None:
        begin = time.perf_counter()
        while True:
            self.memory.append((time.perf_counter() - begin, self._server.resident))
            if self._over.wait(_SAMPLE_SECONDS):
                return


def right_alone(server: Server, count: int) -> list[Sample]:
    """Find images that the model segments correctly with every kind of request.

    Args:
        server: idle server.
        count: number of images.
    """
    chosen = []
    with httpx.Client(base_url=server.url, timeout=120) as http:
        for sample in samples():
            for kind in KINDS:
                try:
                    answer = kind.send(http, sample, -1)
                except HungUp:
                    continue
                if answer.status_code != 200 or not kind.right(http, answer, sample):
                    break
            else:
                chosen.append(sample)
            if len(chosen) == count:
                break
    return chosen


def run(small: bool, seconds: float | None = None) -> Report:
    """Run the benchmark.

    Args:
        small: use few clients and images, for a run of a few seconds.
        seconds: duration of the traffic. Default: 240, or 5 if small.
    """
    scale = SMALL if small else FULL
    if seconds is not None:
        scale = Scale(seconds, scale.images, scale.clients, scale.settings)
    with our_server("demo", options=(), cluster=False, **scale.settings) as server:
        asked = right_alone(server, scale.images)
        before = _settled(server)
        traffic = Traffic(server, asked, scale)
        traffic.run()
        jobs = _settled(server) - before
    return _report(scale, traffic, jobs)


def _settled(server: Server) -> int:
    """Return the number of completed jobs; the metric lags slightly behind the job status."""
    known = -1
    while (count := _completed(server)) != known:
        known = count
        time.sleep(0.5)
    return count


def _completed(server: Server) -> int:
    with server.client() as client:
        text = client.get("/metrics").body.decode()
    lines = [line for line in text.splitlines() if line.startswith("inference_jobs_total{")]
    return round(sum(float(line.split()[-1]) for line in lines if '"completed"' in line))


def _report(scale: Scale, traffic: Traffic, jobs: int) -> Report:
    tally = traffic.tally
    report = Report(
        "soak",
        "Mixed traffic at several times capacity",
        notes=[
            f"{scale.clients} clients for {scale.seconds:g} seconds; each sends one request after "
            f"another, of a random kind about one of {scale.images} images. Three more clients "
            "request `/livez`, `/readyz` and `/metrics` twenty times per second. Demo models; "
            "clients and server share the cores. Limits are low, so that all of them are reached: "
            + ", ".join(f"`INFERENCE_{k.upper()}={v}`" for k, v in scale.settings.items())
            + ".",
            "Each response is decoded and compared with the shapes drawn on its image; the IoU "
            "must be at least 0.5. Milliseconds are the clients' latencies of responses with 200.",
        ],
    )
    report.tables.append(Table("Responses", _rows(tally)))
    report.tables.append(Table("Resident memory", _memory_rows(traffic.memory)))
    report.pictures["soak.png"] = _plot(traffic.memory)
    total = sum(sum(counts.values()) for counts in tally.statuses.values())
    refused = sum(c[429] + c[504] for c in tally.statuses.values())
    twice = sum(count - 1 for count in tally.identities.values())
    report.goals += [
        Goal("responses for the wrong image", len(tally.wrong), 0, "at most", ""),
        Goal("undocumented statuses and failures", len(tally.strange), 0, "at most", ""),
        Goal("duplicate responses", twice, 0, "at most", ""),
        Goal("responses", total, 100 if scale is not SMALL else 20, "at least", ""),
        Goal("refused requests (429 or 504)", refused, 1, "at least", ""),
        Goal("jobs lost or run twice", abs(jobs - tally.accepted), 0, "at most", ""),
        Goal(
            "memory, last quarter relative to the second",
            _growth(traffic.memory),
            _GROWTH,
            "at most",
            "x",
        ),
    ]
    for trouble in (tally.wrong + tally.strange)[:10]:
        report.notes.append(f"Failure: {trouble}")
    return report


def _rows(tally: Tally) -> list[dict[str, Cell]]:
    rows = []
    for kind in sorted(tally.statuses):
        counts, seconds = tally.statuses[kind], sorted(tally.seconds[kind])
        row: dict[str, Cell] = {"request": kind, "200": counts[200], "429": counts[429]}
        row |= {"504": counts[504], "cancelled": counts[0]}
        row["other"] = sum(n for status, n in counts.items() if status not in {0, *PROMISED})
        row["p50 (ms)"] = _percentile(seconds, 0.5)
        row["p99 (ms)"] = _percentile(seconds, 0.99)
        rows.append(row)
    return rows


def _percentile(ascending: Sequence[float], share: float) -> Cell:
    if not ascending:
        return "-"
    return 1e3 * ascending[min(len(ascending) - 1, int(share * len(ascending)))]


def _memory_rows(memory: Sequence[tuple[float, int]]) -> list[dict[str, Cell]]:
    step = max(1, len(memory) // 12)
    return [
        {"seconds": round(seconds), "MB": round(nbytes / _MB)} for seconds, nbytes in memory[::step]
    ]


def _growth(memory: Sequence[tuple[float, int]]) -> float:
    """Return the memory of the last quarter relative to the second, when caches are full."""
    quarter = max(1, len(memory) // 4)
    values = [nbytes for _, nbytes in memory]
    return float(np.mean(values[-quarter:]) / np.mean(values[quarter : 2 * quarter] or values))


def _plot(memory: Sequence[tuple[float, int]]) -> bytes:
    """Plot resident memory over time, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([seconds for seconds, _ in memory], [nbytes / _MB for _, nbytes in memory])
    axes.set(
        xlabel="seconds",
        ylabel="resident MB",
        ylim=(0, 1.2 * max(nbytes / _MB for _, nbytes in memory)),
    )
    axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
