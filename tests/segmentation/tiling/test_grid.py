"""The windows of a raster, and the window around a prompt."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_server.errors import ImageTooLargeError, PromptError
from inference_server.images.window import Window
from inference_server.segmentation.tiling.grid import Grid, plan_grid, window_around
from inference_server.segmentation.types import TilingOptions
from inference_server.settings import Settings


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    tile = draw(st.integers(8, 50))
    size = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    return Grid.of(size, tile, draw(st.integers(0, (tile - 1) // 2)))


@given(grids())
def test_windows_cover_the_raster_and_share_the_overlap(grid: Grid) -> None:
    covered = np.zeros(grid.size, np.bool_)
    for window in grid:
        assert window.right <= grid.size[1]
        assert window.bottom <= grid.size[0]
        assert window.size == grid.tile
        covered[window.slices] = True
    assert covered.all()
    for edges, side in ((grid.tops, grid.tile[0]), (grid.lefts, grid.tile[1])):
        for edge, following in pairwise(edges):
            assert following > edge
            assert edge + side - following >= grid.overlap
    assert [(window.y, window.x) for window in grid] == sorted(
        (window.y, window.x) for window in grid
    )


def test_no_more_windows_than_needed() -> None:
    assert len(Grid.of((1008, 1008), 1008)) == 1
    assert len(Grid.of((1008, 1009), 1008)) == 2
    grid = Grid.of((12_000, 12_000), 1008)
    assert grid.overlap == 126
    assert len(grid.tops) == len(grid.lefts) == 14  # 13 windows cover 1008 + 12 x 882 = 11,592


@settings(max_examples=40)
@given(grids())
def test_neighbours_are_the_earlier_windows_that_share_pixels(grid: Grid) -> None:
    for index, window in enumerate(grid):
        expected = [i for i in range(index) if window.overlap(grid[i]) is not None]
        assert sorted(grid.neighbours(index)) == expected


@given(grids(), st.data())
def test_a_box_is_passed_once_no_later_window_has_it(grid: Grid, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(grid) - 1))
    window = grid[data.draw(st.integers(0, index))]
    x0 = data.draw(st.integers(window.x, window.right - 1))
    y0 = data.draw(st.integers(window.y, window.bottom - 1))
    box = Window(x0, y0, window.right - x0, window.bottom - y0)
    later = any(box.overlap(grid[i]) is not None for i in range(index + 1, len(grid)))
    if grid.is_passed(box.box, index):
        assert not later
    elif window.y == grid[index].y:
        assert later


def test_a_mask_is_cut_by_inner_edges_only() -> None:
    grid = Grid.of((90, 110), 40, 10)
    assert grid.margin == 1
    assert grid.cuts(0, (0, 0, 39, 39)) == 0
    assert grid.cuts(0, (0, 0, 40, 39)) == 1
    assert grid.cuts(0, (0, 0, 40, 40)) == 2
    inner = grid[5]
    assert grid.cuts(5, inner.box) == 4
    last = grid[len(grid) - 1]
    assert grid.cuts(len(grid) - 1, last.box) == 2
    assert Grid.of((5000, 5000), 1008).margin == 15


def test_the_window_that_sees_more_is_better() -> None:
    grid = Grid.of((90, 110), 40, 10)
    rim = (36, 10, 40, 14)  # at the right edge of the first window, inside the second
    assert grid.better(0, rim) == {1}
    assert grid.better(1, rim) == frozenset()
    corner = (36, 36, 40, 40)
    assert grid.better(0, corner) == {1, len(grid.lefts), len(grid.lefts) + 1}
    assert grid.better(0, (0, 10, 40, 14)) == frozenset()  # no window sees more of it


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (TilingOptions(tile_size=63), PromptError, "64 to 512 pixels, not 63"),
        (TilingOptions(tile_size=513), PromptError, "not 513"),
        (TilingOptions(tile_size=100, overlap=50), PromptError, "less than half"),
        (TilingOptions(overlap=-1), PromptError, "0 or more"),
        (TilingOptions(tile_size=64, overlap=0), ImageTooLargeError, "256 windows of 64"),
    ],
)
def test_requests_are_bounded(options: TilingOptions, error: type[Exception], message: str) -> None:
    limits = Settings(max_tile_size=512, max_raster_windows=255)
    with pytest.raises(error, match=message):
        plan_grid(limits, (1024, 1024), options, 512)


def test_a_window_is_no_larger_than_an_image_may_be() -> None:
    limits = Settings(max_image_pixels=90_000)
    with pytest.raises(PromptError, match="64 to 300"):
        plan_grid(limits, (1024, 1024), TilingOptions(tile_size=301), 256)


def test_the_default_window_is_reduced_to_the_limits_of_an_image() -> None:
    pixels, side = Settings(max_image_pixels=1_000_000), Settings(max_image_side=900)
    assert plan_grid(pixels, (3000, 3000), TilingOptions(), 1008).tile == (1000, 1000)
    assert plan_grid(side, (3000, 3000), TilingOptions(), 1008).tile == (900, 900)
    with pytest.raises(PromptError, match="64 to 900"):
        plan_grid(side, (3000, 3000), TilingOptions(tile_size=901), 1008)


def test_the_default_window_is_the_models_input() -> None:
    grid = plan_grid(Settings(), (3000, 3000), TilingOptions(), 1008)
    assert (grid.tile, grid.overlap) == ((1008, 1008), 126)
    assert plan_grid(Settings(), (500, 3000), TilingOptions(), 1008).tile == (500, 1008)


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((5000, 4000, 5000, 4000), Window(4744, 3744, 512, 512)),  # a click
        ((4900, 3950, 5100, 4050), Window(4744, 3744, 512, 512)),
        ((4500, 3950, 5500, 4050), Window(4000, 3000, 2000, 2000)),  # a box larger than the tile
        ((0, 0, 10, 10), Window(0, 0, 512, 512)),
        ((9990, 7990, 9999, 7999), Window(9488, 7488, 512, 512)),
        ((0, 0, 10_000, 8000), Window(0, 0, 10_000, 8000)),
    ],
)
def test_the_window_around_a_prompt_is_centred_and_inside(
    box: tuple[int, int, int, int], window: Window
) -> None:
    assert window_around((8000, 10_000), box, 512) == window
