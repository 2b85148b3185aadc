"""Trace the outlines of a mask along the edges of its pixels, with its holes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference_server.masks.mask import Mask, column_runs
from inference_server.masks.simplify import simplify_rings

_Integers = NDArray[np.int64]


class _Edges(NamedTuple):
    """Horizontal edges of one kind, joined where they continue each other, in raster order.

    Attributes:
        left: first abscissa of each edge, `int64[n]`.
        right: last abscissa of each edge.
        y: ordinate of each edge.
        first_run: the run at the left end of each edge.
        of_run: the edge of each run.
    """

    left: _Integers
    right: _Integers
    y: _Integers
    first_run: _Integers
    of_run: _Integers


def mask_rings(mask: Mask, epsilon: float = 0.0) -> list[list[NDArray[np.int64]]]:
    """Trace each 4-connected part of a mask along the edges of its pixels.

    The cost follows the mask's outline, not the area of its box.

    Args:
        mask: the mask.
        epsilon: maximum distance in pixels between a ring and its simplification, which keeps all
            parts and holes. Default: 0, not simplified.

    Returns:
        The parts in raster order of their first pixels: for each its outer ring, followed by the
        rings of its holes. A ring is closed, `int64[n, 2]` of (x, y), where (0, 0) is the image's
        top left corner. An outer ring begins at the top left corner of the part's first pixel.
        Displayed with y downwards, outer rings run counter-clockwise and holes clockwise.
    """
    if mask.is_empty:
        return []
    column, start, end = column_runs(mask)
    tops, bottoms = _joined(column, start, mask.size), _joined(column, end, mask.size)
    edges = _Ends(
        np.concatenate([tops.left, bottoms.left, tops.right, bottoms.right]),
        np.concatenate([tops.y, bottoms.y] * 2),
        len(tops.y),
    )
    rings = edges.rings(mask.size[0])
    ring_of = np.empty(len(tops.y) + len(bottoms.y), np.int64)
    for index, ring in enumerate(rings):
        ring_of[ring] = index

    # The highest edge of an outer ring is a top edge; that of a hole is the bottom edge of a pixel
    # of the same part.
    part_of: dict[int, list[NDArray[np.int64]]] = {}
    parts: list[list[NDArray[np.int64]]] = []
    holes: list[tuple[int, int, int]] = []
    for index, ring in enumerate(rings):
        highest = int(ring[edges.y[ring].argmin()])
        if highest < edges.tops:
            part_of[index] = [edges.points(ring)]
            parts.append(part_of[index])
        else:
            holes.append((int(edges.y[highest]), index, highest - edges.tops))
    for _, index, bottom in sorted(holes):  # a ring above the hole precedes it
        top = tops.of_run[bottoms.first_run[bottom]]
        part_of[index] = part_of[int(ring_of[top])]
        part_of[index].append(edges.points(rings[index]))
    return _simplified(parts, epsilon) if epsilon > 0 else parts


def _simplified(
    parts: list[list[NDArray[np.int64]]], epsilon: float
) -> list[list[NDArray[np.int64]]]:
    """Simplify the closed rings of all parts together."""
    rings = iter(simplify_rings([ring[:-1] for part in parts for ring in part], epsilon))
    return [
        [np.concatenate([ring, ring[:1]]) for ring in islice(rings, len(part))] for part in parts
    ]


def _joined(column: _Integers, y: _Integers, size: tuple[int, int]) -> _Edges:
    """Join the top or bottom edges of runs that continue each other.

    Args:
        column: column of each run.
        y: ordinate of each run's edge.
        size: (height, width) of the image in pixels.
    """
    places = y * (size[1] + 1) + column  # edges of different rows are never neighbours
    order = places.argsort(kind="stable")
    places = places[order]
    begins = np.flatnonzero(np.diff(places, prepend=places[0] - 2) != 1)
    ends = np.append(begins[1:], len(order)) - 1
    of_run = np.empty(len(order), np.int64)
    of_run[order] = np.repeat(np.arange(len(begins)), ends - begins + 1)
    first = order[begins]
    return _Edges(column[first], column[order[ends]] + 1, y[first], first, of_run)


@dataclass(frozen=True, slots=True)
class _Ends:
    """The ends of horizontal edges, and the rings that they form.

    The left end of edge i is end i; its right end is end `n + i` of `2n`.

    Attributes:
        x: abscissa of each end, `int64[2n]`.
        y: ordinate of each end, `int64[2n]`.
        tops: number of top edges, which precede the bottom edges.
    """

    x: _Integers
    y: _Integers
    tops: int

    def rings(self, height: int) -> list[_Integers]:
        """Follow the edges; return the edges of each ring in order.

        With the mask on the right-hand side, top edges run to the right and bottom edges to the
        left. Between them, a vertical edge connects two neighbouring ends of the same abscissa.
        Where two pixels touch at a corner only, two ends coincide: that of the upper pixel comes
        first, so the pixels are not connected there. A ring that passes such a corner twice becomes
        two, because a ring of a valid polygon does not touch itself.

        Args:
            height: height of the image in pixels.
        """
        edges = len(self.x) // 2
        is_top = np.arange(2 * edges) % edges < self.tops
        keys = self.x * (height + 1) + self.y
        order = (keys * 2 + is_top).argsort(kind="stable")
        partner = np.empty(2 * edges, np.int64)
        partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
        heads = np.arange(edges) + np.where(is_top[:edges], edges, 0)
        tails = np.arange(edges) + np.where(is_top[:edges], 0, edges)
        ordered = keys[order]
        twice = np.flatnonzero(ordered[1:] == ordered[:-1])
        corner = np.full(2 * edges, -1, np.int64)  # number of the shared corner
        corner[order[twice]] = corner[order[twice + 1]] = np.arange(len(twice))

        successor = (partner[heads] % edges).tolist()
        shared = list(zip(corner[tails].tolist(), corner[heads].tolist(), strict=True))
        seen = bytearray(edges)
        rings: list[list[int]] = []
        for first in range(self.tops):  # every ring has a top edge before it is divided
            path: list[int] = []
            passed: dict[int, int] = {}
            edge = first
            while not seen[edge]:
                seen[edge] = 1
                tail, head = shared[edge]
                if tail >= 0:
                    _divide(path, passed, tail, rings)
                path.append(edge)
                if head >= 0:
                    _divide(path, passed, head, rings)
                edge = successor[edge]
            if path:
                rings.append(path)
        return [np.array(ring) for ring in rings]

    def points(self, ring: _Integers) -> _Integers:
        """Return the closed ring of the points at the ends of its edges, in reverse order."""
        left, right = ring, ring + len(self.x) // 2
        is_top = ring < self.tops
        points = np.empty((2 * len(ring) + 1, 2), np.int64)
        points[:-1:2, 0] = np.where(is_top, self.x[left], self.x[right])
        points[1::2, 0] = np.where(is_top, self.x[right], self.x[left])
        points[:-1, 1] = np.repeat(self.y[ring], 2)
        points[-1] = points[0]
        return points[::-1]


def _divide(path: list[int], passed: dict[int, int], corner: int, rings: list[list[int]]) -> None:
    """Move the edges since the last pass of a corner from a path to a ring of their own."""
    position = passed.setdefault(corner, len(path))
    if position < len(path):
        rings.append(path[position:])
        del path[position:]
