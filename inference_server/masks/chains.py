"""Chains of consecutive vertices of outlines, and the vertices near them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

_BAND = 3
"""Binary logarithm of the height of a band of vertices, in pixels."""


@dataclass(frozen=True, slots=True)
class Chains:
    """Chains of edges that are replaced by one edge each.

    Attributes:
        first: index of the first vertex of each chain, int64 [n].
        last: index of the last vertex.
        split: index of the inner vertex at which the chain is split if it is not replaced.
        deviation: greatest squared distance of an inner vertex from the replacing edge, float64
            [n].
        low: least coordinates (x, y) of the chain's vertices, int64 [2, n].
        high: greatest coordinates of the chain's vertices.
    """

    first: Integers
    last: Integers
    split: Integers
    deviation: NDArray[np.float64]
    low: Integers
    high: Integers

    @classmethod
    def none(cls) -> Chains:
        """No chains."""
        nothing, box = np.zeros(0, np.int64), np.zeros((2, 0), np.int64)
        return cls(nothing, nothing, nothing, np.zeros(0), box, box)

    @classmethod
    def joined(cls, parts: list[Chains]) -> Chains:
        """The chains of all parts, in their order."""
        if not parts:
            return cls.none()
        return cls(
            np.concatenate([part.first for part in parts]),
            np.concatenate([part.last for part in parts]),
            np.concatenate([part.split for part in parts]),
            np.concatenate([part.deviation for part in parts]),
            np.concatenate([part.low for part in parts], axis=1),
            np.concatenate([part.high for part in parts], axis=1),
        )

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, chosen: Flags) -> Chains:
        """The chosen chains."""
        return Chains(
            self.first[chosen],
            self.last[chosen],
            self.split[chosen],
            self.deviation[chosen],
            self.low[:, chosen],
            self.high[:, chosen],
        )

    def __add__(self, other: Chains) -> Chains:
        """The chains of both."""
        return Chains.joined([self, other])


class Bands:
    """Vertices in narrow bands, ordered along each band.

    Args:
        places: coordinates of all vertices, int64 [2, n].
        vertices: indices of the vertices to order.
        axis: direction of the bands: 0 along x, 1 along y.
    """

    def __init__(self, places: Integers, vertices: Integers, axis: int) -> None:
        along, across = places[axis][vertices], places[1 - axis][vertices] >> _BAND
        self._axis = axis
        self._stride = int(along.max()) + 2
        key = across * self._stride + along
        order = key.argsort(kind="stable")
        self._key = key[order]
        self.order = vertices[order]

    def crossed(self, chains: Chains, rows: Integers) -> Integers:
        """The number of bands that the box of each chain of `rows` touches."""
        across = 1 - self._axis
        low, high = chains.low[across][rows] >> _BAND, chains.high[across][rows] >> _BAND
        return np.asarray(high - low + 1)

    def within(self, chains: Chains, rows: Integers) -> tuple[Integers, Integers, Integers]:
        """The vertices of each band within the extent of each chain's box.

        Args:
            chains: the chains.
            rows: numbers of the chains to look at.

        Returns:
            (number of the chain, begin, end of its vertices in `order`) for each band crossed.
        """
        low = chains.low[1 - self._axis][rows] >> _BAND
        own, band, _ = ranges(low, low + self.crossed(chains, rows))
        chain = rows[own]
        base = band * self._stride
        least = chains.low[self._axis][chain]
        most = np.minimum(chains.high[self._axis][chain], self._stride - 1)
        begin = self._key.searchsorted(base + np.minimum(least, self._stride - 1), side="left")
        end = self._key.searchsorted(base + most, side="right")
        return chain, begin, np.maximum(begin, end)


def ranges(begin: Integers, end: Integers) -> tuple[Integers, Integers, Integers]:
    """Join ranges of integers.

    Args:
        begin: first integer of each range.
        end: integer after its last.

    Returns:
        (number of the range of each integer, the integers, position of each range's first one).
    """
    counts = end - begin
    position = counts.cumsum() - counts
    own = np.repeat(np.arange(len(counts)), counts)
    return own, np.arange(len(own)) + np.repeat(begin - position, counts), position


def portions(counts: Integers, most: int) -> Iterator[slice]:
    """Divide rows so that each portion has few pairs.

    Args:
        counts: number of pairs of each row.
        most: number of pairs of a portion at most, unless it is one row.

    Yields:
        Slices of rows.
    """
    total = counts.cumsum()
    begin = 0
    while begin < len(counts):
        base = int(total[begin - 1]) if begin else 0
        end = max(begin + 1, int(total.searchsorted(base + most, side="right")))
        yield slice(begin, end)
        begin = end


def squared_distance(points: Integers, a: Integers, b: Integers) -> NDArray[np.float64]:
    """Squared distance of each point from its segment, in pixels.

    Args:
        points: int64 [2, n].
        a: one end of each segment, int64 [2, n].
        b: the other end.
    """
    (abx, aby), (apx, apy) = b - a, points - a
    length = abx * abx + aby * aby
    along = abx * apx + aby * apy
    across = (abx * apy - aby * apx).astype(np.float64)
    before = apx * apx + apy * apy
    # |p - b|² = |p - a|² - 2 (p - a)(b - a) + |b - a|²
    past = before - 2 * along + length
    return np.where(
        along <= 0,
        before.astype(np.float64),
        np.where(along >= length, past, across**2 / np.maximum(length, 1)),
    )
