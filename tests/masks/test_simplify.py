"""Simplified outlines: near the mask's own, and of the same topology."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference_server.masks import Mask, mask_polygons, mask_rings, simplify_rings
from inference_server.masks import simplify as module
from tests.masks.planes import EXAMPLES, Plane, examples, planes

Point = tuple[int, int]
Ring = list[Point]
EPSILONS = st.sampled_from([0.3, 0.75, 1.0, 2.0, 5.0, 50.0])


def points(ring: NDArray[Any]) -> Ring:
    return [(int(x), int(y)) for x, y in ring]


def edges(ring: Ring) -> list[tuple[Point, Point]]:
    return list(zip(ring, ring[1:] + ring[:1], strict=True))


def touching(rings: Sequence[Ring], *, properly: bool = False) -> int:
    """The number of pairs of edges that have a point in common which is no end of both.

    Args:
        rings: all rings of a mask.
        properly: count those that cross only, not those that touch or coincide.
    """
    every = np.array([edge for ring in rings for edge in edges(ring)], np.int64)
    one, other = (every[index] for index in np.triu_indices(len(every), 1))
    (a, b), (c, d) = one.transpose(1, 0, 2), other.transpose(1, 0, 2)
    sides = [side(a, b, c), side(a, b, d), side(c, d, a), side(c, d, b)]
    crossing = (sides[0] * sides[1] < 0) & (sides[2] * sides[3] < 0)
    if properly:
        return int(crossing.sum())
    found = crossing | ((a == d).all(1) & (b == c).all(1)) | ((a == c).all(1) & (b == d).all(1))
    for turn, (p, q, point) in zip(
        sides, ((a, b, c), (a, b, d), (c, d, a), (c, d, b)), strict=True
    ):
        found |= (turn == 0) & (((point - p) * (q - point)).sum(1) > 0)
    return int(found.sum())


def side(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[Any]:
    ab, ac = b - a, c - a
    return np.asarray(np.sign(ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]))


def contains(ring: Ring, x: Fraction, y: Fraction) -> bool:
    inside = False
    for (x0, y0), (x1, y1) in edges(ring):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * Fraction(x1 - x0, y1 - y0):
            inside = not inside
    return inside


def area(ring: Ring) -> int:
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in edges(ring))


def surrounding(rings: Sequence[Ring]) -> list[list[int]]:
    """For each ring, the rings around it: by the middle of an edge that touches no other ring."""
    found = []
    for index, ring in enumerate(rings):
        (x0, y0), (x1, y1) = edges(ring)[0]
        x, y = Fraction(x0 + x1, 2), Fraction(y0 + y1, 2)
        others = enumerate(rings)
        found.append([number for number, o in others if number != index and contains(o, x, y)])
    return found


def assert_near(ring: Ring, simplified: Ring, epsilon: float) -> None:
    """The simplified ring is a part of the ring, and each vertex left out is near its edge."""
    kept = iter(simplified)
    doubled = ring + ring
    start = next(i for i, p in enumerate(ring) if p == simplified[0])
    assert next(kept) == ring[start]
    a = simplified[0]
    skipped: list[Point] = []
    wanted = next(kept, simplified[0])
    for point in doubled[start + 1 : start + len(ring) + 1]:
        if point == wanted:
            assert all(distance(p, a, wanted) <= epsilon * (1 + 1e-9) for p in skipped)
            a, skipped, wanted = point, [], next(kept, simplified[0])
        else:
            skipped.append(point)
    assert not skipped
    assert next(kept, None) is None


def distance(p: Point, a: Point, b: Point) -> float:
    ab, ap = np.subtract(b, a, dtype=float), np.subtract(p, a, dtype=float)
    t = float(np.clip(ab @ ap / max(ab @ ab, 1e-300), 0, 1))
    return float(np.linalg.norm(ap - t * ab))


def check_rings(plane: Plane, epsilon: float) -> None:
    mask = Mask.from_plane(plane)
    exact, simplified = mask_rings(mask), mask_rings(mask, epsilon)
    assert [len(part) for part in simplified] == [len(part) for part in exact]
    before = [points(ring[:-1]) for part in exact for ring in part]
    after = [points(ring[:-1]) for part in simplified for ring in part]
    for part in simplified:
        assert all((ring[0] == ring[-1]).all() for ring in part)
    for old, new in zip(before, after, strict=True):
        assert len(new) >= 3
        assert np.sign(area(new)) == np.sign(area(old))
        assert_near(old, new, epsilon)
    assert not after or not touching(after)
    assert surrounding(after) == surrounding(before)


def check_polygons(plane: Plane, epsilon: float) -> None:
    mask = Mask.from_plane(plane)
    exact, simplified = mask_polygons(mask), mask_polygons(mask, epsilon)
    assert len(simplified) == len(exact)
    for old, new in zip(exact, simplified, strict=True):
        assert new.dtype == np.int32
        before, after = points(old), points(new)
        assert all(plane[y, x] for x, y in after)
        assert len(after) >= min(len(before), 3 if area(before) else 1)
        assert np.sign(area(after)) == np.sign(area(before))
    if simplified:
        assert not touching([points(ring) for ring in simplified], properly=True)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 1000.0])
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str, epsilon: float) -> None:
    check_rings(examples()[name], epsilon)
    check_polygons(examples()[name], epsilon)


@settings(deadline=None, max_examples=60)
@given(planes(), EPSILONS)
def test_any_plane(plane: Plane, epsilon: float) -> None:
    check_rings(plane, epsilon)
    check_polygons(plane, epsilon)


@pytest.mark.parametrize("seed", range(8))
def test_noise(seed: int) -> None:
    """Rings that touch in many corners, and bays in which others lie."""
    rng = np.random.default_rng(seed)
    for density in (0.5, 0.7, 0.9):
        for epsilon in (0.75, 1.5, 5.0):
            plane = rng.random(rng.integers(8, 26, 2)) < density
            check_rings(plane, epsilon)
            check_polygons(plane, epsilon)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), EPSILONS)
def test_smooth_shapes(seed: int, epsilon: float) -> None:
    """Blobs with holes and islands, as models find them."""
    noise = np.random.default_rng(seed).random((40, 50)).astype(np.float32)
    plane = cv2.GaussianBlur(noise, (0, 0), 2.5) > 0.5
    check_rings(plane, epsilon)
    check_polygons(plane, epsilon)


def test_without_a_tolerance_nothing_changes() -> None:
    mask = Mask.from_plane(examples()["ring with an island"])
    for exact, same in zip(mask_polygons(mask), mask_polygons(mask, 0.0), strict=True):
        np.testing.assert_array_equal(exact, same)


def test_a_disk_keeps_its_shape_with_few_points() -> None:
    plane = np.zeros((200, 200), np.uint8)
    cv2.circle(plane, (100, 90), 70, 1, -1)
    mask = Mask.from_plane(plane.astype(np.bool_))
    (exact,), (simple,) = mask_polygons(mask), mask_polygons(mask, 2.0)
    (near,) = mask_polygons(mask, 0.75)
    assert len(simple) < 25 < len(near) < 100 < len(exact)
    drawn = np.zeros_like(plane)
    cv2.fillPoly(drawn, [simple], [1])
    assert (drawn & plane).sum() / (drawn | plane).sum() > 0.95


def test_a_hole_at_a_bulge_stays_inside() -> None:
    """The edge that replaces the bulge would pass the hole, and cross nothing."""
    plane = np.zeros((40, 100), np.bool_)
    plane[10:40] = True
    plane[6:10, 40:60] = True
    plane[7:9, 49:51] = False
    (outer, hole), *others = mask_rings(Mask.from_plane(plane), 8.0)
    assert not others
    assert contains(points(outer[:-1]), Fraction(50), Fraction(8))
    check_rings(plane, 8.0)
    assert len(hole) == 4 or len(hole) == 5


def test_a_part_in_a_bay_stays_outside() -> None:
    plane = np.zeros((40, 100), np.bool_)
    plane[10:40] = True
    plane[10:16, 40:60] = False
    plane[13, 50] = True
    check_rings(plane, 8.0)
    check_polygons(plane, 8.0)
    whole, speck = mask_rings(Mask.from_plane(plane), 8.0)
    x, y = speck[0][:-1].mean(0)
    assert not contains(points(whole[0][:-1]), Fraction(x), Fraction(y))


def test_a_spiral_is_not_turned_inside_out() -> None:
    plane = np.zeros((64, 64), np.bool_)
    angle = np.linspace(0, 9 * np.pi, 4000)
    x, y = 32 + angle * np.cos(angle), 32 + angle * np.sin(angle)
    plane[y.astype(int), x.astype(int)] = True
    for epsilon in (1.0, 4.0, 30.0):
        check_rings(plane, epsilon)
        check_polygons(plane, epsilon)


def test_replacements_are_undone_as_a_whole_after_many_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_ROUNDS", 0)
    rng = np.random.default_rng(5)
    for _ in range(20):
        check_rings(rng.random((12, 12)) < 0.5, 5.0)


def test_few_pairs_at_once_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = np.random.default_rng(3).random((30, 30)) < 0.6
    mask = Mask.from_plane(plane)
    whole = mask_rings(mask, 2.0)
    monkeypatch.setattr(module, "_PAIRS", 7)
    for part, same in zip(whole, mask_rings(mask, 2.0), strict=True):
        for ring, other in zip(part, same, strict=True):
            np.testing.assert_array_equal(ring, other)


def comb(side: int) -> Plane:
    """Ragged stripes, joined at one end."""
    plane = np.zeros((side, side), np.bool_)
    rng = np.random.default_rng(11)
    for y in range(0, side, 4):
        plane[y : y + 2, : side - int(rng.integers(0, 4))] = True
        plane[y + 2, 4 : side - 8] = rng.random(side - 12) < 0.2
    plane[:, :3] = True
    return plane


def coil(side: int) -> Plane:
    """A ragged line that winds inwards."""
    plane = np.zeros((side, side), np.bool_)
    low, high = 0, side - 1
    while high - low > 10:
        plane[low : low + 2, low : high + 1] = True
        plane[low : high + 1, high - 1 : high + 1] = True
        plane[high - 1 : high + 1, low : high + 1] = True
        plane[low + 4 : high + 1, low : low + 2] = True
        plane[low + 4 : low + 6, low : low + 6] = True
        low, high = low + 4, high - 4
    rng = np.random.default_rng(12)
    plane[2::4] |= (rng.random(plane[2::4].shape) < 0.1) & plane[1::4] & ~plane[3::4]
    return plane


@pytest.mark.parametrize("shape", [comb, coil])
@pytest.mark.parametrize("epsilon", [1.0, 20.0])
def test_stripes_keep_their_topology(shape: Callable[[int], Plane], epsilon: float) -> None:
    check_rings(shape(48), epsilon)
    check_polygons(shape(48), epsilon)


@pytest.mark.parametrize("epsilon", [1.0, 20.0])
@pytest.mark.parametrize("shape", [comb, coil])
def test_the_work_grows_with_the_vertices(shape: Callable[[int], Plane], epsilon: float) -> None:
    """The farthest vertex of a row of teeth is the next one: n splits would measure n² vertices."""
    rings = [ring[:-1] for part in mask_rings(Mask.from_plane(shape(800))) for ring in part]
    outlines = module._Outlines(rings)
    outlines.simplify(epsilon)
    assert outlines.work <= 64 * sum(len(ring) for ring in rings)


@pytest.mark.parametrize("budget", [0, 1000, 5000, 9000, 14000, 100000])
def test_beyond_the_budget_vertices_stay(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    """What is undecided is not simplified; all else holds."""
    monkeypatch.setattr(module, "_WORK", 0)
    monkeypatch.setattr(module, "_LEAST_WORK", budget)
    rng = np.random.default_rng(6)
    for plane in (comb(32), coil(32), *(rng.random((16, 16)) < 0.6 for _ in range(4))):
        check_rings(plane, 1.5)
        check_polygons(plane, 1.5)
    mask = Mask.from_plane(comb(32))
    exact, simplified = (sum(map(len, mask_polygons(mask, epsilon))) for epsilon in (0.0, 1.5))
    assert simplified == exact if not budget else simplified <= exact
    assert budget < 100_000 or simplified < exact


def test_halving_takes_precedence_and_long_chains_are_divided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(7)
    planes = [comb(32), coil(32), *(rng.random((16, 16)) < 0.6 for _ in range(4))]
    for levels in (-8, -100):
        monkeypatch.setattr(module, "_LEVELS", levels)
        for plane in planes:
            check_rings(plane, 1.5)
    monkeypatch.setattr(module, "_LONGEST", 5)
    for plane in planes:
        check_rings(plane, 5.0)


def test_no_rings() -> None:
    assert simplify_rings([], 2.0) == []
    assert mask_rings(Mask.empty((4, 4)), 2.0) == []
    assert mask_polygons(Mask.empty((4, 4)), 2.0) == []


@pytest.mark.parametrize("ring", [[(3, 4)], [(3, 4), (9, 4)], [(0, 0), (4, 0), (0, 3)]])
def test_rings_of_up_to_three_vertices_stay(ring: Ring) -> None:
    (same,) = simplify_rings([np.array(ring)], 100.0)
    assert points(same) == ring


def test_no_vertex_follows_itself() -> None:
    """A contour goes along single pixels and back, and their end may be simplified away."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        noise = rng.random((60, 60)).astype(np.float32)
        mask = Mask.from_plane(cv2.GaussianBlur(noise, (0, 0), 2) > 0.5)
        for epsilon in (1.0, 2.0):
            for polygon in mask_polygons(mask, epsilon):
                assert len(polygon) == 1 or (polygon != np.roll(polygon, 1, axis=0)).any(1).all()
