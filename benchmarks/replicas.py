"""Throughput of a cluster with a simulated model, by number of replicas."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.load import Load, Loop
from benchmarks.processes import cpu_seconds
from benchmarks.report import Cell, Report, Table
from benchmarks.requests import SEGMENT, Picture, click_body, picture
from benchmarks.serving import CORES
from benchmarks.simulated import VERSION, Costs, Router, Simulated, simulated_cluster

FREE = Costs(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        clusters: number of replicas and router of each cluster; the first has one replica.
        costs: simulated costs of the engine.
        clients: clients per replica.
        clicks: clicks of a client per image.
        size: image size as (width, height) in pixels.
        warmup: seconds before each measurement.
        seconds: duration of each measurement.
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
    """Request bodies of clients that click several times on each of their images.

    The first click on an image sends the image; the others send its id. Clients start at different
    clicks of their first image, so that they do not take new images at the same time.

    Args:
        image: pixels of all images; each image is a different file.
        clients: number of clients.
        clicks: clicks per image.
        label: prefix of the image ids.
    """

    def __init__(self, image: Picture, clients: int, clicks: int, label: str) -> None:
        self._image = image
        self._clicks = clicks
        self._label = label
        self._asked = [0] * clients

    def __call__(self, client: int, request: int) -> bytes:
        """Return the body of a client's next request.

        Args:
            client: number of the client, from 0.
            request: number of the client's request, from 0.
        """
        self._asked[client] = request + 1
        number, click = divmod(request + client % self._clicks, self._clicks)
        name = f"{self._label}-{client}-{number}"
        first = request == 0 or click == 0
        image = self._image.unseen(request) if first else None
        return click_body(VERSION, self._image.at((0.5, 0.5)), image_id=name, image=image)

    @property
    def images(self) -> int:
        """Number of images clicked on so far."""
        skipped = (client % self._clicks for client in range(len(self._asked)))
        return sum(
            -(-(asked + skip) // self._clicks)
            for asked, skip in zip(self._asked, skipped, strict=True)
            if asked
        )

    @property
    def asked(self) -> int:
        """Number of clicks so far."""
        return sum(self._asked)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Measurements of one cluster.

    Attributes:
        replicas: number of replicas.
        router: router of requests to replicas.
        load: latencies and throughput.
        hits: hit rate: share of requests without encoding, 0 to 1.
        ceiling: hit rate if each image were encoded once, 0 to 1.
        busiest: requests of the busiest replica, relative to the mean.
        cpu: CPU seconds per request, by process.
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
        """Number of cores in use."""
        return sum(self.cpu.values()) * self.load.throughput

    def efficiency(self, one: Outcome) -> float:
        """Return the throughput relative to as many independent replicas.

        Args:
            one: measurements of one replica.
        """
        return self.load.throughput / (self.replicas * one.load.throughput)


def measure(
    cluster: Simulated, replicas: int, router: Router, scale: Scale, clicks: int, label: str
) -> Outcome:
    """Measure a cluster under load.

    Args:
        cluster: cluster to measure.
        replicas: its number of replicas.
        router: its router.
        scale: clients and durations.
        clicks: clicks per image.
        label: prefix of the image ids, unique per measurement at a cluster.
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
        raise RuntimeError(f"{bodies.asked} clicks were sent, but {done.decodes} were decoded")
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
    """Measure all clusters, and add the tables to a report.

    Args:
        report: report to extend.
        scale: extent of the run.
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
                "requests per second": load.throughput,
                "relative to N times one replica": outcome.efficiency(one),
                "hit rate": outcome.hits,
                "hit rate ceiling": outcome.ceiling,
                "busiest replica relative to the mean": outcome.busiest,
                "p50 (ms)": 1e3 * load.timing.median,
                "p95 (ms)": 1e3 * load.timing.percentile(0.95),
                "cores in use": outcome.cores,
            }
        )
    return Table("Throughput with a simulated model", rows)


def _processes(outcomes: Sequence[Outcome]) -> Table:
    rows: list[dict[str, Cell]] = []
    for outcome in outcomes:
        free = outcome is outcomes[-1]
        cost = {role: 1e3 * seconds for role, seconds in outcome.cpu.items()}
        known = ("ingress", "visual")
        rows.append(
            {
                "replicas": outcome.replicas,
                "model": "free" if free else "simulated cost",
                "requests per second": outcome.load.throughput,
                "ingress (ms)": cost.get("ingress", 0.0),
                "replicas (ms)": cost.get("visual", 0.0),
                "other Ray processes (ms)": sum(cost[role] for role in cost if role not in known),
                "total (ms)": sum(cost.values()),
                "cores in use": outcome.cores,
            }
        )
    return Table("CPU time per request by process, without the clients", rows)


def _limits(scale: Scale, free: Outcome) -> str:
    """Describe the limit of the machine."""
    work = scale.costs.decode + scale.costs.encode / scale.clicks
    rate = free.load.throughput
    return (
        f"Limit of the machine: with a free model, {free.replicas} replicas and "
        f"{scale.clients * free.replicas} clients, one ingress serves {rate:.0f} "
        f"cached clicks per second and uses {free.cores:.1f} of {CORES} cores; clients use the "
        f"rest. At {1e3 * work:.0f} ms per request this equals {rate * work:.0f} replicas; a "
        "larger cluster would measure the cores, not the replicas."
    )
