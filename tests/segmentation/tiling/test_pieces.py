"""Separate pieces of masks: strays of one window are dropped, true parts are kept."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference_server.images.window import Window
from inference_server.masks import Mask
from inference_server.segmentation.tiling.grid import Grid
from inference_server.segmentation.tiling.pieces import Pieces
from inference_server.segmentation.tiling.seams import SeamMerger, SeamOptions
from inference_server.segmentation.types import Instance
from tests.segmentation.tiling.worlds import Plane, merged, rectangle, seen

SIZE = (90, 110)
GRID = Grid.of(SIZE, 40, 10)
LEFT, EDGE = GRID.lefts[1], GRID.lefts[0] + 40
"""First column of the second window, and the one after the last of the first window."""


def same(found: list[Instance], objects: list[Plane]) -> bool:
    """Whether each object is found exactly once, pixel by pixel."""
    return sorted(each.mask.to_plane().tobytes() for each in found) == sorted(
        plane.tobytes() for plane in objects
    )


def around(plane: Plane) -> Plane:
    """A plane with the pixels that touch it by an edge or a corner."""
    return cv2.dilate(plane.view(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_)


def pieces_of(plane: Plane) -> list[Plane]:
    count, labels = cv2.connectedComponents(plane.view(np.uint8))
    return [labels == i for i in range(1, count)]


def box_of(plane: Plane) -> tuple[int, int, int, int]:
    return Mask.from_plane(plane).box


def windows_of(grid: Grid, plane: Plane) -> list[int]:
    """The windows that show any of a plane."""
    return [i for i, window in enumerate(grid) if plane[window.slices].any()]


def is_seen_whole(grid: Grid, plane: Plane) -> bool:
    """Whether each window that shows any of a plane shows all of it."""
    box = box_of(plane)
    return all(
        plane[grid[i].slices].sum() == plane.sum() and not grid.cuts(i, box)
        for i in windows_of(grid, plane)
    )


@st.composite
def crowded(draw: st.DrawFn) -> tuple[Grid, list[Plane], list[list[Instance]], int]:
    """A grid, its objects, and windows whose masks have stray pieces; the number of strays.

    Objects are connected, or have parts that each window shows that shows any of them. A stray is
    small, at a distance from its object, and another window shows it as well as the one that has
    it, or it lies on an object with a higher score.
    """
    size = draw(st.integers(20, 70)), draw(st.integers(20, 70))
    tile = draw(st.integers(12, 40))
    grid = Grid.of(size, tile, draw(st.integers(2, (tile - 1) // 2)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    free = np.ones(size, np.bool_)
    objects: list[Plane] = []
    for _ in range(draw(st.integers(2, 14))):
        x, y = int(rng.integers(size[1])), int(rng.integers(size[0]))
        w, h = int(rng.integers(1, size[1])), int(rng.integers(1, size[0]))
        if rng.random() < 0.4:  # several parts near one another
            plane: NDArray[np.bool_] = np.zeros(size, np.bool_)
            for _ in range(3):
                dx, dy, side = (int(each) for each in rng.integers((0, 0, 1), (8, 8, 4)))
                plane |= rectangle(size, x + dx, y + dy, x + dx + side, y + dy + side)
            plane &= free
            if plane.any() and is_seen_whole(grid, plane):
                objects.append(plane)
                free &= ~plane
            continue
        plane = rectangle(size, x, y, x + w, y + h) & free
        objects += pieces_of(plane)
        free &= ~plane
    strays = 0
    windows: list[list[Instance]] = []
    used = [around(plane) for plane in objects]
    for index, window in enumerate(grid):
        shown = []
        for instance in seen(objects, window):
            number = round((instance.score - 0.5) * 1000)
            plane = np.zeros(size, np.bool_)
            plane[window.slices] = instance.mask.to_plane()
            most = max(piece.sum() for piece in pieces_of(plane)) // 3
            for _ in range(int(rng.integers(3))):
                x, y = (int(each) for each in rng.integers(size[::-1]))
                w, h = (int(each) for each in rng.integers(1, 5, 2))
                box = (x, y, min(x + w, size[1]), min(y + h, size[0]))
                stray = rectangle(size, *box)
                if (
                    stray.sum() > most
                    or stray[window.slices].sum() < stray.sum()
                    or grid.cuts(index, box)
                    or (used[number] & stray).any()
                    or not (
                        is_on_better(grid[index], objects, number, stray)
                        or is_shown(grid, index, box)
                    )
                ):
                    continue
                used[number] |= around(stray)
                plane |= stray
                strays += 1
            mask = Mask.from_plane(np.ascontiguousarray(plane[window.slices]))
            shown.append(replace(instance, mask=mask))
        windows.append(shown)
    return grid, objects, windows, strays


def is_on_better(window: Window, objects: list[Plane], number: int, stray: Plane) -> bool:
    """Whether a stray lies on what a window shows most of, of an object with a higher score."""
    for plane in objects[number + 1 :]:
        pieces = pieces_of(np.ascontiguousarray(plane[window.slices]))
        if pieces and (max(pieces, key=np.sum) & stray[window.slices]).sum() == stray.sum():
            return True
    return False


def is_shown(grid: Grid, index: int, box: tuple[int, int, int, int]) -> bool:
    """Whether another window shows a box as well."""
    return any(
        grid[i].x <= box[0]
        and grid[i].y <= box[1]
        and box[2] <= grid[i].right
        and box[3] <= grid[i].bottom
        and not grid.cuts(i, box)
        for i in grid.around(index)
    )


@settings(max_examples=300)
@given(crowded())
def test_strays_are_dropped_and_every_object_is_found_once(
    world: tuple[Grid, list[Plane], list[list[Instance]], int],
) -> None:
    grid, objects, windows, _ = world
    assert same(merged(grid, windows), objects)


def show(*parts: tuple[int, list[Plane]]) -> list[list[Instance]]:
    """Windows, each with the number of the window and the planes of its masks; the later the
    surer. Other windows show nothing."""
    windows: list[list[Instance]] = [[] for _ in GRID]
    for index, planes in parts:
        windows[index] = seen(planes, GRID[index])
    return windows


BODY = rectangle(SIZE, 5, 5, 15, 15)
IN_STRIP = rectangle(SIZE, LEFT + 4, 8, LEFT + 7, 11)
"""A body that only the first window shows, and a piece that the second one shows as well."""


def test_a_piece_that_another_window_does_not_confirm_is_dropped() -> None:
    assert same(merged(GRID, show((0, [BODY | IN_STRIP]))), [BODY])


def test_a_piece_that_is_another_object_in_another_window_is_that_objects() -> None:
    neighbour = rectangle(SIZE, LEFT + 3, 7, EDGE + 10, 14)
    windows = show((0, [BODY | IN_STRIP, neighbour]), (1, [neighbour]))
    assert same(merged(GRID, windows), [BODY, neighbour])


def test_a_piece_that_no_other_window_shows_is_kept() -> None:
    away = rectangle(SIZE, 5, 20, 8, 23)
    assert same(merged(GRID, show((0, [BODY | away]))), [BODY | away])


def test_a_piece_that_another_window_cuts_is_kept() -> None:
    """It touches the edge of the second window, which may show only a part of it."""
    piece = rectangle(SIZE, LEFT, 8, LEFT + 4, 11)
    assert same(merged(GRID, show((0, [BODY | piece]))), [BODY | piece])


def test_a_window_that_was_not_searched_denies_nothing() -> None:
    found: list[Instance] = []
    merger = SeamMerger(GRID, SeamOptions(), found.append)
    merger.add(0, [Instance(0, 0.5, Mask.from_plane(BODY | IN_STRIP))])
    merger.finish()
    assert same(found, [BODY | IN_STRIP])


def test_parts_of_an_object_that_windows_cut_are_kept() -> None:
    """Two bars across the seam, which every window shows as one object."""
    bars = rectangle(SIZE, 10, 8, 60, 12) | rectangle(SIZE, 10, 20, 60, 24)
    assert same(merged(GRID, [seen([bars], window) for window in GRID]), [bars])


def test_the_parts_of_an_object_are_kept_if_one_window_confirms_them() -> None:
    """Where four windows meet, one of them does not show a part."""
    top = GRID.tops[1]
    part = rectangle(SIZE, LEFT + 5, top + 4, LEFT + 7, top + 6)
    plane = rectangle(SIZE, LEFT + 2, top + 2, LEFT + 4, top + 7) | part
    columns = len(GRID.lefts)
    everywhere = [(index, [plane]) for index in (0, 1, columns, columns + 1)]
    assert same(merged(GRID, show(*everywhere)), [plane])
    missing = [*everywhere[:3], (columns + 1, [plane & ~part])]
    assert same(merged(GRID, show(*missing)), [plane])
    alone = [everywhere[0], *((index, [plane & ~part]) for index, _ in everywhere[1:])]
    assert same(merged(GRID, show(*alone)), [plane & ~part])


def test_a_stray_does_not_make_a_rim_an_object() -> None:
    """The second window shows the object whole; the first its rim, and a stray that is far."""
    plane = rectangle(SIZE, LEFT + 4, 10, EDGE + 8, 24)
    rim = plane & rectangle(SIZE, 0, 0, EDGE, 90)
    stray = rectangle(SIZE, 5, 5, 7, 7)
    assert same(merged(GRID, show((0, [rim | stray]), (1, [plane]))), [plane])


def test_the_largest_piece_is_never_dropped() -> None:
    """The only window that shows it whole has found it, the other has not."""
    small = rectangle(SIZE, LEFT + 2, 20, LEFT + 4, 22)
    assert same(merged(GRID, show((0, [IN_STRIP | small]))), [IN_STRIP])


class TestOneWindow:
    """Pieces on an object with a higher score of the same window."""

    large = rectangle(SIZE, 20, 10, 29, 19)
    stray = rectangle(SIZE, 22, 12, 24, 14)

    def test_a_piece_on_a_better_object_is_that_objects(self) -> None:
        windows = show((0, [BODY | self.stray, self.large]))
        assert same(merged(GRID, windows), [BODY, self.large])

    def test_a_piece_on_a_worse_object_is_kept(self) -> None:
        windows = show((0, [self.large, BODY | self.stray]))
        assert same(merged(GRID, windows), [self.large, BODY | self.stray])

    def test_a_piece_that_sticks_out_is_kept(self) -> None:
        piece = rectangle(SIZE, 22, 17, 24, 21)  # half of it
        windows = show((0, [BODY | piece, self.large]))
        assert same(merged(GRID, windows), [BODY | piece, self.large])

    def test_an_object_that_is_found_twice_keeps_its_parts(self) -> None:
        """It is one object; for another prompt, the worse mask would differ, and survive NMS."""
        twice = [BODY | self.stray, BODY | self.stray]
        windows = show((0, twice))
        assert same(merged(GRID, windows), twice[:1])
        windows[0][1] = replace(windows[0][1], prompt=1)
        assert same(merged(GRID, windows), twice)
        assert len(merged(GRID, windows, SeamOptions(nms_iou_threshold=0.9))) == 1

    def test_neighbours_that_share_their_strays_stay_two(self) -> None:
        """Their masks have an IoU above one half, but each has a largest piece of its own."""
        strays = [rectangle(SIZE, 1, 2 + 6 * i, 6, 7 + 6 * i) for i in range(4)]
        bodies = [rectangle(SIZE, 10, 2 + 10 * i, 16, 8 + 10 * i) for i in range(2)]
        planes = [np.logical_or.reduce([body, *strays]) for body in bodies]
        assert (planes[0] & planes[1]).sum() > 0.5 * (planes[0] | planes[1]).sum()
        assert same(merged(GRID, show((0, planes))), planes)

    def test_strays_of_the_better_object_take_nothing(self) -> None:
        parts = BODY | self.stray
        windows = show((0, [parts, rectangle(SIZE, 5, 20, 20, 29) | self.stray]))
        assert any(same([each], [parts]) for each in merged(GRID, windows))

    def test_other_prompts_and_automatic_masks_keep_their_pieces(self) -> None:
        planes = [BODY | self.stray, self.large]
        windows = show((0, planes))
        assert same(merged(GRID, windows, SeamOptions(by_prompt=False)), planes)
        windows[0][1] = replace(windows[0][1], prompt=1)
        assert same(merged(GRID, windows), planes)


@settings(max_examples=100)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_pieces_of_any_mask(height: int, width: int, seed: int) -> None:
    """Areas, boxes and shared pixels are those of OpenCV's components."""
    rng = np.random.default_rng(seed)
    plane = rng.random((height, width)) < rng.random()
    other = rng.random((height, width)) < rng.random()
    mask = Mask.from_plane(plane)
    pieces = Pieces.of(mask)
    planes = pieces_of(plane)
    if pieces is None:
        assert len(planes) < 2
        return
    chosen = [pieces.without(np.arange(len(planes)) != i) for i in range(len(planes))]
    assert same([Instance(0, 1.0, each) for each in chosen], planes)
    x, y = int(rng.integers(width)), int(rng.integers(height))
    window = Window(x, y, int(rng.integers(1, width - x + 1)), int(rng.integers(1, height - y + 1)))
    shared, inside = pieces.shared(Mask.from_plane(other)), pieces.in_window(window)
    for i, each in enumerate(chosen):
        own = each.to_plane()
        assert pieces.areas[i] == own.sum()
        assert tuple(pieces.boxes[i]) == each.box
        assert shared[i] == (own & other).sum()
        assert inside[i] == own[window.slices].sum()


def test_pieces_are_counted_as_memory() -> None:
    """A mask of specks takes more than one of a single piece with as many runs."""
    specks = np.zeros(SIZE, np.bool_)
    specks[2:34:2, 2:34:2] = True

    def held(plane: Plane) -> tuple[int, int]:
        merger = SeamMerger(GRID, SeamOptions(), lambda each: None)
        mask = Mask.from_plane(plane)
        merger.add(0, [Instance(0, 0.5, mask)])
        return merger.nbytes, mask.runs.nbytes

    total, runs = held(specks)
    assert total > 2 * runs
    one = rectangle(SIZE, 20, 5, LEFT + 3, 15)
    assert held(one) == (Mask.from_plane(one).runs.nbytes, Mask.from_plane(one).runs.nbytes)
