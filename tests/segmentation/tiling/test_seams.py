"""Objects that windows cut: each is found once, none is split, none are merged."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_server.errors import ImageTooLargeError
from inference_server.masks import Mask
from inference_server.segmentation.tiling.grid import Grid
from inference_server.segmentation.tiling.seams import SeamMerger, SeamOptions
from inference_server.segmentation.types import Instance
from tests.segmentation.tiling.worlds import (
    Plane,
    Show,
    connected,
    exact,
    in_raster,
    merged,
    rectangle,
    ring,
    seen,
)

SIZE = (90, 110)
GRID = Grid.of(SIZE, 40, 10)


def found_in(objects: list[Plane], grid: Grid = GRID, show: Show = exact) -> list[Plane]:
    """The planes of the objects that remain."""
    found = merged(grid, [seen(objects, window, show) for window in grid])
    return [instance.mask.to_plane() for instance in found]


def same(found: list[Plane], objects: list[Plane]) -> bool:
    """Whether each object is found exactly once, pixel by pixel."""
    return sorted(plane.tobytes() for plane in found) == sorted(
        plane.tobytes() for plane in objects
    )


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Grid, list[Plane]]:
    """A grid of any size, and shapes that may touch, but share no pixel."""
    size = draw(st.integers(10, 70)), draw(st.integers(10, 70))
    tile = draw(st.integers(8, 40))
    grid = Grid.of(size, tile, draw(st.integers(1, (tile - 1) // 2)))
    free = np.ones(size, np.bool_)
    objects = []
    for _ in range(draw(st.integers(1, 12))):
        x, y = draw(st.integers(0, size[1] - 1)), draw(st.integers(0, size[0] - 1))
        w, h = draw(st.integers(1, size[1])), draw(st.integers(1, size[0]))
        kind = draw(st.sampled_from(["box", "ring", "line", "dot"]))
        if kind == "box":
            plane = rectangle(size, x, y, x + w, y + h)
        elif kind == "ring":
            plane = ring(size, x, y, min(w, h), min(w, h) / 2)
        elif kind == "line":
            canvas = np.zeros(size, np.uint8)
            cv2.line(canvas, (x, y), (w - 1, h - 1), 1, draw(st.integers(1, 3)))
            plane = canvas.astype(np.bool_)
        else:
            plane = rectangle(size, x, y, x + min(w, 4), y + min(h, 4))
        plane &= free
        count, labels = cv2.connectedComponents(plane.view(np.uint8))
        objects += [labels == i for i in range(1, count)]
        free &= ~plane
    return grid, objects


@settings(max_examples=100)
@given(worlds())
def test_every_object_is_found_once(world: tuple[Grid, list[Plane]]) -> None:
    grid, objects = world
    assert same(found_in(objects, grid), objects)


@pytest.mark.parametrize("show", [exact, connected])
@pytest.mark.parametrize(
    "plane",
    {
        "road through everything": rectangle(SIZE, 0, 42, 110, 47),
        "road along a seam": rectangle(SIZE, 0, 33, 110, 37),
        "larger than a window": rectangle(SIZE, 5, 5, 100, 80),
        "everything": rectangle(SIZE, 0, 0, 110, 90),
        "as wide as the strip": rectangle(SIZE, GRID.lefts[1], 50, GRID.lefts[0] + 40, 60),
        "inside the strip": rectangle(SIZE, GRID.lefts[1] + 2, 50, GRID.lefts[0] + 38, 60),
        "ring around a corner": ring(SIZE, GRID.lefts[1] + 5, GRID.tops[1] + 5, 12, 8),
        "ring of four windows": ring(SIZE, GRID.lefts[1] + 5, GRID.tops[1] + 5, 30, 20),
        "u across a seam": rectangle(SIZE, 10, 10, 60, 35) & ~rectangle(SIZE, 20, 18, 60, 27),
        "comb across a seam": rectangle(SIZE, 10, 10, 60, 36)
        & ~np.logical_or.reduce([rectangle(SIZE, 20, y, 60, y + 3) for y in (13, 20, 27)]),
    }.items(),
    ids=lambda each: each[0],
)
def test_an_object_cut_by_windows_is_one(plane: tuple[str, Plane], show: Show) -> None:
    assert same(found_in([plane[1]], show=show), [plane[1]])


def snake(size: tuple[int, int]) -> Plane:
    """A line that crosses the first seam five times."""
    plane = np.zeros(size, np.bool_)
    for i, y in enumerate(range(2, 38, 8)):
        plane[y : y + 3, 10:60] = True
        if y < 34:
            x = 57 if i % 2 == 0 else 10
            plane[y : y + 11, x : x + 3] = True
    return plane


def test_a_line_that_crosses_a_seam_many_times_is_one() -> None:
    """Both windows show it as several objects, and none of them agrees with one of the other."""
    line = snake(SIZE)
    assert same(found_in([line], show=connected), [line])


def test_objects_that_touch_in_the_strip_stay_two() -> None:
    left = GRID.lefts[1]
    pairs = [
        [rectangle(SIZE, 10, 10, 60, 20), rectangle(SIZE, 10, 20, 60, 30)],
        [rectangle(SIZE, 10, 10, left + 5, 20), rectangle(SIZE, left + 5, 10, 60, 20)],
        [rectangle(SIZE, 10, 50, left + 5, 60), rectangle(SIZE, left + 6, 50, 60, 60)],
    ]
    for objects in pairs:
        assert same(found_in(objects), objects)


def test_an_object_on_a_background_stays_one_of_two() -> None:
    """A mask of the whole window in every window is one object, and swallows none."""
    background = rectangle(SIZE, 0, 0, 110, 90)
    inner = [rectangle(SIZE, 30, 10, 50, 20), rectangle(SIZE, 55, 50, 60, 55)]
    assert same(found_in([background, *inner]), [background, *inner])


def test_different_prompts_find_different_objects() -> None:
    plane = rectangle(SIZE, 10, 10, 60, 20)
    windows = [
        [replace(one, prompt=prompt) for one in seen([plane], window) for prompt in (0, 1)]
        for window in GRID
    ]
    found = merged(GRID, windows)
    assert [instance.prompt for instance in found] == [0, 1]
    together = merged(GRID, windows, SeamOptions(by_prompt=False, nms_iou_threshold=0.5))
    assert len(together) == 1


def test_a_rim_is_judged_by_the_window_that_sees_the_object() -> None:
    """A window's edge shows a bit of an object, and the model takes it for something else."""
    edge = GRID.lefts[0] + 40
    wrong = rectangle(SIZE, edge - 4, 10, edge, 14)
    windows = [seen([wrong], window) if i == 0 else [] for i, window in enumerate(GRID)]
    assert merged(GRID, windows) == []


def test_a_cut_object_needs_the_window_that_shows_as_much_of_it() -> None:
    """It sticks out of the strip by a little, so no window contains it."""
    left, edge = GRID.lefts[1], GRID.lefts[0] + 40
    plane = rectangle(SIZE, left - 1, 10, edge, 20)
    alone = [seen([plane], window) if i == 0 else [] for i, window in enumerate(GRID)]
    assert GRID.better(0, (left - 1, 10, edge, 20)) == frozenset()
    assert merged(GRID, alone) == []
    confirmed = [seen([plane], window) if i < 2 else [] for i, window in enumerate(GRID)]
    assert len(merged(GRID, confirmed)) == 1
    longer = rectangle(SIZE, left - 9, 10, edge, 20)
    assert len(merged(GRID, [seen([longer], GRID[0]), *[[]] * (len(GRID) - 1)])) == 1


def test_an_object_of_the_strip_survives_if_both_windows_see_its_rim_only() -> None:
    """Its mask ends at the edge of each window, so each is dropped in favour of the other's."""
    left, edge = GRID.lefts[1], GRID.lefts[0] + 40
    windows: list[list[Instance]] = [[] for _ in GRID]
    windows[0] = seen([rectangle(SIZE, left + 4, 10, edge, 20)], GRID[0])
    windows[1] = seen([rectangle(SIZE, left, 10, edge - 3, 20)], GRID[1])
    assert len(merged(GRID, windows)) == 1


def test_an_object_has_the_score_of_its_surest_part_and_the_box_around_all() -> None:
    plane = rectangle(SIZE, 10, 10, 100, 20)
    windows = []
    for index, window in enumerate(GRID):
        windows.append([replace(one, score=0.6 + index / 10) for one in seen([plane], window)])
    (found,) = merged(GRID, windows)
    assert found.score == pytest.approx(0.6 + 3 / 10)  # of the last window
    assert found.box is None

    merger_found: list[Instance] = []
    merger = SeamMerger(GRID, SeamOptions(), merger_found.append)
    for index, instances in enumerate(windows):
        whole = [in_raster(GRID[index], each, SIZE) for each in instances]
        merger.add(index, [replace(each, box=each.mask.box) for each in whole])
    merger.finish()
    assert merger_found[0].box == (10, 10, 100, 20)


def test_a_cut_object_is_confirmed_by_a_mask_that_was_dropped_in_its_favour() -> None:
    """One window outlines it a pixel wider, and sticks out of the strip; the other a pixel less."""
    left, edge = GRID.lefts[1], GRID.lefts[0] + 40
    wide, narrow = rectangle(SIZE, left - 1, 10, edge, 20), rectangle(SIZE, left, 10, edge - 1, 20)
    windows: list[list[Instance]] = [[] for _ in GRID]
    windows[0], windows[1] = seen([wide], GRID[0]), seen([narrow], GRID[1])
    assert GRID.better(1, (left, 10, edge - 1, 20)) == {0}
    (found,) = merged(GRID, windows)
    assert np.array_equal(found.mask.to_plane(), wide)


@pytest.mark.parametrize("thickness", [1, 2, 3])
@pytest.mark.parametrize(
    ("size", "tile", "overlap", "ends"),
    [
        ((26, 48), 19, 7, ((11, 1), (44, 18))),
        ((32, 57), 16, 6, ((21, 16), (56, 29))),
        ((26, 57), 20, 4, ((20, 6), (47, 25))),
        ((33, 46), 24, 9, ((9, 8), (45, 23))),
    ],
)
def test_a_line_that_passes_near_a_corner_of_windows_is_one(
    size: tuple[int, int],
    tile: int,
    overlap: int,
    ends: tuple[tuple[int, int], tuple[int, int]],
    thickness: int,
) -> None:
    """Its parts in windows that meet at a corner are joined: the bit beside them was dropped."""
    canvas = np.zeros(size, np.uint8)
    cv2.line(canvas, *ends, 1, thickness)
    line = canvas.astype(np.bool_)
    assert same(found_in([line], Grid.of(size, tile, overlap)), [line])


def test_of_two_masks_of_one_object_in_a_window_the_surer_one_remains() -> None:
    """Whole or cut; other prompts and automatic masks keep both."""
    whole, cut = rectangle(SIZE, 10, 5, 20, 15), rectangle(SIZE, 10, 20, 60, 30)
    smaller = rectangle(SIZE, 10, 5, 20, 13)
    windows = [seen([whole, cut, smaller, cut], window) for window in GRID]
    found = merged(GRID, windows)
    assert same([each.mask.to_plane() for each in found], [smaller, cut])
    assert sorted(each.score for each in found) == [0.502, 0.503]
    # IoU 1/3: two objects.
    part = rectangle(SIZE, 15, 5, 25, 15)
    assert len(merged(GRID, [seen([whole, part], window) for window in GRID])) == 2
    for window in windows:
        window[:] = [replace(each, prompt=int(each.score >= 0.502)) for each in window]
    assert len(merged(GRID, windows)) == 4
    automatic = SeamOptions(by_prompt=False)
    assert len(merged(GRID, [seen([whole, smaller], GRID[0])], automatic)) == 2


def test_of_two_whole_views_the_surer_one_remains() -> None:
    left = GRID.lefts[1]
    plane, larger = (rectangle(SIZE, left + 2, 50, left + 8, 50 + n) for n in (9, 10))
    windows: list[list[Instance]] = [[] for _ in GRID]
    columns = len(GRID.lefts)
    windows[columns] = [replace(seen([plane], GRID[columns])[0], score=0.7)]
    windows[columns + 1] = [replace(seen([larger], GRID[columns + 1])[0], score=0.8)]
    (found,) = merged(GRID, windows)
    assert found.score == 0.8
    assert np.array_equal(found.mask.to_plane(), larger)


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_nms_waits_for_objects_that_still_grow(threshold: float | None) -> None:
    """Two prompts find one road, in different windows for sure; the surer one remains."""
    road = rectangle(SIZE, 0, 10, 110, 20)
    small = rectangle(SIZE, 45, 12, 50, 16)
    windows = []
    for index, window in enumerate(GRID):
        shown = seen([road, road, small], window)
        windows.append(
            [
                replace(one, prompt=n, score=0.5 + n / 10 + index / 100)
                for n, one in enumerate(shown)
            ]
        )
    found = merged(GRID, windows, SeamOptions(nms_iou_threshold=threshold))
    areas = sorted(instance.mask.area for instance in found)
    assert areas == ([20, 1100, 1100] if threshold is None else [20, 1100])


@pytest.mark.parametrize("seed", range(12))
def test_perturbed_masks_are_still_counted_once(seed: int) -> None:
    """Each window outlines each object a little differently."""
    rng = np.random.default_rng(seed)
    size = (200, 260)
    grid = Grid.of(size, 96, 24)
    free = np.ones(size, np.bool_)
    objects = []
    for _ in range(40):
        x, y = float(rng.integers(0, size[1])), float(rng.integers(0, size[0]))
        plane = ring(size, x, y, float(rng.integers(5, 14)), 0)
        around = ring(size, x, y, 17, 0)
        if (free & around).sum() == around.sum() and plane.sum() > 60:
            objects.append(plane)
            free &= ~around

    def blurred(number: int, plane: Plane) -> list[Plane]:
        kernel = np.ones((3, 3), np.uint8)
        change = cv2.dilate if rng.random() < 0.5 else cv2.erode
        changed = change(plane.view(np.uint8), kernel).astype(np.bool_)
        return [changed] if changed.any() else []

    found = found_in(objects, grid, blurred)
    assert len(found) == len(objects)
    for plane in objects:
        overlaps = [(plane & one).sum() / (plane | one).sum() for one in found]
        assert max(overlaps) > 0.4


def test_finished_objects_leave_the_memory() -> None:
    """In a tall raster, as much is kept at its end as at its beginning."""
    size = (1500, 100)
    grid = Grid.of(size, 40, 10)
    found: list[Instance] = []
    merger = SeamMerger(grid, SeamOptions(nms_iou_threshold=0.5), found.append)
    held = []
    for index, window in enumerate(grid):
        y = window.y
        dots = [rectangle(window.size, x, 5, x + 6, 11) for x in (2, 12, 30)]
        instances = [Instance(0, 0.9, Mask.from_plane(dot)) for dot in dots]
        merger.add(index, [in_raster(window, each, size) for each in instances])
        held.append(merger.nbytes)
        assert all(each.mask.box[1] >= y - 40 for each in merger._finished)
    assert max(held) <= 2 * max(held[: 3 * len(grid.lefts)])
    merger.finish()
    assert len(found) >= len(grid.tops) * 3
    assert not merger._open
    assert not merger._by_window


def test_the_masks_in_memory_are_bounded() -> None:
    merger = SeamMerger(GRID, SeamOptions(max_bytes=100), lambda each: None)
    plane = rectangle(SIZE, 0, 10, 110, 20)
    with pytest.raises(ImageTooLargeError, match="INFERENCE_TILE_MEMORY_MB"):
        merger.add(0, [in_raster(GRID[0], each, SIZE) for each in seen([plane], GRID[0])])


AUTOMATIC = SeamOptions(automatic=1)


def numbered(prompt: int, *planes: Plane) -> list[list[Instance]]:
    """What all windows show of objects of a prompt."""
    return [[replace(each, prompt=prompt) for each in seen(planes, window)] for window in GRID]


def test_a_whole_and_its_parts_are_automatic_masks_of_one_window() -> None:
    """Those of the concept in the same run are one object."""
    parts = [rectangle(SIZE, 5, 5, 25, 25), rectangle(SIZE, 5, 5, 25, 18)]  # IoU 0.65
    found = merged(GRID, numbered(1, *parts), AUTOMATIC)
    assert same([each.mask.to_plane() for each in found], parts)
    assert len(merged(GRID, numbered(0, *parts), AUTOMATIC)) == 1
    both = [a + b for a, b in zip(numbered(0, *parts), numbered(1, *parts), strict=True)]
    assert sorted(each.prompt for each in merged(GRID, both, AUTOMATIC)) == [0, 1, 1]


def test_automatic_masks_have_an_nms_of_their_own() -> None:
    """As in an image that is encoded as a whole: at an IoU of 0.7, or that of the request."""
    alike = [rectangle(SIZE, 5, 5, 25, 25), rectangle(SIZE, 5, 5, 25, 24)]
    assert len(merged(GRID, numbered(1, *alike), AUTOMATIC)) == 1
    both = [a + b for a, b in zip(numbered(0, alike[0]), numbered(1, *alike), strict=True)]
    assert sorted(each.prompt for each in merged(GRID, both, AUTOMATIC)) == [0, 1]
    assert len(merged(GRID, both, replace(AUTOMATIC, nms_iou_threshold=0.7))) == 1
    assert len(merged(GRID, numbered(1, *alike), replace(AUTOMATIC, nms_iou_threshold=0.99))) == 2
