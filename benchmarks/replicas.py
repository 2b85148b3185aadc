"""Throughput of one to many replicas of a cluster whose model is simulated."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.processes import cpu_seconds
from benchmarks.report import Cell, Report, Table
from benchmarks.serving import CORES, SEGMENT, Load, Loop, Picture, click_body, picture
from benchmarks.simulated import VERSION, Costs, Router, Simulated, simulated_cluster

FREE = Costs(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        clusters: replicas and router of each, a ring of one replica first.
        costs: of the engine.
        clients: for each replica.
        clicks: of a client on an image, before it takes the next one.
        size: (width, height) of the images.
        warmup: seconds before each measurement.
        seconds: of each.
    """

    clusters: tuple[tuple[int, Router], ...]
    costs: Costs
    clients: int
    clicks: int
    size: tuple[int, int]
    warmup: float
    seconds: float


FULL = Scale(
    clusters=((1, "ring"), (2, "ring"), (4, "ring"), (4, "default"), (8, "ring")),
    costs=Costs(encode=0.8, decode=0.15),
    clients=8,
    clicks=10,
    size=(640, 480),
    warmup=4.0,
    seconds=12.0,
)
SMALL = Scale(
    clusters=((1, "ring"), (2, "default")),
    costs=Costs(encode=0.05, decode=0.02),
    clients=3,
    clicks=10,
    size=(320, 180),
    warmup=0.5,
    seconds=2.0,
)


class Clicks:
    """Bodies of clients that click so many times on an image, then on another one.

    The first of an image brings it along; the others name it. Nobody has seen it before. Clients
    begin with fewer clicks each, so that they do not all take new images together.

    Args:
        image: that all images look like.
        clients: how many.
        clicks: on an image.
        label: of these clients, part of their images' names.
    """

    def __init__(self, image: Picture, clients: int, clicks: int, label: str) -> None:
        self._image = image
        self._clicks = clicks
        self._label = label
        self._asked = [0] * clients

    def __call__(self, client: int, request: int) -> bytes:
        """The body of a client's next request."""
        self._asked[client] = request + 1
        number, click = divmod(request + client % self._clicks, self._clicks)
        name = f"{self._label}-{client}-{number}"
        first = request == 0 or click == 0
        image = self._image.unseen(request) if first else None
        return click_body(VERSION, self._image.at((0.5, 0.5)), image_id=name, image=image)

    @property
    def images(self) -> int:
        """Of how many images there were clicks so far."""
        skipped = (client % self._clicks for client in range(len(self._asked)))
        return sum(
            -(-(asked + skip) // self._clicks)
            for asked, skip in zip(self._asked, skipped, strict=True)
            if asked
        )

    @property
    def asked(self) -> int:
        """How many clicks there were so far."""
        return sum(self._asked)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured at a cluster.

    Attributes:
        replicas: of the model.
        router: to them.
        load: while it was watched.
        hits: share of all requests that needed no encoding.
        ceiling: the same, had each image been encoded once.
        busiest: requests of the busiest replica, of the mean.
        cpu: seconds of the processor that a request took, by process.
    """

    replicas: int
    router: Router
    load: Load
    hits: float
    ceiling: float
    busiest: float
    cpu: Mapping[str, float]

    @property
    def cores(self) -> float:
        """How many cores the cluster used."""
        return sum(self.cpu.values()) * self.load.throughput

    def efficiency(self, one: Outcome) -> float:
        """Throughput, of what so many times one replica would have."""
        return self.load.throughput / (self.replicas * one.load.throughput)


def measure(
    cluster: Simulated, replicas: int, router: Router, scale: Scale, clicks: int, label: str
) -> Outcome:
    """Watch clients for a while.

    Args:
        cluster: that they ask.
        replicas: that it has.
        router: that it has.
        scale: how long, and how many.
        clicks: on an image.
        label: that no other measurement at this cluster has.
    """
    clients = scale.clients * replicas
    image = picture(0, scale.size)
    bodies = Clicks(image, clients, clicks, label)
    nothing = cluster.done
    with Loop(cluster.server, SEGMENT, bodies, clients=clients) as loop:
        time.sleep(scale.warmup)
        before = cpu_seconds(cluster.server.pid)
        load = loop.measure(scale.seconds)
        after = cpu_seconds(cluster.server.pid)
    done = cluster.done - nothing
    if sum(done.decodes.values()) != bodies.asked:
        raise RuntimeError(f"{bodies.asked} clicks were asked for, and {done.decodes} were made")
    encodes = sum(done.encodes.values()) / bodies.asked
    requests = len(load.latencies)
    return Outcome(
        replicas,
        router,
        load,
        hits=1 - encodes,
        ceiling=1 - bodies.images / bodies.asked,
        busiest=max(done.decodes.values()) / (bodies.asked / replicas),
        cpu={role: (after[role] - before[role]) / requests for role in after},
    )


def add_to(report: Report, scale: Scale) -> None:
    """Measure, and tell it.

    Args:
        report: where to.
        scale: how much.
    """
    outcomes = []
    free = None
    for replicas, router in scale.clusters:
        with simulated_cluster(replicas, scale.costs, router) as cluster:
            outcomes.append(measure(cluster, replicas, router, scale, scale.clicks, "costly"))
            if (replicas, router) == scale.clusters[-1]:
                cluster.cost(FREE)
                free = measure(cluster, replicas, router, scale, 10**9, "free")
    one = outcomes[0]
    report.tables.append(_throughput(outcomes, one))
    if free is None:
        raise ValueError(scale)
    report.tables.append(_processes([one, outcomes[-1], free]))
    report.notes.append(_limits(scale, free))


def _throughput(outcomes: Sequence[Outcome], one: Outcome) -> Table:
    rows: list[dict[str, Cell]] = []
    for outcome in sorted(outcomes, key=lambda each: (each.router != "ring", each.replicas)):
        load = outcome.load
        rows.append(
            {
                "router": outcome.router,
                "replicas": outcome.replicas,
                "requests": len(load.latencies),
                "requests a second": load.throughput,
                "of N times one replica": outcome.efficiency(one),
                "hit rate": outcome.hits,
                "its ceiling": outcome.ceiling,
                "requests of the busiest replica, of the mean": outcome.busiest,
                "p50 (ms)": 1e3 * load.timing.median,
                "p95 (ms)": 1e3 * load.timing.percentile(0.95),
                "cores in use": outcome.cores,
            }
        )
    return Table("Throughput, with a model of simulated cost", rows)


def _processes(outcomes: Sequence[Outcome]) -> Table:
    rows: list[dict[str, Cell]] = []
    for outcome in outcomes:
        free = outcome is outcomes[-1]
        cost = {role: 1e3 * seconds for role, seconds in outcome.cpu.items()}
        known = ("proxy", "ingress", "visual")
        rows.append(
            {
                "replicas": outcome.replicas,
                "model": "costs nothing" if free else "simulated cost",
                "requests a second": outcome.load.throughput,
                "proxy (ms)": cost.get("proxy", 0.0),
                "ingress (ms)": cost.get("ingress", 0.0),
                "replicas (ms)": cost.get("visual", 0.0),
                "rest of Ray (ms)": sum(cost[role] for role in cost if role not in known),
                "together (ms)": sum(cost.values()),
                "cores in use": outcome.cores,
            }
        )
    return Table("Processor time of a request by process, without the clients'", rows)


def _limits(scale: Scale, free: Outcome) -> str:
    """Where the machine ends."""
    work = scale.costs.decode + scale.costs.encode / scale.clicks
    rate = free.load.throughput
    return (
        f"Where the machine ends: with a model that costs nothing, {free.replicas} replicas and "
        f"{scale.clients * free.replicas} clients, one ingress and its proxy answer {rate:.0f} "
        f"cached clicks a second and use {free.cores:.1f} of {CORES} cores; the clients have the "
        f"rest. With {1e3 * work:.0f} ms a request that is the work of {rate * work:.0f} replicas: "
        "from there on it would be the cores that are measured, not the replicas."
    )
