"""What a cluster costs a request, next to one process; and what more replicas bring."""

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
from benchmarks.overhead import padded
from benchmarks.processes import OTHERS, cpu_seconds, memory_bytes
from benchmarks.report import Cell, Report, Table
from benchmarks.sam2_models import demo
from benchmarks.serving import (
    CORES,
    EMBED,
    SEGMENT,
    Client,
    Server,
    click_body,
    embed_body,
    our_server,
    picture,
)

_VERSION = demo().version
_NAME = "cached"
_LIVE = "/livez"
_ONE, _CLUSTER = "one process", "cluster"
_PROBE, _CLICK, _CLICKS, _COLD = "probe", "cached click", "cached clicks", "cold image"
_PROCESSES = {
    "visual": "replica of SAM 2",
    "concept": "replica of SAM 3, not loaded",
    OTHERS: "others of Ray",
}
_STAGES = {
    "the model": ("queue", "decode-prompts"),
    "masks": ("masks",),
    "writing the answer": ("serialise",),
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        size: (width, height) of the images.
        sent: bytes of the file of a cold image.
        rounds: that each kind of request is sent in, to the one server and to the other in turns.
        requests: of each client in a round.
        cold: cold images in a round.
        clients: how many there are where there are a few.
        idle: seconds for which nothing is asked.
        replicas: the rest of the benchmark.
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
    """What requests of a kind cost at a server.

    Attributes:
        latencies: seconds of each.
        seconds: of all rounds together.
        cpu: processor time in seconds by process, of all rounds together.
        stages: milliseconds by stage, of each request.
    """

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu: Counter[str] = field(default_factory=Counter)
    stages: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def wall(self) -> float:
        """Median of the latencies, in ms."""
        return 1e3 * statistics.median(self.latencies)

    @property
    def throughput(self) -> float:
        """Requests a second."""
        return len(self.latencies) / self.seconds

    def processor(self, idle: Mapping[str, float]) -> dict[str, float]:
        """Milliseconds of the processor a request by process, beyond what runs anyway.

        Args:
            idle: seconds of the processor in a second without requests, by process.
        """
        return {
            role: 1e3 * (spent - idle.get(role, 0.0) * self.seconds) / len(self.latencies)
            for role, spent in self.cpu.items()
        }

    def stage(self, name: str) -> float:
        """Median of a stage's durations, in ms; 0 where there was no such stage."""
        return statistics.median(self.stages[name]) if self.stages.get(name) else 0.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request.

    Attributes:
        name: for people.
        clients: that send such requests at a time.
        requests: of each client in a round.
        body: of the next one; None to ask whether the server lives.
    """

    name: str
    clients: int
    requests: int
    body: Callable[[], bytes] | None

    def ask(self, client: Client) -> tuple[float, Mapping[str, float]]:
        """Send one; seconds until its answer, and milliseconds by stage."""
        body = self.body() if self.body else None
        begin = time.perf_counter()
        answer = client.get(_LIVE) if body is None else client.post(SEGMENT, body)
        return time.perf_counter() - begin, answer.stages


Costs = Mapping[tuple[str, str], Cost]
"""By the kind of request, and who was asked."""


def run(small: bool) -> Report:
    """Measure it."""
    scale = SMALL if small else FULL
    load = os.getloadavg()[0]
    report = Report(
        "cluster",
        "A cluster: what it costs a request, and what more replicas bring",
        notes=[
            f"Ray with all its replicas, the clients and what is compared share {CORES} cores of "
            "one machine: there is no network, and none of the many cores that a cluster is for.",
            f"Side by side: `inference-server serve` and `serve --cluster` with one replica, both "
            f"with the embedded demo's SAM 2 and {CORES} threads, are up together and asked in "
            f"turns, {scale.rounds} rounds. Cached clicks name their image; a cold image is a JPEG "
            f"of {scale.sent / 1e6:g} MB, {scale.size[0]} x {scale.size[1]}, sent along. "
            "Milliseconds are medians; processor time is that of all of a server's processes, "
            "beyond what they take when nobody asks.",
        ],
    )
    _side_by_side(report, scale)
    spent, more = scale.replicas.costs, scale.replicas
    report.notes.append(
        f"More replicas: **the model's cost is simulated**. An image takes {1e3 * spent.encode:g} "
        f"ms and a prompt {1e3 * spent.decode:g} ms of sleep, at half speed while a replica does "
        "both; all else is real. For each replica there are "
        f"{more.clients} clients that click {more.clicks} times on an image, each as soon as the "
        "answer before is there, and then take a new one. Caches hold all images. `ring` is this "
        "server's router, `default` that of Ray Serve: of two replicas the less busy one. Clients "
        "all begin together and are watched soon after, so that new images are more than one in "
        f"{more.clicks} requests, and the ceiling is lower than that."
    )
    replicas.add_to(report, scale.replicas)
    report.notes.append(_quiet(load, os.getloadavg()[0]))
    return report


def _quiet(before: float, after: float) -> str:
    return (
        f"The machine's load average was {before:.1f} when this began and {after:.1f} when it "
        "ended. More than a little at the beginning is other work, which slows both sides."
    )


def _side_by_side(report: Report, scale: Scale) -> None:
    """Ask one process and a cluster in turns."""
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
    """Let clients send their requests, and count what these cost."""
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
    """Processor time of each server in a second in which nobody asks, by process."""
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
        # Linux counts in hundredths of a second: a few requests may have taken none.
        rows.append(
            {
                "request": kind.name,
                "clients": kind.clients,
                "requests": len(one.latencies),
                "one process (ms)": one.wall,
                "cluster (ms)": cluster.wall,
                "more (ms)": cluster.wall - one.wall,
                "ratio": cluster.wall / one.wall,
                "one process, processor (ms)": spent[_ONE],
                "cluster, processor (ms)": spent[_CLUSTER],
                "more processor (ms)": spent[_CLUSTER] - spent[_ONE],
                "ratio of processor": spent[_CLUSTER] / max(spent[_ONE], 10 / len(one.latencies)),
                "one process, a second": one.throughput,
                "cluster, a second": cluster.throughput,
            }
        )
    return Table("A request, side by side", rows)


def _milliseconds(costs: Costs) -> Table:
    """A cached click of one client: inside the engine's process, and on the way there."""
    rows: list[dict[str, Cell]] = []
    told = {who: costs[_CLICK, who] for who in (_ONE, _CLUSTER)}
    spent = {
        name: {who: sum(map(cost.stage, stages)) for who, cost in told.items()}
        for name, stages in _STAGES.items()
    }
    probe = {who: costs[_PROBE, who].wall for who in (_ONE, _CLUSTER)}
    spent["HTTP, and the proxy of a cluster: a probe"] = probe
    spent["the rest: reading the request, and of a cluster the way to a replica and back"] = {
        who: cost.wall - sum(part[who] for part in spent.values()) for who, cost in told.items()
    }
    spent["together"] = {who: cost.wall for who, cost in told.items()}
    for name, part in spent.items():
        one, cluster = part[_ONE], part[_CLUSTER]
        rows.append(
            {
                "part": name,
                "one process (ms)": one,
                "cluster (ms)": cluster,
                "more (ms)": cluster - one,
            }
        )
    return Table("Where the milliseconds of a cached click go, one client", rows)


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
                "of": who,
                "process": "the server" if who == _ONE else _PROCESSES.get(role, role),
                "processor, a click of one client (ms)": click.get(role, 0.0),
                "of several clients (ms)": clicks.get(role, 0.0),
                "without requests (ms a second)": 1e3 * idle[who].get(role, 0.0),
                "memory (MB)": round(memory[who][role] / 1e6),
            }
            rows.append(row)
    return Table("Processor time and memory by process", rows)
