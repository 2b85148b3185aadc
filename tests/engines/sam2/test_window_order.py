"""Orders of tokens: every window is consecutive, and pooling keeps it so."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's usual name

from inference_server.engines.sam2.window_order import WindowOrder

GRIDS = [(8, 8, 4), (10, 10, 4), (64, 64, 14), (32, 32, 7), (6, 11, 4), (3, 3, 8)]


@pytest.mark.parametrize(("height", "width", "side"), GRIDS)
def test_each_window_is_consecutive(height: int, width: int, side: int) -> None:
    order = WindowOrder.of(height, width, side)
    assert sorted(order.raster.tolist()) == list(range(height * width))
    seen = 0
    for windows in order.windows:
        assert windows.start == seen
        assert windows.each + windows.missing == side * side
        tokens = order.raster[windows.tokens].view(windows.count, windows.height, windows.width)
        for window in tokens:
            row, column = int(window[0, 0]) // width, int(window[0, 0]) % width
            assert row % side == column % side == 0
            tall, wide = range(windows.height), range(windows.width)
            expected = [[(row + y) * width + column + x for x in wide] for y in tall]
            assert window.tolist() == expected
        seen += windows.count * windows.each
    assert seen == height * width


@pytest.mark.parametrize(("height", "width", "side"), [(8, 8, 4), (64, 64, 14), (12, 20, 8)])
def test_pooling_gives_windows_of_half_the_side(height: int, width: int, side: int) -> None:
    pooled = WindowOrder.of(height, width, side).pooled(2)
    expected = WindowOrder.of(height // 2, width // 2, side // 2)
    assert torch.equal(pooled.raster, expected.raster)
    assert pooled.windows == expected.windows


def test_windows_that_pooling_would_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="windows of 14 x 1 cannot be pooled"):
        WindowOrder.of(15, 15, 14).pooled(2)


def test_orders_convert_into_each_other() -> None:
    one, other = WindowOrder.of(12, 12, 8), WindowOrder.of(12, 12, 5)
    values = torch.rand(144)
    taken = other.taken_from(one)
    assert taken is not None
    assert torch.equal(values[one.raster][taken], values[other.raster])
    assert torch.equal(values[one.raster][one.positions()], values)
    assert one.taken_from(WindowOrder.of(12, 12, 8)) is None


def test_a_token_finds_the_one_that_covers_it() -> None:
    fine, coarse = WindowOrder.of(12, 12, 8), WindowOrder.of(6, 6, 5)
    values = torch.rand(1, 1, 6, 6)
    upsampled = F.interpolate(values, scale_factor=2.0, mode="nearest").flatten()
    found = values.flatten()[coarse.raster][fine.parents(coarse)]
    assert torch.equal(found, upsampled[fine.raster])


@pytest.mark.parametrize("limit", [1, 100, 500, 10**6])
def test_parts_cover_the_windows(limit: int) -> None:
    (windows, *_) = WindowOrder.of(64, 64, 14).windows
    parts = list(windows.split(limit))
    assert [part.start for part in parts[1:]] == [part.tokens.stop for part in parts[:-1]]
    assert sum(part.count for part in parts) == windows.count
    assert all(part.count * part.each <= max(limit, windows.each) for part in parts)
