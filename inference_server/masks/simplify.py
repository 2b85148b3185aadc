"""Simplify outlines without changing their topology."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference_server.executor import stop_if_cancelled

_Integers = NDArray[np.int64]
_Flags = NDArray[np.bool_]

_PAIRS = 1 << 20
"""Pairs of a vertex and an edge that are compared at once; bounds the memory."""

_ROUNDS = 16
"""Rounds after which a replacement that still disturbs others is undone as a whole."""


def simplify_rings(rings: Sequence[NDArray[np.integer]], epsilon: float) -> list[_Integers]:
    """Remove vertices of rings by Douglas and Peucker's method, and keep the topology.

    A chain of edges is replaced by one edge only if no remaining vertex of any ring lies between
    the chain and the edge (de Berg, van Kreveld and Schirra, "Topologically correct subdivision
    simplification using the bandwidth criterion", 1998). So rings do not cross, each ring lies
    inside the same rings as before, and touches others only where it did. All comparisons that
    decide this are exact.

    Args:
        rings: the rings of a mask, integers [n, 2] of (x, y), n >= 1, without the first vertex at
            the end. Rings do not cross themselves or each other; they touch at vertices only.
        epsilon: maximum distance in pixels between a removed vertex and the edge that replaces it.

    Returns:
        int64 [m, 2] for each ring: a subset of its vertices, in the same order and orientation. A
        ring with an area keeps at least three vertices.
    """
    if not rings:
        return []
    outlines = _Outlines([np.asarray(ring, np.int64) for ring in rings])
    outlines.simplify(epsilon)
    return outlines.result()


@dataclass(frozen=True, slots=True)
class _Chains:
    """Chains of edges that are replaced by one edge each.

    Attributes:
        first: index of the first vertex of each chain, int64 [n].
        last: index of the last vertex.
        farthest: index of the inner vertex that is farthest from the replacing edge.
        deviation: squared distance of that vertex from the edge, float64 [n].
        low: least coordinates of the chain's vertices, int64 [n, 2].
        high: greatest coordinates of the chain's vertices.
    """

    first: _Integers
    last: _Integers
    farthest: _Integers
    deviation: NDArray[np.float64]
    low: _Integers
    high: _Integers

    def __getitem__(self, chosen: _Flags) -> _Chains:
        """The chosen chains."""
        return _Chains(
            self.first[chosen],
            self.last[chosen],
            self.farthest[chosen],
            self.deviation[chosen],
            self.low[chosen],
            self.high[chosen],
        )

    def __add__(self, other: _Chains) -> _Chains:
        """The chains of both."""
        return _Chains(
            np.concatenate([self.first, other.first]),
            np.concatenate([self.last, other.last]),
            np.concatenate([self.farthest, other.farthest]),
            np.concatenate([self.deviation, other.deviation]),
            np.concatenate([self.low, other.low]),
            np.concatenate([self.high, other.high]),
        )


class _Outlines:
    """All rings of a mask, and which of their vertices are kept.

    Args:
        rings: int64 [n, 2] each.
    """

    def __init__(self, rings: Sequence[_Integers]) -> None:
        lengths = np.array([len(ring) + 1 for ring in rings])
        self._ends = lengths.cumsum()
        self._begins = self._ends - lengths
        self._points = np.empty((int(self._ends[-1]), 2), np.int64)
        self._kept = np.zeros(len(self._points), np.bool_)
        self._firsts: list[int] = []
        for ring, begin in zip(rings, self._begins.tolist(), strict=True):
            anchors = _anchors(ring)
            # Each ring begins, and ends again, with a vertex that is kept.
            first = anchors[0]
            self._firsts.append(first)
            self._points[begin : begin + len(ring)] = np.roll(ring, -first, axis=0)
            self._points[begin + len(ring)] = ring[first]
            self._kept[begin + (np.array(anchors) - first) % len(ring)] = True
            self._kept[begin + len(ring)] = True
        self._pin_shared()
        self._areas = self._signed_areas(np.ones(len(self._points), np.bool_))

    def _pin_shared(self) -> None:
        """Keep the vertices that are passed more than once, where outlines touch."""
        inner = np.ones(len(self._points), np.bool_)
        inner[self._ends - 1] = False
        indices = np.flatnonzero(inner)
        places = self._points[indices]
        key = places[:, 0] * (int(places[:, 1].max()) + 1) + places[:, 1]
        _, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
        self._kept[indices[counts[inverse] > 1]] = True

    def simplify(self, epsilon: float) -> None:
        """Choose the vertices to keep.

        Args:
            epsilon: maximum distance of a removed vertex from its replacing edge, in pixels.
        """
        kept = np.flatnonzero(self._kept)
        # From the end of a ring to the beginning of the next one there is no inside.
        self._repair(self._refined(self._chains(kept[:-1], kept[1:]), epsilon), epsilon)

    def _refined(self, chains: _Chains, epsilon: float) -> _Chains:
        """Split chains until no vertex is too far from its replacing edge.

        Args:
            chains: the chains.
            epsilon: maximum distance of a removed vertex from its replacing edge, in pixels.
        """
        done = chains[np.zeros(len(chains.first), np.bool_)]
        while len(chains.first):
            stop_if_cancelled()
            near = chains.deviation <= epsilon**2
            done += chains[near]
            chains = self._split(chains[~near])
        return done

    def _repair(self, chains: _Chains, epsilon: float) -> None:
        """Split the chains whose replacement would change the topology.

        Args:
            chains: the chains.
            epsilon: maximum distance of a removed vertex from its replacing edge, in pixels.
        """
        old = chains[np.zeros(len(chains.first), np.bool_)]
        new, fresh = chains, np.flatnonzero(self._kept)
        rounds = 0
        while len(new.first) or len(fresh):
            rounds += 1
            before = self._kept.copy()
            everything = np.flatnonzero(self._kept)
            bad_new = self._disturbed(new, everything)
            bad_old = self._disturbed(old, fresh)
            bad = new[bad_new] + old[bad_old]
            good = new[~bad_new] + old[~bad_old]
            if not len(bad.first):
                doubled = self._doubled(good)
                bad, good = good[doubled], good[~doubled]
            if not len(bad.first):
                turned = self._turned(good)
                bad, good = good[turned], good[~turned]
            if rounds > _ROUNDS:
                for first, last in zip(bad.first.tolist(), bad.last.tolist(), strict=True):
                    self._kept[first:last] = True
                new = bad[np.zeros(len(bad.first), np.bool_)]
            else:
                new = self._refined(self._split(bad), epsilon)
            old = good
            fresh = np.flatnonzero(self._kept & ~before)

    def _doubled(self, chains: _Chains) -> _Flags:
        """Whether the edge that replaces each chain is an edge already, of this or another ring.

        Two chains between two vertices where outlines touch would otherwise become one edge.
        """
        kept = np.flatnonzero(self._kept)
        stride = int(self._points.max()) + 1

        def keys(a: _Integers, b: _Integers) -> _Integers:
            one, other = (self._points[each] @ np.array([stride, 1]) for each in (a, b))
            numbers = np.stack([np.minimum(one, other), np.maximum(one, other)], axis=1)
            return np.asarray(np.unique(numbers, axis=0, return_inverse=True)[1].reshape(-1))

        within = ~np.isin(kept[1:], self._begins)
        edges = kept[:-1][within], kept[1:][within]
        key = keys(
            *(np.concatenate(pair) for pair in zip(edges, (chains.first, chains.last), strict=True))
        )
        counts = np.bincount(key[: len(edges[0])])
        return np.asarray(counts[key[len(edges[0]) :]] > 1)

    def _turned(self, chains: _Chains) -> _Flags:
        """Whether each chain belongs to a ring whose orientation the simplification changes."""
        turned = np.sign(self._signed_areas(self._kept)) != np.sign(self._areas)
        return np.asarray(turned[self._begins.searchsorted(chains.first, side="right") - 1])

    def _signed_areas(self, kept: _Flags) -> _Integers:
        """Twice the signed area of each ring of the kept vertices."""
        points = self._points[kept]
        following = np.roll(points, -1, axis=0)
        terms = points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]
        counts = kept.cumsum()
        terms[counts[self._ends - 1] - 1] = 0  # the last vertex is the first one again
        return np.add.reduceat(terms, counts[self._begins] - 1)

    def _split(self, chains: _Chains) -> _Chains:
        """Keep the farthest vertex of each chain; return the two chains beside it."""
        self._kept[chains.farthest] = True
        return self._chains(
            np.concatenate([chains.first, chains.farthest]),
            np.concatenate([chains.farthest, chains.last]),
        )

    def _chains(self, first: _Integers, last: _Integers) -> _Chains:
        """Measure the chains between pairs of kept vertices; those without an inside are left out.

        Args:
            first: index of the first vertex of each chain.
            last: index of the last vertex of each chain.
        """
        inside = last - first > 1
        first, last = first[inside], last[inside]
        if not len(first):
            nothing = np.zeros((0, 2), np.int64)
            return _Chains(first, last, first, np.zeros(0), nothing, nothing)
        own, index, begin = _ranges(first + 1, last)
        points, a, b = self._points[index], self._points[first], self._points[last]
        squared = _squared_distance(points, a[own], b[own])
        deviation = np.maximum.reduceat(squared, begin)
        peaks = np.flatnonzero(squared == deviation[own])
        _, unique = np.unique(own[peaks], return_index=True)
        low = np.minimum(np.minimum.reduceat(points, begin), np.minimum(a, b))
        high = np.maximum(np.maximum.reduceat(points, begin), np.maximum(a, b))
        return _Chains(first, last, index[peaks[unique]], deviation, low, high)

    def _disturbed(self, chains: _Chains, vertices: _Integers) -> _Flags:
        """Whether a vertex lies between each chain and the edge that replaces it, or on this edge.

        Args:
            chains: the chains.
            vertices: indices of kept vertices.
        """
        disturbed = np.zeros(len(chains.first), np.bool_)
        if not len(chains.first) or not len(vertices):
            return disturbed
        found = []
        for axis in (0, 1):
            order = vertices[self._points[vertices, axis].argsort(kind="stable")]
            values = self._points[order, axis]
            begin = values.searchsorted(chains.low[:, axis], side="left")
            end = values.searchsorted(chains.high[:, axis], side="right")
            found.append((order, begin, end))
        fewer = found[1][2] - found[1][1] < found[0][2] - found[0][1]
        for axis, (order, begin, end) in enumerate(found):
            rows = np.flatnonzero(fewer == bool(axis))
            for part in _portions(end[rows] - begin[rows]):
                stop_if_cancelled()
                chosen = rows[part]
                own, place, _ = _ranges(begin[chosen], end[chosen])
                self._mark(disturbed, chains, chosen[own], order[place])
        return disturbed

    def _mark(
        self, disturbed: _Flags, chains: _Chains, chain: _Integers, vertex: _Integers
    ) -> None:
        """Mark the chains that are disturbed by a vertex.

        Args:
            disturbed: flags of the chains, changed in place.
            chains: the chains.
            chain: number of the chain of each pair.
            vertex: index of the vertex of each pair.
        """
        points = self._points[vertex]
        inside = (points >= chains.low[chain]).all(1) & (points <= chains.high[chain]).all(1)
        chain, points = chain[inside], points[inside]
        a, b = self._points[chains.first[chain]], self._points[chains.last[chain]]
        squared = _squared_distance(points, a, b)
        # What a chain and its edge enclose is no farther from the edge than the chain.
        close = squared <= chains.deviation[chain] * (1 + 1e-9)
        close &= (points != a).any(1) & (points != b).any(1)
        chain, points = chain[close], points[close]
        disturbed[chain[squared[close] == 0]] = True
        left = ~disturbed[chain]
        chain, points = chain[left], points[left]
        for part in _portions(chains.last[chain] - chains.first[chain] + 1):
            enclosed = self._enclosed(
                chains.first[chain[part]], chains.last[chain[part]], points[part]
            )
            disturbed[chain[part][enclosed]] = True

    def _enclosed(self, first: _Integers, last: _Integers, points: _Integers) -> _Flags:
        """Whether each point is inside its closed chain, by the even-odd rule.

        Args:
            first: index of the first vertex of each point's chain.
            last: index of the last vertex.
            points: the points, int64 [n, 2].
        """
        own, index, begin = _ranges(first, last + 1)
        following = index + 1
        ends = np.append(begin[1:], len(index)) - 1
        following[ends] = first
        p, q, point = self._points[index], self._points[following], points[own]
        straddles = (p[:, 1] > point[:, 1]) != (q[:, 1] > point[:, 1])
        cross = (q[:, 0] - p[:, 0]) * (point[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (
            point[:, 0] - p[:, 0]
        )
        to_the_right = np.where(q[:, 1] > p[:, 1], cross > 0, cross < 0)
        return np.asarray(np.add.reduceat(straddles & to_the_right, begin, dtype=np.int64) & 1 == 1)

    def result(self) -> list[_Integers]:
        """The kept vertices of each ring, in the order that they had."""
        simplified = []
        for begin, end, first in zip(
            self._begins.tolist(), self._ends.tolist(), self._firsts, strict=True
        ):
            count = end - begin - 1
            kept = np.flatnonzero(self._kept[begin : end - 1])
            order = ((kept + first) % count).argsort()
            simplified.append(self._points[begin + kept[order]])
        return simplified


def _anchors(ring: _Integers) -> list[int]:
    """Three vertices of a ring that are far apart; fewer if it has not as many."""
    if len(ring) <= 3:
        return list(range(len(ring)))
    a = int(np.lexsort((ring[:, 0], ring[:, 1]))[0])
    apart = ring - ring[a]
    b = int((apart**2).sum(1).argmax())
    c = int(np.abs(apart[:, 0] * apart[b, 1] - apart[:, 1] * apart[b, 0]).argmax())
    return [a, b, c]


def _ranges(begin: _Integers, end: _Integers) -> tuple[_Integers, _Integers, _Integers]:
    """Join ranges of integers.

    Args:
        begin: first integer of each range.
        end: integer after its last.

    Returns:
        (number of the range of each integer, the integers, position of each range's first one).
    """
    counts = end - begin
    own = np.repeat(np.arange(len(counts)), counts)
    position = counts.cumsum() - counts
    return own, np.arange(len(own)) + (begin - position)[own], position


def _portions(counts: _Integers) -> Iterator[slice]:
    """Divide rows so that each portion has few pairs.

    Args:
        counts: number of pairs of each row.

    Yields:
        Slices of rows with at most `_PAIRS` pairs together, or of one row.
    """
    total = counts.cumsum()
    begin = 0
    while begin < len(counts):
        base = int(total[begin - 1]) if begin else 0
        end = max(begin + 1, int(total.searchsorted(base + _PAIRS, side="right")))
        yield slice(begin, end)
        begin = end


def _squared_distance(points: _Integers, a: _Integers, b: _Integers) -> NDArray[np.float64]:
    """Squared distance of each point from its segment, in pixels.

    Args:
        points: int64 [n, 2].
        a: one end of each segment, int64 [n, 2].
        b: the other end.
    """
    ab, ap = b - a, points - a
    length = (ab**2).sum(1)
    along = (ab * ap).sum(1)
    across = (ab[:, 0] * ap[:, 1] - ab[:, 1] * ap[:, 0]).astype(np.float64)
    past = ((points - b) ** 2).sum(1)
    return np.where(
        along <= 0,
        (ap**2).sum(1).astype(np.float64),
        np.where(along >= length, past, across**2 / np.maximum(length, 1)),
    )
