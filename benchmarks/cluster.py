"""Cost of a request in a cluster, compared with one process; throughput by number of replicas."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from benchmarks import replicas
from benchmarks.http_client import Client
from benchmarks.overhead import padded
from benchmarks.processes import OTHERS, cpu_seconds, memory_bytes
from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.requests import EMBED, SEGMENT, click_body, embed_body, picture
from benchmarks.sam2_models import demo
from benchmarks.serving import CORES, Server, our_server

_VERSION = demo().version
_NAME = "cached"
_LIVE = "/livez"
_ONE, _CLUSTER = "one process", "cluster"
_PROBE, _CLICK, _CLICKS, _COLD = "probe", "cached click", "cached clicks", "cold image"
_PROCESSES = {
    "visual": "SAM 2 replica",
    "concept": "SAM 3 replica, not loaded",
    OTHERS: "other Ray processes",
}
_STAGES = {
    "model": ("queue", "decode-prompts"),
    "masks": ("masks",),
    "serialising the response": ("serialise",),
}


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        size: image size as (width, height) in pixels.
        sent: size of a cold image's file in bytes.
        rounds: rounds per kind of request; the two servers alternate.
        requests: requests per client and round.
        cold: cold images per round.
        clients: number of concurrent clients, where there are several.
        idle: seconds for measuring CPU time without requests.
        replicas: extent of the part with simulated models.
    """

    size: tuple[int, int]
    sent: int
    rounds: int
    requests: int
    cold: int
    clients: int
    idle: float
    replicas: replicas.Scale


FULL = Scale((1920, 1080), 1_000_000, 5, 40, 5, 4, 4.0, replicas.FULL)
SMALL = Scale((320, 180), 100_000, 2, 5, 2, 2, 0.5, replicas.SMALL)


@dataclass(slots=True)
class Cost:
    """Cost of one kind of request at one server.

    Attributes:
        latencies: latency of each request in seconds.
        seconds: duration of all rounds.
        cpu: CPU time of all rounds in seconds, by process.
        stages: duration of each request in milliseconds, by stage.
    """

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu: Counter[str] = field(default_factory=Counter)
    stages: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def wall(self) -> float:
        """Median latency in milliseconds."""
        return 1e3 * statistics.median(self.latencies)

    @property
    def throughput(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds

    def processor(self, idle: Mapping[str, float]) -> dict[str, float]:
        """Return CPU milliseconds per request by process, minus the idle consumption.

        Args:
            idle: CPU seconds per second without requests, by process.
        """
        return {
            role: 1e3 * (spent - idle.get(role, 0.0) * self.seconds) / len(self.latencies)
            for role, spent in self.cpu.items()
        }

    def stage(self, name: str) -> float:
        """Return the median duration of a stage in milliseconds; 0 for an unknown stage.

        Args:
            name: stage, as in `server-timing`.
        """
        return statistics.median(self.stages[name]) if self.stages.get(name) else 0.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request.

    Attributes:
        name: name in the tables.
        clients: number of concurrent clients.
        requests: requests per client and round.
        body: returns the next request's body; None for a liveness probe.
    """

    name: str
    clients: int
    requests: int
    body: Callable[[], bytes] | None

    def ask(self, client: Client) -> tuple[float, Mapping[str, float]]:
        """Send one request.

        Args:
            client: client that sends it.

        Returns:
            Latency in seconds, and milliseconds by stage.
        """
        body = self.body() if self.body else None
        begin = time.perf_counter()
        answer = client.get(_LIVE) if body is None else client.post(SEGMENT, body)
        return time.perf_counter() - begin, answer.stages


Costs = Mapping[tuple[str, str], Cost]
"""Costs by kind of request and server."""


def run(small: bool) -> Report:
    """Run the benchmark.

    Args:
        small: use the demo models and few rounds, for a run of a few seconds.
    """
    scale = SMALL if small else FULL
    load = os.getloadavg()[0]
    report = Report(
        "cluster",
        "Cluster: cost per request, and throughput by number of replicas",
        notes=[
            f"Ray with all replicas, the single process and the clients share {CORES} cores of one "
            "machine, without a network.",
            f"Side by side: `inference-server serve` and `serve --cluster` with one replica, both "
            f"with the demo SAM 2 and {CORES} threads, run at the same time and get "
            f"requests alternately, in {scale.rounds} rounds. Cached clicks send an `image_id`; a "
            f"cold image is a JPEG of {scale.sent / 1e6:g} MB, {scale.size[0]} x "
            f"{scale.size[1]}, in the request. Milliseconds are medians; CPU time is that of all "
            "processes of a server, minus their idle consumption.",
        ],
    )
    _side_by_side(report, scale)
    spent, more = scale.replicas.costs, scale.replicas
    report.notes.append(
        f"More replicas: **the model's cost is simulated**. An image takes {1e3 * spent.encode:g} "
        f"ms and a prompt {1e3 * spent.decode:g} ms of sleep, at half speed while a replica does "
        "both; everything else is real. Each replica has "
        f"{more.clients} clients; each clicks {more.clicks} times on an image, one request after "
        "another, and then takes a new image. Caches hold all images. `ring` is this server's "
        "router; `default` is Ray Serve's, which picks the less busy of two random replicas. "
        "Clients start together and are measured soon after, so more than one in "
        f"{more.clicks} requests has a new image, which lowers the hit rate ceiling."
    )
    replicas.add_to(report, scale.replicas)
    report.notes.append(_quiet(load, os.getloadavg()[0]))
    return report


def _quiet(before: float, after: float) -> str:
    return (
        f"The machine's load average was {before:.1f} at the start and {after:.1f} at the end. A "
        "high value at the start is other work, which slows both servers."
    )


def _side_by_side(report: Report, scale: Scale) -> None:
    """Measure one process and a cluster alternately."""
    start = partial(our_server, "demo", threads=CORES, preload=f"sam2:{_VERSION}")
    kinds = _kinds(scale)
    costs = {(kind.name, who): Cost() for kind in kinds for who in (_ONE, _CLUSTER)}
    with ExitStack() as stack:
        servers = {
            _ONE: stack.enter_context(start()),
            _CLUSTER: stack.enter_context(start(cluster=True)),
        }
        image = picture(1, scale.size)
        for server in servers.values():
            with server.client() as client:
                client.post(EMBED, embed_body(_VERSION, image, _NAME))
            for kind in kinds:
                _round(server, kind, Cost())
        idle = _idle(servers, scale.idle)
        for number in range(scale.rounds):
            for kind in kinds:
                order = [_ONE, _CLUSTER] if number % 2 else [_CLUSTER, _ONE]
                for who in order:
                    _round(servers[who], kind, costs[kind.name, who])
        memory = {who: memory_bytes(server.pid) for who, server in servers.items()}
    report.tables += [
        _requests(kinds, costs, idle),
        _milliseconds(costs),
        _processes(costs, idle, memory),
    ]
    report.goals += goals(report.tables[0].rows)


def goals(rows: Sequence[Mapping[str, Cell]]) -> list[Goal]:
    """Return the targets for a cluster's overhead.

    Args:
        rows: rows of the table of requests.
    """
    figures = {str(row["request"]): row for row in rows}

    def goal(what: str, kind: str, column: str, unit: str, bound: float) -> Goal:
        return Goal(what, float(figures[kind][column]), bound, "at most", unit)

    return [
        goal("a probe of a cluster", _PROBE, "cluster (ms)", "ms", 1.0),
        goal("a cached click, more than one process", _CLICK, "difference (ms)", "ms", 5.0),
        goal("CPU of a cached click relative to one process", _CLICK, "CPU ratio", "x", 1.5),
        goal("a cold image relative to one process", _COLD, "ratio", "x", 1.15),
    ]


def _kinds(scale: Scale) -> list[Kind]:
    image = picture(1, scale.size)
    big = padded(image, scale.sent)
    point = image.at((0.5, 0.5))
    cached = click_body(_VERSION, point, image_id=_NAME)
    numbers = count()

    def unseen() -> bytes:
        return click_body(_VERSION, point, image=big.unseen(next(numbers)))

    return [
        Kind(_PROBE, 1, scale.requests, None),
        Kind(_CLICK, 1, scale.requests, lambda: cached),
        Kind(_CLICKS, scale.clients, scale.requests, lambda: cached),
        Kind(_COLD, 1, scale.cold, unseen),
    ]


def _round(server: Server, kind: Kind, cost: Cost) -> None:
    """Let clients send their requests, and add the cost."""
    connected, begun = threading.Barrier(kind.clients + 1), threading.Event()

    def work() -> list[tuple[float, Mapping[str, float]]]:
        with server.client() as client:
            client.get(_LIVE)
            connected.wait()
            begun.wait()
            return [kind.ask(client) for _ in range(kind.requests)]

    with ThreadPoolExecutor(kind.clients) as pool:
        working = [pool.submit(work) for _ in range(kind.clients)]
        connected.wait()
        before, begin = cpu_seconds(server.pid), time.perf_counter()
        begun.set()
        asked = [each for done in working for each in done.result()]
        cost.seconds += time.perf_counter() - begin
        after = cpu_seconds(server.pid)
    for role in after:
        cost.cpu[role] += after[role] - before[role]
    for seconds, stages in asked:
        cost.latencies.append(seconds)
        for stage, duration in stages.items():
            cost.stages[stage].append(duration)


def _idle(servers: Mapping[str, Server], seconds: float) -> dict[str, dict[str, float]]:
    """Return the CPU seconds per second of idle servers, by process."""
    before = {who: cpu_seconds(server.pid) for who, server in servers.items()}
    time.sleep(seconds)
    after = {who: cpu_seconds(server.pid) for who, server in servers.items()}
    return {
        who: {role: (spent - before[who][role]) / seconds for role, spent in roles.items()}
        for who, roles in after.items()
    }


def _requests(kinds: Sequence[Kind], costs: Costs, idle: Mapping[str, dict[str, float]]) -> Table:
    rows: list[dict[str, Cell]] = []
    for kind in kinds:
        one, cluster = costs[kind.name, _ONE], costs[kind.name, _CLUSTER]
        spent = {
            who: sum(costs[kind.name, who].processor(idle[who]).values())
            for who in (_ONE, _CLUSTER)
        }
        # Linux counts in hundredths of a second, so a few requests may show 0.
        rows.append(
            {
                "request": kind.name,
                "clients": kind.clients,
                "requests": len(one.latencies),
                "one process (ms)": one.wall,
                "cluster (ms)": cluster.wall,
                "difference (ms)": cluster.wall - one.wall,
                "ratio": cluster.wall / one.wall,
                "one process, CPU (ms)": spent[_ONE],
                "cluster, CPU (ms)": spent[_CLUSTER],
                "CPU difference (ms)": spent[_CLUSTER] - spent[_ONE],
                "CPU ratio": spent[_CLUSTER] / max(spent[_ONE], 10 / len(one.latencies)),
                "one process, requests per second": one.throughput,
                "cluster, requests per second": cluster.throughput,
            }
        )
    return Table("One request, side by side", rows)


def _milliseconds(costs: Costs) -> Table:
    """Break down a cached click of one client: in the engine's process, and on the way."""
    rows: list[dict[str, Cell]] = []
    told = {who: costs[_CLICK, who] for who in (_ONE, _CLUSTER)}
    spent = {
        name: {who: sum(map(cost.stage, stages)) for who, cost in told.items()}
        for name, stages in _STAGES.items()
    }
    probe = {who: costs[_PROBE, who].wall for who in (_ONE, _CLUSTER)}
    spent["HTTP (a probe)"] = probe
    spent["the rest: parsing the request and, in a cluster, the way to the replica and back"] = {
        who: cost.wall - sum(part[who] for part in spent.values()) for who, cost in told.items()
    }
    spent["total"] = {who: cost.wall for who, cost in told.items()}
    for name, part in spent.items():
        one, cluster = part[_ONE], part[_CLUSTER]
        rows.append(
            {
                "part": name,
                "one process (ms)": one,
                "cluster (ms)": cluster,
                "difference (ms)": cluster - one,
            }
        )
    return Table("Breakdown of a cached click, one client", rows)


def _processes(
    costs: Costs,
    idle: Mapping[str, dict[str, float]],
    memory: Mapping[str, Mapping[str, int]],
) -> Table:
    rows: list[dict[str, Cell]] = []
    for who in (_ONE, _CLUSTER):
        click, clicks = (costs[kind, who].processor(idle[who]) for kind in (_CLICK, _CLICKS))
        for role in sorted(memory[who], key=lambda role: (role == OTHERS, role)):
            row: dict[str, Cell] = {
                "server": who,
                "process": "server" if who == _ONE else _PROCESSES.get(role, role),
                "CPU per click, one client (ms)": click.get(role, 0.0),
                "CPU per click, several clients (ms)": clicks.get(role, 0.0),
                "CPU when idle (ms per second)": 1e3 * idle[who].get(role, 0.0),
                "memory (MB)": round(memory[who][role] / 1e6),
            }
            rows.append(row)
    return Table("CPU time and memory by process", rows)
