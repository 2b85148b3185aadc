"""Discrete-event simulation of replicas behind a router.

Simulates a cluster as deployed: Ray's routers with their backoff, replicas that refuse requests
above a limit, single-flight encoding per image, an LRU cache of images, and two queues per replica.
Arrivals do not depend on responses, as with many independent clients.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.ring import Ring, names, sessions

BACKOFF = (0.025, 2.0, 0.5)
"""Backoff of Ray's routers: first pause in seconds, growth factor, longest pause in seconds."""
_IDLE = -1.0


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of requests at a replica.

    Attributes:
        encode: device seconds per image.
        decode: device seconds per prompt.
        entries: capacity of the cache in images.
    """

    encode: float
    decode: float
    entries: int


@dataclass(frozen=True, slots=True)
class Load:
    """Load from clients.

    Attributes:
        rate: requests per second.
        seconds: duration.
        images: number of images.
        exponent: Zipf exponent: the k-th most popular image has a share of `1 / k ** exponent`.
        clicks: mean number of clicks per session.
        pause: mean seconds between clicks of a session.
        abrupt: start with the usual number of sessions in progress, as after a restart. Default:
            start with none.
    """

    rate: float
    seconds: float
    images: int
    exponent: float
    clicks: float
    pause: float
    abrupt: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival.

    Attributes:
        times: arrival times in seconds, [requests].
        images: index of the image of each request, [requests].
    """

    times: NDArray[np.float64]
    images: NDArray[np.int64]

    def ceiling(self, since: float = 0.0) -> float:
        """Return the hit rate of one unlimited cache.

        Args:
            since: time in seconds from which requests count. Default: 0.
        """
        first = np.zeros(len(self.times), bool)
        first[np.unique(self.images, return_index=True)[1]] = True
        return 1.0 - float(first[self.times >= since].mean())


@dataclass(frozen=True, slots=True)
class Policy:
    """Routing policy.

    Attributes:
        kind: `random`: a random replica; `two`: the less busy of two random replicas; `ring`: the
            image's replicas on the hash ring.
        virtual_nodes: virtual nodes per replica on the ring. Default: 100.
        spill: number of additional replicas for an image. Default: 0.
    """

    kind: Literal["random", "two", "ring"]
    virtual_nodes: int = 100
    spill: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a simulation, of requests after the warm-up unless stated otherwise.

    Attributes:
        latencies: latencies of successful requests in seconds, ascending.
        hits: share of successful requests without an encoding of their own, 0 to 1.
        refused: share of requests refused with 429, 0 to 1.
        work: mean device seconds per successful request, in the whole run.
        worked: device seconds of each replica, in the whole run, [replicas].
    """

    latencies: NDArray[np.float64]
    hits: float
    refused: float
    work: float
    worked: NDArray[np.float64]

    def latency(self, share: float) -> float:
        """Return a quantile of the latencies in seconds.

        Args:
            share: quantile, 0 to 1.
        """
        return float(np.quantile(self.latencies, share))

    @property
    def busiest(self) -> float:
        """Work of the busiest replica, relative to the mean."""
        return float(self.worked.max() / self.worked.mean())


def shares_of_images(images: int, exponent: float) -> NDArray[np.float64]:
    """Return the share of sessions of each image, the most popular first.

    Args:
        images: number of images.
        exponent: Zipf exponent.
    """
    weights = np.arange(1, images + 1, dtype=np.float64) ** -exponent
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def draw(load: Load, seed: int) -> Trace:
    """Draw the requests of random sessions.

    Args:
        load: load from clients.
        seed: seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    lead = 5 * load.clicks * load.pause if load.abrupt else 0.0
    begun = rng.poisson(load.rate / load.clicks * (load.seconds + lead))
    starts = rng.uniform(-lead, load.seconds, begun)
    bounds = np.cumsum(shares_of_images(load.images, load.exponent))
    subjects = np.searchsorted(bounds, rng.uniform(0, bounds[-1], begun))
    clicks = rng.geometric(1 / load.clicks, begun)
    pauses = rng.exponential(load.pause, clicks.sum())
    first = np.cumsum(clicks) - clicks
    pauses[first] = 0.0
    passed = np.cumsum(pauses)
    times = np.repeat(starts - passed[first], clicks) + passed
    images = np.repeat(subjects, clicks)
    order = np.argsort(times, kind="stable")
    order = order[(times[order] >= 0) & (times[order] < load.seconds)]
    return Trace(times[order], images[order])


class _Replica:
    """A replica: a cache, and two queues that share a device.

    While both queues have work, each runs at half speed: two threads that share a GPU or the same
    cores.
    """

    __slots__ = (
        *("cache", "decode_left", "decodes", "encode_left", "encodes", "flights"),
        *("ongoing", "since", "version", "worked"),
    )

    def __init__(self) -> None:
        self.cache: dict[int, None] = {}  # least recently used first
        self.flights: dict[int, list[int]] = {}
        self.encodes: deque[int] = deque()
        self.decodes: deque[int] = deque()
        self.encode_left = self.decode_left = _IDLE
        self.ongoing = self.version = 0
        self.since = self.worked = 0.0

    def advance(self, now: float) -> None:
        """Advance the work to the given time."""
        passed, self.since = now - self.since, now
        encoding, decoding = self.encode_left != _IDLE, self.decode_left != _IDLE
        if encoding or decoding:
            self.worked += passed
        share = 0.5 if encoding and decoding else 1.0
        if encoding:
            self.encode_left = max(0.0, self.encode_left - passed * share)
        if decoding:
            self.decode_left = max(0.0, self.decode_left - passed * share)

    def ends(self) -> float:
        """Return the seconds until the next item is done at the current speed."""
        if self.encode_left == _IDLE:
            return self.decode_left
        if self.decode_left == _IDLE:
            return self.encode_left
        return 2.0 * min(self.encode_left, self.decode_left)


class _Run:
    """One simulation; see `simulate`."""

    def __init__(
        self, trace: Trace, costs: Costs, replicas: int, policy: Policy, ongoing: int, seed: int
    ) -> None:
        self._costs = costs
        self._ongoing = ongoing
        self._kind = policy.kind
        self._random = random.Random(seed)
        self.images: list[int] = trace.images.tolist()
        self.replicas = [_Replica() for _ in range(replicas)]
        self.done = [np.nan] * len(self.images)
        self.missed = [False] * len(self.images)
        self.events: list[tuple[float, int, int, int]] = []
        self._ranked: list[list[int]] = []
        if policy.kind == "ring":
            used, places = np.unique(trace.images, return_inverse=True)
            ring = Ring(names(replicas, seed), policy.virtual_nodes)
            ranks = ring.ranked(sessions(used.tolist()), policy.spill).tolist()
            self._ranked = [ranks[place] for place in places]

    def _candidates(self, request: int) -> Sequence[int]:
        """Return the replicas to try, in order."""
        if self._kind == "ring":
            return self._ranked[request]
        count, drawn = len(self.replicas), self._random.random
        first = int(drawn() * count)
        if self._kind == "random" or count == 1:
            return (first,)
        second = (first + 1 + int(drawn() * (count - 1))) % count
        less = self.replicas[second].ongoing < self.replicas[first].ongoing
        return (second,) if less else (first,)

    def route(self, request: int, now: float) -> bool:
        """Assign a request to a replica.

        Args:
            request: index of the request.
            now: time in seconds.

        Returns:
            Whether a replica accepted it; False if all candidates are full.
        """
        for index in self._candidates(request):
            if self.replicas[index].ongoing < self._ongoing:
                self._accept(index, request, now)
                return True
        return False

    def _accept(self, index: int, request: int, now: float) -> None:
        replica, image = self.replicas[index], self.images[request]
        replica.ongoing += 1
        if image in replica.flights:
            replica.flights[image].append(request)
            return
        replica.advance(now)
        if image in replica.cache:
            replica.cache[image] = replica.cache.pop(image)
            replica.decodes.append(request)
        else:
            self.missed[request] = True
            replica.flights[image] = [request]
            replica.encodes.append(image)
        self._plan(index, replica, now)

    def step(self, index: int, version: int, now: float) -> None:
        """Complete finished work of a replica.

        Args:
            index: index of the replica.
            version: version of the replica when the event was planned; outdated events do nothing.
            now: time in seconds.
        """
        replica = self.replicas[index]
        if version != replica.version:
            return
        replica.advance(now)
        encoded = replica.encode_left != _IDLE and replica.encode_left < 1e-9
        decoded = replica.decode_left != _IDLE and replica.decode_left < 1e-9
        if decoded:
            self.done[replica.decodes.popleft()] = now
            replica.decode_left = _IDLE
            replica.ongoing -= 1
        if encoded:
            image = replica.encodes.popleft()
            replica.encode_left = _IDLE
            replica.cache[image] = None
            if len(replica.cache) > self._costs.entries:
                del replica.cache[next(iter(replica.cache))]
            replica.decodes.extend(replica.flights.pop(image))
        self._plan(index, replica, now)

    def _plan(self, index: int, replica: _Replica, now: float) -> None:
        """Start pending work, and schedule its completion."""
        if replica.encode_left == _IDLE and replica.encodes:
            replica.encode_left = self._costs.encode
        if replica.decode_left == _IDLE and replica.decodes:
            replica.decode_left = self._costs.decode
        replica.version += 1
        if (ends := replica.ends()) != _IDLE:
            heapq.heappush(self.events, (now + ends, 0, index, replica.version))


def simulate(
    trace: Trace,
    costs: Costs,
    replicas: int,
    policy: Policy,
    *,
    ongoing: int,
    waiting: int,
    warm: float = 0.0,
    seed: int = 0,
) -> Outcome:
    """Simulate a cluster.

    Args:
        trace: requests.
        costs: costs of each replica.
        replicas: number of replicas.
        policy: routing policy.
        ongoing: maximum number of requests in progress per replica; a full replica refuses.
        waiting: maximum number of requests that wait in all routers; more get 429.
        warm: warm-up in seconds, excluded from the result. Default: 0.
        seed: seed of replica names and random choices. Default: 0.
    """
    run = _Run(trace, costs, replicas, policy, ongoing, seed)
    times: list[float] = trace.times.tolist()
    events, refused = run.events, np.zeros(len(times), bool)
    first, growth, longest = BACKOFF
    request, waits = 0, 0
    while request < len(times) or events:
        if request < len(times) and (not events or times[request] <= events[0][0]):
            now, tried, attempt = times[request], request, 0
            request += 1
        else:
            now, kind, tried, attempt = heapq.heappop(events)
            if kind == 0:
                run.step(tried, attempt, now)
                continue
            waits -= 1
        if run.route(tried, now):
            continue
        if attempt == 0 and waits >= waiting:
            refused[tried] = True
            continue
        waits += 1
        pause = min(first * growth**attempt, longest)
        heapq.heappush(events, (now + pause, 1, tried, attempt + 1))
    counted = trace.times >= warm
    answered = counted & ~refused
    worked = np.array([replica.worked for replica in run.replicas])
    return Outcome(
        np.sort((np.array(run.done) - trace.times)[answered]),
        1.0 - float(np.array(run.missed)[answered].mean()),
        float(refused[counted].mean()),
        float(worked.sum() / (~refused).sum()),
        worked,
    )
