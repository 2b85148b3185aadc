"""Cut polygons where longitude begins anew, as section 3.1.9 of RFC 7946 asks for.

This is our own code, because none of our dependencies cuts polygons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Ring: TypeAlias = list[list[float]]
"""A closed ring of [x, y]."""


@dataclass(frozen=True, slots=True)
class _Chain:
    """The part of a ring on one side of a meridian.

    Attributes:
        points: its points; the first and the last are on the meridian.
    """

    points: Ring

    @property
    def begin(self) -> float:
        """Where it leaves the meridian, in y."""
        return self.points[0][1]

    @property
    def end(self) -> float:
        """Where it comes back, in y."""
        return self.points[-1][1]


def cut(rings: Sequence[Ring], half: float) -> list[list[Ring]]:
    """Cut a polygon along the antimeridian, so that no part crosses it.

    Args:
        rings: the polygon's outer ring, followed by its holes; the outer ring begins between
            `-half` and `half` in x and may continue beyond `half`.
        half: half a turn around the Earth in the unit of x, such as 180.

    Returns:
        The parts, with x from `-half` to `half`; the polygon itself if it does not cross.
    """
    parts: list[list[Ring]] = []
    rest = [list(rings)]
    while rest:
        polygon = rest.pop()
        if max(x for x, _ in polygon[0]) <= half:
            parts.append(polygon)
            continue
        parts += _side(polygon, half, beyond=False)
        east = _side(polygon, half, beyond=True)
        rest += [[[[x - 2 * half, y] for x, y in ring] for ring in part] for part in east]
    return parts


def _side(polygon: Sequence[Ring], at: float, *, beyond: bool) -> list[list[Ring]]:
    """The part of a polygon up to a meridian, or beyond it."""
    outers: list[Ring] = []
    holes: list[Ring] = []
    chains: list[_Chain] = []
    for number, ring in enumerate(polygon):
        inside = [(x > at) == beyond for x, _ in ring]
        if all(inside):
            (holes if number else outers).append(ring)
        elif any(inside):
            chains += _chains(ring, inside, at)
    outers += _joined(chains)
    found = [[outer] for outer in outers if _area(outer)]
    for hole in holes:
        own = next((each for each in found[:-1] if _contains(each[0], hole)), found[-1])
        own.append(hole)
    return found


def _chains(ring: Ring, inside: Sequence[bool], at: float) -> Iterator[_Chain]:
    """The parts of a ring between points on a meridian, some inside and some not."""
    count = len(ring) - 1
    first = next(i for i in range(count) if not inside[i] and inside[i + 1])
    points: Ring = []
    for step in range(first, first + count):
        i, j = step % count, step % count + 1
        if inside[i] != inside[j]:
            (x0, y0), (x1, y1) = ring[i], ring[j]
            crossing = [at, y0 + (y1 - y0) * ((at - x0) / (x1 - x0))]
            if not points or crossing != points[-1]:
                points.append(crossing)
            if inside[i]:
                yield _Chain(points)
                points = []
        if inside[j] and ring[j] != points[-1]:
            points.append(ring[j])


def _joined(chains: Sequence[_Chain]) -> Iterator[Ring]:
    """Join chains along the meridian to closed rings.

    From below, the polygon is entered and left in turn. So the n-th end belongs to the n-th
    beginning.
    """
    by_begin = sorted(range(len(chains)), key=lambda i: chains[i].begin)
    by_end = sorted(range(len(chains)), key=lambda i: chains[i].end)
    following = dict(zip(by_end, by_begin, strict=True))
    left = set(following)
    while left:
        number = min(left)
        ring: Ring = []
        while number in left:
            left.remove(number)
            ring += chains[number].points
            number = following[number]
        yield [*ring, ring[0]]


def _area(ring: Ring) -> float:
    """Twice the signed area of a closed ring; 0 if it has none."""
    x, y = np.array(ring).T
    x, y = x - x[0], y - y[0]
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())


def _contains(outer: Ring, hole: Ring) -> bool:
    """Whether a hole is in a ring; they may touch in corners."""
    x, y = (hole[0][0] + hole[1][0]) / 2, (hole[0][1] + hole[1][1]) / 2
    (xs, ys), odd = np.array(outer).T, False
    for x0, y0, x1, y1 in zip(xs[:-1], ys[:-1], xs[1:], ys[1:], strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (x1 - x0) * ((y - y0) / (y1 - y0)):
            odd = not odd
    return odd
