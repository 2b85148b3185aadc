"""Ten to a thousand simulated replicas: balance of the hash ring, hit rates, latency."""

from __future__ import annotations

import io
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks.queueing import (
    Costs,
    Load,
    Outcome,
    Policy,
    Trace,
    draw,
    shares_of_images,
    simulate,
)
from benchmarks.report import Cell, Report, Table
from benchmarks.ring import Ring, moved, names, rays_router, sessions

UTILISATION = 0.6
"""Share of time that devices are busy if every session encodes its image once."""
ONGOING, QUEUE, INGRESS_RATE = 16, 64, 200.0
"""Defaults of `INFERENCE_CLUSTER_ONGOING` and `INFERENCE_QUEUE_SIZE`, and requests per second and
ingress."""
CLICKS, EXPONENT, IMAGES = 10.0, 0.6, 1000
"""Mean clicks per session, Zipf exponent of image popularity, images per replica."""
GPU = Costs(encode=0.0213, decode=0.004, entries=744)
"""Assumed, not measured; see the notes in `run`."""
POLICIES = {
    "random": Policy("random"),
    "less busy of two": Policy("two"),
    "ring, no spill": Policy("ring"),
    "ring, spill 1": Policy("ring", spill=1),
    "ring, spill 2": Policy("ring", spill=2),
    "1000 virtual nodes, no spill": Policy("ring", 1000),
    "1000 virtual nodes, spill 1": Policy("ring", 1000, spill=1),
}
PICTURED = ("less busy of two", "ring, no spill", "ring, spill 1")
_RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        sizes: numbers of replicas, with the number of random clusters of each size.
        gpu: the same for the costs of a GPU.
        seconds: simulated time with measured costs; a tenth of it with those of a GPU.
        rings: number of random rings per size.
        keys: number of sessions looked up in each ring.
    """

    sizes: Mapping[int, int]
    gpu: Mapping[int, int]
    seconds: float
    rings: int
    keys: int


FULL = Scale({10: 10, 100: 2, 1000: 1}, {10: 5, 100: 1}, 240.0, 10, 20_000)
SMALL = Scale({10: 1}, {10: 1}, 60.0, 2, 2000)


def _kept(name: str, table: int, **where: Cell) -> Mapping[str, Any]:
    """Return a row of another benchmark's stored result.

    Args:
        name: name of the benchmark.
        table: index of the table.
        where: cells that the row must have.
    """
    report = orjson.loads((_RESULTS / f"{name}.json").read_bytes())
    rows: Sequence[Mapping[str, Any]] = report["tables"][table]["rows"]
    return next(row for row in rows if all(row[key] == value for key, value in where.items()))


def measured() -> Costs:
    """Return the costs of SAM 2.1 hiera_tiny on two cores, as measured by other benchmarks."""
    busy = _kept("clients", 0, clients=8, implementation="server")
    alone = _kept("clients", 0, clients=1, implementation="server")
    cold = _kept("cold", 0, **{"SAM 2.1": "hiera_tiny", "precision": "float32"})
    size = _kept("sizes", 0, **{"model": "SAM 2.1, hiera_tiny", "cache dtype": "float32"})
    return Costs(
        encode=cold["server (s)"] - alone["mean (ms)"] / 1e3,
        decode=1 / busy["clicks per second"],
        entries=size["images in 2048 MiB"],
    )


@dataclass(frozen=True, slots=True)
class Profile:
    """Costs of replicas, and pace of their clients.

    Attributes:
        costs: costs of one replica.
        seconds: simulated time; results are those of the second half.
        pause: mean seconds between clicks of a session.
    """

    costs: Costs
    seconds: float
    pause: float

    def load(self, replicas: int, exponent: float = EXPONENT, *, abrupt: bool = False) -> Load:
        """Return the load that keeps the devices busy for `UTILISATION` of the time.

        Args:
            replicas: number of replicas.
            exponent: Zipf exponent of image popularity. Default: `EXPONENT`.
            abrupt: start all sessions at once. Default: no.
        """
        rate = replicas * UTILISATION / (self.costs.encode / CLICKS + self.costs.decode)
        images = IMAGES * replicas
        return Load(rate, self.seconds, images, exponent, CLICKS, self.pause, abrupt)

    def outcome(
        self, load: Load, trace: Trace, replicas: int, policy: Policy, ongoing: int, seed: int = 0
    ) -> Outcome:
        """Simulate requests; each ingress queues up to `QUEUE` of them.

        Args:
            load: load that the trace was drawn from.
            trace: requests.
            replicas: number of replicas.
            policy: routing policy.
            ongoing: maximum number of requests in progress per replica.
            seed: seed of replica names and random choices. Default: 0.
        """
        return simulate(
            trace,
            self.costs,
            replicas,
            policy,
            ongoing=ongoing,
            waiting=QUEUE * math.ceil(load.rate / INGRESS_RATE),
            warm=self.seconds / 2,
            seed=seed,
        )


def _merged(outcomes: Sequence[Outcome]) -> dict[str, Cell]:
    """Return a policy's columns; latencies of all its clusters are merged."""
    answers = np.concatenate([outcome.latencies for outcome in outcomes])
    p50, p99, p999 = (1e3 * float(np.quantile(answers, share)) for share in (0.5, 0.99, 0.999))
    return {
        "hit rate": _digits(statistics.mean(outcome.hits for outcome in outcomes)),
        "device time per response (ms)": 1e3
        * statistics.mean(outcome.work for outcome in outcomes),
        "busiest / mean": statistics.mean(outcome.busiest for outcome in outcomes),
        "429 (%)": 100 * statistics.mean(outcome.refused for outcome in outcomes),
        "p50 (ms)": p50,
        "p99 (ms)": p99,
        "p99.9 (ms)": p999,
    }


def _digits(share: float) -> str:
    return f"{share:.3f}"


def clusters(
    profile: Profile, sizes: Mapping[int, int]
) -> tuple[list[dict[str, Cell]], dict[str, Outcome]]:
    """Simulate clusters of each size with each policy.

    Args:
        profile: costs and pace.
        sizes: numbers of replicas, with the number of random clusters of each size.

    Returns:
        One row per size and policy, and the outcomes of the last size by policy.
    """
    rows: list[dict[str, Cell]] = []
    last: dict[str, Outcome] = {}
    for replicas, times in sizes.items():
        load = profile.load(replicas)
        traces = [draw(load, seed) for seed in range(times)]
        ceiling = statistics.mean(trace.ceiling(profile.seconds / 2) for trace in traces)
        for name, policy in POLICIES.items():
            outcomes = [
                profile.outcome(load, trace, replicas, policy, ONGOING, seed)
                for seed, trace in enumerate(traces)
            ]
            row: dict[str, Cell] = {"replicas": replicas, "routing": name}
            rows.append(row | {"ceiling": _digits(ceiling)} | _merged(outcomes))
            last[name] = outcomes[-1]
    return rows, last


def _rings(scale: Scale) -> list[dict[str, Cell]]:
    """Measure the balance of rings, moved sessions, and Ray's time to build a ring."""
    rows: list[dict[str, Cell]] = []
    keys = sessions(range(scale.keys))
    rays_router(["a"], 1, 0)  # imports Ray, so that the timing below does not
    for replicas in scale.sizes:
        for nodes in (100, 1000):
            busiest, least, joins, goes, others = [], [], [], [], []
            for seed in range(max(1, scale.rings // (1 + replicas * nodes // 100_000))):
                given = names(replicas + 1, seed)
                less, ring, more = (Ring(given[: replicas + n], nodes) for n in (-1, 0, 1))
                shares = ring.shares() * replicas
                busiest.append(float(shares.max()))
                least.append(float(shares.min()))
                joined, needless = moved(ring, more, keys)
                joins.append(joined)
                others.append(needless)
                goes.append(moved(less, ring, keys)[0])
            begin = time.process_time()
            rays_router(given[:replicas], nodes, 1)
            rows.append(
                {
                    "replicas": replicas,
                    "virtual nodes": nodes,
                    "largest share / mean": statistics.mean(busiest),
                    "worst ring": max(busiest),
                    "smallest share / mean": statistics.mean(least),
                    "moved when one joins (%)": 100 * statistics.mean(joins),
                    "1/(N+1) (%)": 100 / (replicas + 1),
                    "moved when one leaves (%)": 100 * statistics.mean(goes),
                    "moved between others (%)": 100 * max(others),
                    "CPU time of Ray to build it (ms)": 1e3 * (time.process_time() - begin),
                }
            )
    return rows


def _spilling(profiles: Mapping[str, Profile], replicas: int) -> list[dict[str, Cell]]:
    """Simulate limits of requests in progress at which replicas spill, also after a restart."""
    rows: list[dict[str, Cell]] = []
    for name, profile in profiles.items():
        for abrupt in (False, True):
            load = profile.load(replicas, abrupt=abrupt)
            trace = draw(load, 0)
            for ongoing in (ONGOING, 4 * ONGOING):
                for spill in (0, 1, 2):
                    policy = Policy("ring", spill=spill)
                    outcome = profile.outcome(load, trace, replicas, policy, ongoing)
                    row: dict[str, Cell] = {"costs": name, "start": "all at once" if abrupt else ""}
                    row |= {"ongoing limit": ongoing, "spill": spill}
                    rows.append(row | _merged([outcome]))
    return rows


def _hot(profile: Profile, replicas: int) -> list[dict[str, Cell]]:
    """Simulate increasingly popular images, with more and more replicas to spill to."""
    rows: list[dict[str, Cell]] = []
    for exponent in (0.8, 0.9, 1.0):
        load = profile.load(replicas, exponent)
        share = float(shares_of_images(load.images, exponent)[0])
        trace = draw(load, 0)
        for spill in (0, 1, 2, 4):
            policy = Policy("ring", spill=spill)
            outcome = profile.outcome(load, trace, replicas, policy, ONGOING)
            row: dict[str, Cell] = {
                "exponent": exponent,
                "hottest image (%)": 100 * share,
                "replicas needed": share * load.rate * profile.costs.decode,
                "spill": spill,
            }
            rows.append(row | _merged([outcome]))
    return rows


def _plot(outcomes: Mapping[str, Outcome], title: str) -> bytes:
    """Plot the share of slower responses over latency, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, outcome in outcomes.items():
        shares = 1.0 - np.arange(len(outcome.latencies)) / len(outcome.latencies)
        keep = np.unique(np.geomspace(1, len(shares), 400).astype(int))
        axes.plot(outcome.latencies[-keep], shares[-keep], label=name)
    axes.set(xscale="log", yscale="log", xlabel="seconds", ylabel="share of slower responses")
    axes.set_ylim(bottom=1e-4)
    axes.set_title(title, fontsize="small")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def run(small: bool) -> Report:
    """Simulate clusters; all routing policies get the same load.

    Args:
        small: simulate ten replicas for a minute.
    """
    scale = SMALL if small else FULL
    two_cores = Profile(measured(), scale.seconds, 5.0)
    gpu = Profile(GPU, scale.seconds / 10, 0.5)
    size = max(scale.gpu)
    of_cores, outcomes = clusters(two_cores, scale.sizes)
    of_gpus, _ = clusters(gpu, scale.gpu)
    costs = two_cores.costs
    report = Report(
        "scaling",
        "A thousand replicas, simulated",
        [
            Table("Hash rings", _rings(scale)),
            Table("Replicas with measured costs", of_cores),
            Table("Replicas with assumed GPU costs", of_gpus),
            Table(
                f"Spilling, {size} replicas",
                _spilling({"measured": two_cores, "GPU": gpu}, size),
            ),
            Table(f"Hot images, {size} GPUs", _hot(gpu, size)),
        ],
        notes=[
            "Simulated, not measured. Each session is about one image and starts at random; it has "
            f"{CLICKS:g} clicks on average (geometric) with pauses of {two_cores.pause:g} s "
            f"(measured costs) or {gpu.pause:g} s (GPU) on average (exponential). There are "
            f"{IMAGES} images per replica; the k-th most popular one is chosen in proportion to "
            f"1/k^{EXPONENT}. The load keeps each device busy for {UTILISATION:.0%} of the time if "
            f"every session encodes once. Results are those of the second half of "
            f"{two_cores.seconds:g} s ({gpu.seconds:g} s with GPU costs). Clients do not wait for "
            "responses before they send the next request.",
            f"Measured costs: SAM 2.1 hiera_tiny on two cores takes {costs.encode:.3g} s to encode "
            f"(`cold`) and {1e3 * costs.decode:.3g} ms per click (`clients`); 2048 MiB hold "
            f"{costs.entries} images (`sizes`). GPU costs are assumed for SAM 2.1 hiera_large in "
            f"16 bits: {1e3 * GPU.encode:.3g} and {1e3 * GPU.decode:.3g} ms, {GPU.entries} images "
            "in 8192 MiB.",
            "A replica has an LRU cache, single-flight encoding per image, and two queues without "
            "batches that share its device equally. Routers behave as Ray's: a replica with "
            f"{ONGOING} requests in progress accepts no more; the next one on the ring is tried, "
            "then all again after 25 ms, 50 ms and so on up to 0.5 s. Up to "
            f"{QUEUE} requests wait for each {INGRESS_RATE:g} requests per second; more get 429. "
            "The cost of ingresses and network is not included.",
            "Ceiling: the hit rate of one unlimited cache. The ring has 100 virtual nodes per "
            "replica unless the table says 1000. Device time per response includes encoding. "
            "Latencies are those of responses with 200. All at once: all caches are empty and the "
            "usual number of sessions continues at once, as after a restart.",
        ],
        pictures={},
    )
    title = f"{max(scale.sizes)} replicas, measured costs, load {UTILISATION:.0%}"
    pictured = {name: outcomes[name] for name in PICTURED}
    report.pictures["scaling.png"] = _plot(pictured, title)
    return report
