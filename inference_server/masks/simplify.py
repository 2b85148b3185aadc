"""Simplify outlines without changing their topology."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference_server.executor import stop_if_cancelled
from inference_server.masks.chains import (
    Bands,
    Chains,
    Flags,
    Integers,
    portions,
    ranges,
    squared_distance,
)

_PAIRS = 1 << 14
"""Pairs of a vertex and an edge that are compared at once; bounds the memory, and fits a cache."""

_ROUNDS = 16
"""Rounds after which a replacement that still disturbs others is undone as a whole."""

_CASCADE = 64
"""Rounds after which every vertex is kept."""

_LONGEST = 1 << 17
"""Edges of a chain at most; bounds the memory that one chain needs."""

_LEVELS = 2
"""Splits of a chain, beyond the logarithm of its length, before halving takes precedence."""

_WORK = 128
"""Comparisons per vertex that may be spent on simplification."""

_LEAST_WORK = 1 << 22
"""Comparisons that may be spent on few vertices."""


def simplify_rings(rings: Sequence[NDArray[np.integer]], epsilon: float) -> list[Integers]:
    """Remove vertices of rings by Douglas and Peucker's method, and keep the topology.

    A chain of edges is replaced by one edge only if no remaining vertex of any ring lies between
    the chain and the edge (de Berg, van Kreveld and Schirra, "Topologically correct subdivision
    simplification using the bandwidth criterion", 1998). So rings do not cross, each ring lies
    inside the same rings as before, and touches others only where it did. All comparisons that
    decide this are exact.

    The number of comparisons is bounded by a multiple of the number of vertices. Chains that are
    not decided within the bound keep all their vertices; then the result has more vertices than
    it needs, but the same topology.

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


class _Outlines:
    """All rings of a mask, and which of their vertices are kept.

    Args:
        rings: int64 [n, 2] each.

    Attributes:
        work: comparisons of a vertex with an edge or a band so far.
    """

    def __init__(self, rings: Sequence[Integers]) -> None:
        lengths = np.array([len(ring) + 1 for ring in rings])
        self._ends = lengths.cumsum()
        self._begins = self._ends - lengths
        self._places = np.empty((2, int(self._ends[-1])), np.int64)
        self._kept = np.zeros(self._places.shape[1], np.bool_)
        self._firsts: list[int] = []
        for ring, begin in zip(rings, self._begins.tolist(), strict=True):
            anchors = _anchors(ring)
            # Each ring begins, and ends again, with a vertex that is kept.
            first = anchors[0]
            self._firsts.append(first)
            end = begin + len(ring)
            self._places[:, begin : end - first] = ring[first:].T
            self._places[:, end - first : end] = ring[:first].T
            self._places[:, end] = ring[first]
            self._kept[begin : end + 1 : _LONGEST] = True
            self._kept[begin + (np.array(anchors) - first) % len(ring)] = True
            self._kept[end] = True
        self._pin_shared()
        self._areas = self._signed_areas(np.ones(len(self._kept), np.bool_))
        self.work = 0
        self._budget = self._allowance = max(_WORK * len(self._kept), _LEAST_WORK)
        self._spent = False

    def _numbers(self, vertices: Integers) -> Integers:
        """A number for each vertex that is the same for vertices at the same place."""
        stride = int(self._places[1].max()) + 1
        return np.asarray(self._places[0][vertices] * stride + self._places[1][vertices])

    def _pin_shared(self) -> None:
        """Keep the vertices that are passed more than once, where outlines touch."""
        inner = np.ones(len(self._kept), np.bool_)
        inner[self._ends - 1] = False
        indices = np.flatnonzero(inner)
        key = self._numbers(indices)
        order = key.argsort(kind="stable")
        key = key[order]
        same = np.flatnonzero(key[1:] == key[:-1])
        self._kept[indices[order[same]]] = True
        self._kept[indices[order[same + 1]]] = True

    def simplify(self, epsilon: float) -> None:
        """Choose the vertices to keep.

        Args:
            epsilon: maximum distance of a removed vertex from its replacing edge, in pixels.
        """
        kept = np.flatnonzero(self._kept)
        # From the end of a ring to the beginning of the next one there is no inside.
        self._repair(self._refined(self._chains(kept[:-1], kept[1:], 0), epsilon), epsilon)

    def _refined(self, chains: Chains, epsilon: float) -> Chains:
        """Split chains until no vertex is too far from its replacing edge.

        Args:
            chains: the chains.
            epsilon: maximum distance of a removed vertex from its replacing edge, in pixels.
        """
        done = []
        level = 0
        while len(chains):
            stop_if_cancelled()
            level += 1
            near = chains.deviation <= epsilon**2
            done.append(chains[near])
            chains = self._split(chains[~near], level)
        return Chains.joined(done)

    def _repair(self, chains: Chains, epsilon: float) -> None:
        """Split the chains whose replacement would change the topology.

        Args:
            chains: the chains.
            epsilon: maximum distance of a removed vertex from its replacing edge, in pixels.
        """
        old = Chains.none()
        new, fresh = chains, np.flatnonzero(self._kept)
        rounds = 0
        undo = False
        while len(new) or len(fresh):
            rounds += 1
            before = self._kept.copy()
            bad_new = self._disturbed(new, np.flatnonzero(self._kept))
            bad_old = self._disturbed(old, fresh)
            bad = new[bad_new] + old[bad_old]
            good = new[~bad_new] + old[~bad_old]
            if not len(bad):
                doubled = self._doubled(good)
                bad, good = good[doubled], good[~doubled]
            if not len(bad):
                turned = self._turned(good)
                bad, good = good[turned], good[~turned]
            if rounds > _CASCADE or (self._spent and undo):
                self._kept[:] = True
                return
            undo |= self._spent or rounds > _ROUNDS
            if self._spent:
                # What the undone chains disturb is decided within as many comparisons again.
                self._budget, self._spent = self.work + self._allowance, False
            if undo:
                self._kept[ranges(bad.first, bad.last)[1]] = True
                new = Chains.none()
            else:
                new = self._refined(self._split(bad, 1), epsilon)
            old = good
            fresh = np.flatnonzero(self._kept & ~before)

    def _doubled(self, chains: Chains) -> Flags:
        """Whether the edge that replaces each chain is an edge already, of this or another ring.

        Two chains between two vertices where outlines touch would otherwise become one edge.
        """
        doubled = np.zeros(len(chains), np.bool_)
        if not len(chains):
            return doubled
        kept = np.flatnonzero(self._kept)
        number = self._numbers(kept)
        ends = np.stack([self._numbers(chains.first), self._numbers(chains.last)])
        names = np.unique(ends)
        begins = np.zeros(len(self._kept), np.bool_)
        begins[self._begins] = True
        known = names[np.minimum(names.searchsorted(number), len(names) - 1)] == number
        within = known[:-1] & known[1:] & ~begins[kept[1:]]
        edges = np.stack([number[:-1][within], number[1:][within]])

        def key(pair: Integers) -> Integers:
            one, other = names.searchsorted(pair)
            return np.asarray(np.minimum(one, other) * len(names) + np.maximum(one, other))

        replacing, present = key(ends), np.sort(key(edges))
        counts = present.searchsorted(replacing, "right") - present.searchsorted(replacing, "left")
        return np.asarray(counts > 1)

    def _turned(self, chains: Chains) -> Flags:
        """Whether each chain belongs to a ring whose orientation the simplification changes."""
        turned = np.sign(self._signed_areas(self._kept)) != np.sign(self._areas)
        return np.asarray(turned[self._begins.searchsorted(chains.first, side="right") - 1])

    def _signed_areas(self, kept: Flags) -> Integers:
        """Twice the signed area of each ring of the kept vertices."""
        x, y = self._places[:, kept]
        terms = np.zeros(len(x), np.int64)
        terms[:-1] = x[:-1] * y[1:] - y[:-1] * x[1:]
        counts = kept.cumsum()
        terms[counts[self._ends - 1] - 1] = 0  # the last vertex is the first one again
        return np.add.reduceat(terms, counts[self._begins] - 1)

    def _split(self, chains: Chains, level: int) -> Chains:
        """Keep a vertex of each chain; return the two chains beside it.

        Args:
            chains: the chains.
            level: number of times that the chains have been split before, for the next choice.
        """
        self._kept[chains.split] = True
        return self._chains(
            np.concatenate([chains.first, chains.split]),
            np.concatenate([chains.split, chains.last]),
            level,
        )

    def _chains(self, first: Integers, last: Integers, level: int) -> Chains:
        """Measure the chains between pairs of kept vertices; those without an inside are left out.

        Args:
            first: index of the first vertex of each chain.
            last: index of the last vertex of each chain.
            level: number of times that the chains have been split before.
        """
        inside = last - first > 1
        first, last = first[inside], last[inside]
        return Chains.joined(
            [
                self._measured(first[part], last[part], level)
                for part in portions(last - first, _PAIRS)
            ]
        )

    def _measured(self, first: Integers, last: Integers, level: int) -> Chains:
        """Measure chains, and choose where they are split.

        The vertex that is farthest from the edge may be next to an end every time, as along the
        teeth of a comb, and then n splits measure n² vertices. So after many splits the choice
        is among the vertices that are at least half as far, and later is the middle.

        Args:
            first: index of the first vertex of each chain.
            last: index of the last vertex of each chain, at least `first` + 2.
            level: number of times that the chains have been split before.
        """
        own, index, begin = ranges(first + 1, last)
        counts = last - first - 1
        self.work += len(index)
        points, a, b = self._places[:, index], self._places[:, first], self._places[:, last]
        squared = squared_distance(points, a.repeat(counts, axis=1), b.repeat(counts, axis=1))
        deviation = np.maximum.reduceat(squared, begin)
        limit = len(self._kept).bit_length() + _LEVELS
        if level < limit:
            peaks = np.flatnonzero(squared == deviation.repeat(counts))
            split = index[peaks[own[peaks].searchsorted(np.arange(len(first)))]]
        elif level < 2 * limit:
            peaks = np.flatnonzero(squared >= deviation.repeat(counts) / 4)
            chain, vertex = own[peaks], index[peaks]
            order = np.lexsort((np.abs(2 * vertex - first[chain] - last[chain]), chain))
            split = vertex[order][chain.searchsorted(np.arange(len(first)))]
        else:
            split = (first + last) // 2
        low = np.minimum(np.minimum.reduceat(points, begin, axis=1), np.minimum(a, b))
        high = np.maximum(np.maximum.reduceat(points, begin, axis=1), np.maximum(a, b))
        return Chains(first, last, split, deviation, low, high)

    def _disturbed(self, chains: Chains, vertices: Integers) -> Flags:
        """Whether a vertex lies between each chain and the edge that replaces it, or on this edge.

        Chains that cannot be decided within the budget count as disturbed.

        Args:
            chains: the chains.
            vertices: indices of kept vertices.
        """
        disturbed = np.zeros(len(chains), np.bool_)
        if not len(chains) or not len(vertices):
            return disturbed
        width, height = chains.high - chains.low
        for axis in (0, 1):
            rows = np.flatnonzero((height > width) == bool(axis))
            if not len(rows):
                continue
            bands = Bands(self._places, vertices, axis)
            crossed = bands.crossed(chains, rows)
            for part in portions(crossed, _PAIRS):
                if not self._affords(int(crossed[part].sum())):
                    disturbed[rows[part]] = True
                    continue
                chain, begin, end = bands.within(chains, rows[part])
                for some in portions(end - begin, _PAIRS):
                    stop_if_cancelled()
                    if not self._affords(int((end[some] - begin[some]).sum())):
                        disturbed[chain[some]] = True
                        continue
                    own, place, _ = ranges(begin[some], end[some])
                    self._mark(disturbed, chains, chain[some][own], bands.order[place])
        return disturbed

    def _affords(self, comparisons: int) -> bool:
        """Count comparisons if the budget has them left; whether it has."""
        self._spent |= self.work + comparisons > self._budget
        if not self._spent:
            self.work += comparisons
        return not self._spent

    def _mark(self, disturbed: Flags, chains: Chains, chain: Integers, vertex: Integers) -> None:
        """Mark the chains that are disturbed by a vertex.

        Args:
            disturbed: flags of the chains, changed in place.
            chains: the chains.
            chain: number of the chain of each pair.
            vertex: index of the vertex of each pair.
        """
        x, y = self._places[:, vertex]
        inside = (x >= chains.low[0][chain]) & (x <= chains.high[0][chain])
        inside &= (y >= chains.low[1][chain]) & (y <= chains.high[1][chain])
        chain, points = chain[inside], self._places[:, vertex[inside]]
        a, b = self._places[:, chains.first[chain]], self._places[:, chains.last[chain]]
        squared = squared_distance(points, a, b)
        # What a chain and its edge enclose is no farther from the edge than the chain.
        close = squared <= chains.deviation[chain] * (1 + 1e-9)
        close &= (points != a).any(0) & (points != b).any(0)
        chain, points = chain[close], points[:, close]
        disturbed[chain[squared[close] == 0]] = True
        left = ~disturbed[chain]
        chain, points = chain[left], points[:, left]
        lengths = chains.last[chain] - chains.first[chain] + 1
        for part in portions(lengths, _PAIRS):
            some = np.arange(part.start, part.stop)
            some = some[~disturbed[chain[some]]]
            if self._affords(int(lengths[some].sum())):
                first, last = chains.first[chain[some]], chains.last[chain[some]]
                some = some[self._enclosed(first, last, points[:, some])] if len(some) else some
            disturbed[chain[some]] = True

    def _enclosed(self, first: Integers, last: Integers, points: Integers) -> Flags:
        """Whether each point is inside its closed chain, by the even-odd rule.

        Args:
            first: index of the first vertex of each point's chain.
            last: index of the last vertex.
            points: the points, int64 [2, n].
        """
        own, index, begin = ranges(first, last + 1)
        following = index + 1
        following[np.append(begin[1:], len(index)) - 1] = first
        (px, py), (qx, qy), (x, y) = self._places[:, index], self._places[:, following], points
        x, y = x[own], y[own]
        straddles = (py > y) != (qy > y)
        cross = (qx - px) * (y - py) - (qy - py) * (x - px)
        to_the_right = np.where(qy > py, cross > 0, cross < 0)
        return np.asarray(np.add.reduceat(straddles & to_the_right, begin, dtype=np.int64) & 1 == 1)

    def result(self) -> list[Integers]:
        """The kept vertices of each ring, in the order that they had."""
        simplified = []
        for begin, end, first in zip(
            self._begins.tolist(), self._ends.tolist(), self._firsts, strict=True
        ):
            count = end - begin - 1
            kept = np.flatnonzero(self._kept[begin : end - 1])
            # The vertices before the first one of the ring as it came are at its end here.
            wrap = int(kept.searchsorted(count - first))
            order = np.concatenate([kept[wrap:], kept[:wrap]])
            simplified.append(np.ascontiguousarray(self._places[:, begin + order].T))
        return simplified


def _anchors(ring: Integers) -> list[int]:
    """Three vertices of a ring that are far apart; fewer if it has not as many."""
    if len(ring) <= 3:
        return list(range(len(ring)))
    x, y = ring.T
    a = int((y * (int(x.max()) + 1) + x).argmin())
    dx, dy = x - x[a], y - y[a]
    b = int((dx * dx + dy * dy).argmax())
    c = int(np.abs(dx * dy[b] - dy * dx[b]).argmax())
    return [a, b, c]
