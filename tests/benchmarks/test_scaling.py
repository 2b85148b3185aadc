"""The simulated cluster: ring as in Ray, queues as in theory, cache as in an LRU replay."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from benchmarks.queueing import (
    BACKOFF,
    Costs,
    Load,
    Policy,
    Trace,
    draw,
    shares_of_images,
    simulate,
)
from benchmarks.ring import SEED, Ring, moved, names, rays_router, sessions
from benchmarks.scaling import (
    CLICKS,
    GPU,
    ONGOING,
    POLICIES,
    QUEUE,
    UTILISATION,
    Profile,
    clusters,
    measured,
)
from inference_server.settings import Settings
from tests.readme import DOCS, ROOT

ALONE = {"ongoing": 10**9, "waiting": 0}


def trace_of(times: ArrayLike, images: ArrayLike) -> Trace:
    return Trace(np.asarray(times, np.float64), np.asarray(images, np.int64))


def poisson(rate: float, count: int, seed: int = 0) -> NDArray[np.float64]:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


@pytest.mark.parametrize(
    ("replicas", "nodes", "spill"), [(1, 100, 2), (2, 100, 2), (7, 3, 4), (100, 100, 1)]
)
def test_the_ring_equals_that_of_ray(replicas: int, nodes: int, spill: int) -> None:
    given = names(replicas, 5)
    router = rays_router(given, nodes, spill)
    keys = [*sessions(range(500)), *(random.Random(7).randbytes(9).hex() for _ in range(500))]
    rays = [[each.unique_id for each in router._lookup_ranked_replicas(key)] for key in keys]
    ours = Ring(given, nodes).ranked(keys, spill).tolist()
    assert [[given[index] for index in row] for row in ours] == rays
    assert len(rays[0]) == min(replicas, 1 + spill)


def test_constants_equal_those_of_ray() -> None:
    from ray.serve._private import constants
    from ray.serve.experimental.consistent_hash_router import (
        CONSISTENT_HASH_SEED,
        DEFAULT_NUM_VIRTUAL_NODES,
    )

    assert SEED == CONSISTENT_HASH_SEED
    assert Policy("ring").virtual_nodes == DEFAULT_NUM_VIRTUAL_NODES
    assert BACKOFF == (
        constants.RAY_SERVE_ROUTER_RETRY_INITIAL_BACKOFF_S,
        constants.RAY_SERVE_ROUTER_RETRY_BACKOFF_MULTIPLIER,
        constants.RAY_SERVE_ROUTER_RETRY_MAX_BACKOFF_S,
    )


def test_shares_of_the_ring_are_those_of_sessions() -> None:
    ring = Ring(names(20, 1), 100)
    shares = ring.shares()
    assert shares.sum() == pytest.approx(1)
    owners = ring.ranked(sessions(range(40_000)), 0)[:, 0]
    found = np.bincount(owners, minlength=20) / 40_000
    assert np.abs(found - shares).max() < 5 * np.sqrt(0.05 / 40_000)
    assert shares.max() / shares.min() > 1.1  # uneven enough for a meaningful comparison


@pytest.mark.parametrize("replicas", [1, 9, 99])
def test_a_replica_that_joins_takes_its_share_and_moves_nothing_else(replicas: int) -> None:
    given = names(replicas + 1, 3)
    before, after = Ring(given[:-1], 100), Ring(given, 100)
    share, between_others = moved(before, after, sessions(range(20_000)))
    assert share == pytest.approx(1 / (replicas + 1), rel=0.3)
    assert share == pytest.approx(after.shares()[-1], abs=0.01)
    assert between_others == 0


def test_clicks_wait_as_in_theory() -> None:
    """M/D/1 in the decode queue: one image, encoded in no time."""
    busy, decode, count = 0.7, 0.1, 150_000
    times = poisson(busy / decode, count)
    costs = Costs(encode=0.0, decode=decode, entries=1)
    outcome = simulate(
        trace_of(times, np.zeros(count, np.int64)), costs, 1, Policy("ring"), **ALONE
    )
    assert outcome.hits == pytest.approx(1 - 1 / count, abs=1e-9)
    mean = decode + busy * decode / (2 * (1 - busy))
    assert outcome.latencies.mean() == pytest.approx(mean, rel=0.03)
    at_once = float((outcome.latencies < decode * (1 + 1e-6)).mean())
    assert at_once == pytest.approx(1 - busy, rel=0.03)
    assert outcome.worked.sum() == pytest.approx(count * decode)


def test_encodings_without_a_cache_wait_as_in_theory() -> None:
    """M/D/1 in the encode queue: repeated images, and a cache without capacity."""
    busy, encode, count = 0.5, 2.0, 60_000
    images = np.arange(count) % 5000
    costs = Costs(encode=encode, decode=0.0, entries=0)
    trace = trace_of(poisson(busy / encode, count, 1), images)
    outcome = simulate(trace, costs, 1, Policy("random"), **ALONE)
    assert outcome.hits == pytest.approx(0, abs=1e-12)
    mean = encode + busy * encode / (2 * (1 - busy))
    assert outcome.latencies.mean() == pytest.approx(mean, rel=0.04)
    assert outcome.work == pytest.approx(encode)


def test_queues_share_a_device_and_an_encoding_is_shared() -> None:
    """Image 0 is cached when image 1 is encoded; the second click on 1 shares the encoding.

    From 2.5 to 2.9 s both queues run at half speed, so image 1 is encoded at 3.2 s.
    """
    trace = trace_of([0, 2, 2.5, 2.6], [0, 1, 0, 1])
    costs = Costs(encode=1.0, decode=0.2, entries=9)
    outcome = simulate(trace, costs, 1, Policy("ring"), **ALONE)
    assert outcome.latencies == pytest.approx([0.4, 1.0, 1.2, 1.4])
    assert outcome.hits == 0.5
    assert outcome.worked == pytest.approx([2 * 1.0 + 4 * 0.2])
    assert trace.ceiling() == 0.5
    assert trace.ceiling(since=2.2) == 1.0


def test_full_replicas_are_retried_as_in_ray() -> None:
    """The second request is accepted at the sixth try, after 0.775 s; the third is refused."""
    costs = Costs(encode=0.0, decode=1.0, entries=1)
    trace = trace_of([0, 0.5, 0.6], [0, 0, 0])
    outcome = simulate(trace, costs, 1, Policy("ring"), ongoing=1, waiting=1)
    assert outcome.latencies == pytest.approx([1.0, 0.775 + 1.0])
    assert outcome.refused == pytest.approx(1 / 3)


def test_spilled_requests_are_encoded_again() -> None:
    costs = Costs(encode=1.0, decode=0.1, entries=5)
    trace = trace_of([0, 0.2, 2.0], [0, 0, 0])
    spilt = simulate(trace, costs, 3, Policy("ring", spill=1), ongoing=1, waiting=9)
    assert spilt.hits == pytest.approx(1 / 3)
    assert sorted(spilt.worked) == pytest.approx([0, 1.1, 1.2])
    kept = simulate(trace, costs, 3, Policy("ring"), ongoing=1, waiting=9)
    assert kept.hits == pytest.approx(2 / 3)
    assert sorted(kept.worked) == pytest.approx([0, 0, 1.3])
    free = simulate(trace, costs, 3, Policy("ring", spill=1), ongoing=2, waiting=9)
    assert free.hits == pytest.approx(2 / 3)


def test_the_less_busy_of_two_is_chosen() -> None:
    costs = Costs(encode=0.0, decode=1.0, entries=9)
    for seed in range(8):
        trace = trace_of([0, 0.1], [0, 0])
        even = simulate(trace, costs, 2, Policy("two"), **ALONE, seed=seed)
        assert even.worked == pytest.approx([1, 1])
    seen = [simulate(trace, costs, 2, Policy("random"), **ALONE, seed=s).busiest for s in range(8)]
    assert min(seen) == pytest.approx(1)
    assert max(seen) == pytest.approx(2)


@pytest.mark.parametrize("entries", [1, 20, 400])
def test_hits_equal_those_of_a_replay(entries: int) -> None:
    images = np.random.default_rng(2).zipf(1.3, 5000) % 400
    used: list[int] = []  # most recent first
    hits = 0
    for image in images.tolist():
        if image in used:
            hits += 1
            used.remove(image)
        used.insert(0, image)
        del used[entries:]
    costs = Costs(encode=0.01, decode=0.001, entries=entries)
    trace = trace_of(np.arange(5000.0), images)
    outcome = simulate(trace, costs, 1, Policy("two"), **ALONE)
    assert outcome.hits == pytest.approx(hits / 5000)
    assert (outcome.hits == pytest.approx(trace.ceiling())) == (entries == 400)


@pytest.mark.parametrize("abrupt", [False, True])
def test_sessions_follow_the_load(abrupt: bool) -> None:
    load = Load(100.0, 400.0, 2000, 0.8, clicks=8.0, pause=0.5, abrupt=abrupt)
    trace = draw(load, 4)
    late = trace.times > 100
    assert (np.diff(trace.times) >= 0).all()
    assert late.sum() / 300 == pytest.approx(100, rel=0.05)
    first_second = float((trace.times < 1).sum())
    assert (first_second > 80) == abrupt
    assert (first_second < 40) == (not abrupt)
    shares = shares_of_images(2000, 0.8)
    assert shares[0] / shares[9] == pytest.approx(10**0.8)
    found = np.bincount(trace.images, minlength=2000) / len(trace.images)
    assert found[:20].sum() == pytest.approx(shares[:20].sum(), rel=0.15)


def test_a_ring_has_more_hits_than_random_routing() -> None:
    rows, _ = clusters(Profile(GPU, seconds=12.0, pause=0.3), {10: 1})
    found = {str(row["routing"]): float(row["hit rate"]) for row in rows}
    assert set(found) == set(POLICIES)
    ceiling = float(rows[0]["ceiling"])
    assert found["ring, no spill"] == pytest.approx(ceiling, abs=0.001)
    assert found["random"] < ceiling - 0.3


def test_costs_come_from_other_benchmarks() -> None:
    costs = measured()
    assert 0.01 < costs.decode < 0.1 < costs.encode < 10
    assert f"| SAM 2.1, hiera_tiny | float32 | 23.1 | {costs.entries} |" in (
        DOCS / "caching.md"
    ).read_text("utf-8")


def test_the_page_has_the_stored_figures() -> None:
    results = ROOT / "benchmarks" / "results"
    kept = {
        line
        for name in ("scaling", "stores")
        for line in (results / f"{name}.md").read_text("utf-8").splitlines()
    }
    page = (DOCS / "scaling.md").read_text("utf-8")
    told = page.partition("## Simulation")[2].splitlines()
    rows = [line for line in told if line.startswith("|")]
    assert len(rows) > 60
    assert [row for row in rows if row not in kept] == []


def test_the_example_follows_the_formulas() -> None:
    """The table from one GPU to a thousand uses the costs of the simulation."""
    page = (DOCS / "scaling.md").read_text("utf-8")
    assert f"*E* = {1e3 * GPU.encode:g} ms and *D* = {1e3 * GPU.decode:g} ms" in page
    one = UTILISATION / (GPU.encode / CLICKS + GPU.decode)
    ingress = (10.15 + (CLICKS - 1) * 2.4) / CLICKS / 1e3 / 0.6
    assert "| 2.4 ms; 10.15 ms |" in page
    table = page.partition("## From one GPU to a thousand")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    counts = [[float(cell.replace(",", "")) for cell in row[:5]] for row in rows[1:]]
    assert [int(row[0]) for row in counts] == [1, 8, 64, 100, 256, 1000]
    for gpus, requests, images, clients, cores in counts:
        assert requests == pytest.approx(gpus * one, rel=0.01)
        assert images == pytest.approx(gpus * one / CLICKS, rel=0.01)
        assert clients == pytest.approx(gpus * one * 5, rel=0.02)
        assert cores == math.ceil(gpus * one * ingress)


def test_limits_equal_the_settings() -> None:
    assert Settings.model_fields["cluster_ongoing"].default == ONGOING
    assert Settings.model_fields["queue_size"].default == QUEUE
