"""Ten, a hundred, a thousand replicas: how even the ring is, and what caches and waiting become."""

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
"""Of the devices, if every image were encoded once and nothing else were lost."""
ONGOING, QUEUE, INGRESS_RATE = 16, 64, 200.0
"""The defaults of `INFERENCE_CLUSTER_ONGOING` and `INFERENCE_QUEUE_SIZE`, and the requests a second
for which there is one ingress."""
CLICKS, EXPONENT, IMAGES = 10.0, 0.6, 1000
"""Clicks of a session, skew of the images' popularity, images a replica."""
GPU = Costs(encode=0.0213, decode=0.004, entries=744)
"""An assumption, not measured: see the note in `run`."""
POLICIES = {
    "random": Policy("random"),
    "the less busy of two": Policy("two"),
    "ring, no spill": Policy("ring"),
    "ring, spill 1": Policy("ring", spill=1),
    "ring, spill 2": Policy("ring", spill=2),
    "ring of 1000, no spill": Policy("ring", 1000),
    "ring of 1000, spill 1": Policy("ring", 1000, spill=1),
}
PICTURED = ("the less busy of two", "ring, no spill", "ring, spill 1")
_RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is simulated.

    Attributes:
        sizes: numbers of replicas, with how often the clusters of this size are drawn anew.
        gpu: the same for the costs of a GPU.
        seconds: that are simulated with the measured costs; a tenth with those of a GPU.
        rings: that are drawn for each size.
        keys: sessions that are looked up in each.
    """

    sizes: Mapping[int, int]
    gpu: Mapping[int, int]
    seconds: float
    rings: int
    keys: int


FULL = Scale({10: 10, 100: 2, 1000: 1}, {10: 5, 100: 1}, 240.0, 10, 20_000)
SMALL = Scale({10: 1}, {10: 1}, 60.0, 2, 2000)


def _kept(name: str, table: int, **where: Cell) -> Mapping[str, Any]:
    """A row of what another benchmark has measured."""
    report = orjson.loads((_RESULTS / f"{name}.json").read_bytes())
    rows: Sequence[Mapping[str, Any]] = report["tables"][table]["rows"]
    return next(row for row in rows if all(row[key] == value for key, value in where.items()))


def measured() -> Costs:
    """SAM 2.1 hiera_tiny on two cores: what `cold`, `clients` and `sizes` have found."""
    busy = _kept("clients", 0, clients=8, of="server")
    alone = _kept("clients", 0, clients=1, of="server")
    cold = _kept("cold", 0, **{"SAM 2.1": "hiera_tiny", "arithmetic": "float32"})
    size = _kept("sizes", 0, **{"model": "SAM 2.1, hiera_tiny", "kept in": "float32"})
    return Costs(
        encode=cold["server (s)"] - alone["mean (ms)"] / 1e3,
        decode=1 / busy["clicks a second"],
        entries=size["images in 2048 MiB"],
    )


@dataclass(frozen=True, slots=True)
class Profile:
    """Replicas, and how long their clients take.

    Attributes:
        costs: of a replica.
        seconds: that are simulated; what is told is of the second half.
        pause: seconds between clicks.
    """

    costs: Costs
    seconds: float
    pause: float

    def load(self, replicas: int, exponent: float = EXPONENT, *, abrupt: bool = False) -> Load:
        """As many requests as keep the devices busy for `UTILISATION`."""
        rate = replicas * UTILISATION / (self.costs.encode / CLICKS + self.costs.decode)
        images = IMAGES * replicas
        return Load(rate, self.seconds, images, exponent, CLICKS, self.pause, abrupt)

    def outcome(
        self, load: Load, trace: Trace, replicas: int, policy: Policy, ongoing: int, seed: int = 0
    ) -> Outcome:
        """Simulate it; each ingress lets `QUEUE` requests wait."""
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
    """The columns of a policy; its clusters' answers are put together."""
    answers = np.concatenate([outcome.latencies for outcome in outcomes])
    p50, p99, p999 = (1e3 * float(np.quantile(answers, share)) for share in (0.5, 0.99, 0.999))
    return {
        "hit rate": _digits(statistics.mean(outcome.hits for outcome in outcomes)),
        "work an answer (ms)": 1e3 * statistics.mean(outcome.work for outcome in outcomes),
        "busiest, of the mean": statistics.mean(outcome.busiest for outcome in outcomes),
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
    """A row for each size and policy, and the outcomes of the last size.

    Args:
        profile: of the replicas.
        sizes: numbers of replicas, with how often such clusters are drawn anew.
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
            row: dict[str, Cell] = {"replicas": replicas, "chosen": name}
            rows.append(row | {"ceiling": _digits(ceiling)} | _merged(outcomes))
            last[name] = outcomes[-1]
    return rows, last


def _rings(scale: Scale) -> list[dict[str, Cell]]:
    """How even rings are, what moves, and what Ray takes to draw one anew."""
    rows: list[dict[str, Cell]] = []
    keys = sessions(range(scale.keys))
    rays_router(["a"], 1, 0)  # imports what it takes
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
                    "places of each": nodes,
                    "largest share, of the mean": statistics.mean(busiest),
                    "worst ring": max(busiest),
                    "least share, of the mean": statistics.mean(least),
                    "move when one joins (%)": 100 * statistics.mean(joins),
                    "1/(N+1) (%)": 100 / (replicas + 1),
                    "move when one goes (%)": 100 * statistics.mean(goes),
                    "move between others (%)": 100 * max(others),
                    "CPU of Ray to draw it (ms)": 1e3 * (time.process_time() - begin),
                }
            )
    return rows


def _spilling(profiles: Mapping[str, Profile], replicas: int) -> list[dict[str, Cell]]:
    """What the number of requests under way at which they spill does, also after a restart."""
    rows: list[dict[str, Cell]] = []
    for name, profile in profiles.items():
        for abrupt in (False, True):
            load = profile.load(replicas, abrupt=abrupt)
            trace = draw(load, 0)
            for ongoing in (ONGOING, 4 * ONGOING):
                for spill in (0, 1, 2):
                    policy = Policy("ring", spill=spill)
                    outcome = profile.outcome(load, trace, replicas, policy, ongoing)
                    row: dict[str, Cell] = {"costs": name, "begin": "all at once" if abrupt else ""}
                    row |= {"ongoing": ongoing, "spill": spill}
                    rows.append(row | _merged([outcome]))
    return rows


def _hot(profile: Profile, replicas: int) -> list[dict[str, Cell]]:
    """One image that many ask about at once, with more and more replicas to spill to."""
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
                "replicas it needs": share * load.rate * profile.costs.decode,
                "spill": spill,
            }
            rows.append(row | _merged([outcome]))
    return rows


def _plot(outcomes: Mapping[str, Outcome], title: str) -> bytes:
    """Which share of the answers took longer, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, outcome in outcomes.items():
        shares = 1.0 - np.arange(len(outcome.latencies)) / len(outcome.latencies)
        keep = np.unique(np.geomspace(1, len(shares), 400).astype(int))
        axes.plot(outcome.latencies[-keep], shares[-keep], label=name)
    axes.set(xscale="log", yscale="log", xlabel="seconds", ylabel="share of answers that took more")
    axes.set_ylim(bottom=1e-4)
    axes.set_title(title, fontsize="small")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def run(small: bool) -> Report:
    """Simulate clusters under a load that is the same for every way to choose a replica.

    Args:
        small: ten replicas, a minute of load.
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
            Table("Rings", _rings(scale)),
            Table("Replicas with the measured costs", of_cores),
            Table("Replicas with the costs assumed for a GPU", of_gpus),
            Table(
                f"When {size} replicas spill",
                _spilling({"measured": two_cores, "GPU": gpu}, size),
            ),
            Table(f"Hot images, {size} GPUs", _hot(gpu, size)),
        ],
        notes=[
            "Simulated, not measured. Sessions with an image begin at random, have "
            f"{CLICKS:g} clicks on average (geometric) and pauses of {two_cores.pause:g} s "
            f"(measured costs) or {gpu.pause:g} s (GPU) between them (exponential); the k-th most "
            "popular of "
            f"{IMAGES} images a replica is begun with as 1/k^{EXPONENT}. There is as much to do as "
            f"keeps each device busy for {UTILISATION:.0%} if every session encodes once. Told is "
            f"the second half of {two_cores.seconds:g} s ({gpu.seconds:g} s with the GPU's costs). "
            "Requests come whether or not others were answered.",
            f"Measured costs: SAM 2.1 hiera_tiny on two cores takes {costs.encode:.3g} s to encode "
            f"(`cold`) and {1e3 * costs.decode:.3g} ms to answer a click (`clients`); 2048 MiB "
            f"hold {costs.entries} images (`sizes`). Those of a GPU are an assumption for SAM 2.1 "
            f"hiera_large in 16 bits: {1e3 * GPU.encode:.3g} and {1e3 * GPU.decode:.3g} ms, "
            f"{GPU.entries} images in 8192 MiB.",
            "A replica has an LRU, one flight for an image, and two lanes without batches that "
            "share its device by halves. Routers are as Ray's: a replica that has "
            f"{ONGOING} requests under way takes no more, the next one on the ring is tried, then "
            "all of them again after 25 ms, 50 ms and so on up to 0.5 s; of more than "
            f"{QUEUE} that wait for each {INGRESS_RATE:g} requests a second the rest gets 429. "
            "What ingresses and the network take is not in it.",
            "Ceiling: the hit rate of one cache without bounds. The ring has 100 places a replica "
            "unless 1000 are named. Work an answer: of a device, with the encoding that it needed. "
            "Latencies are of what was answered with 200. All at once: every cache is empty, and "
            "all sessions that are usual at a time go on at once, as after a restart.",
        ],
        pictures={},
    )
    title = f"{max(scale.sizes)} replicas, measured costs, load {UTILISATION:.0%}"
    pictured = {name: outcomes[name] for name in PICTURED}
    report.pictures["scaling.png"] = _plot(pictured, title)
    return report
