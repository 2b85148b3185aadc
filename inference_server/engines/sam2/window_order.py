"""Order of tokens in which each attention window is a run of consecutive tokens.

Windows that the edge of the grid cuts off stay cut off: they contain no padding. Windows of the
same shape follow each other, so a slice of the tokens can be viewed as `[windows, tokens, C]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Windows:
    """Consecutive windows of one shape.

    Attributes:
        start: Position of the first token.
        count: Number of windows.
        height: Height of a window in tokens.
        width: Width of a window in tokens.
        missing: Number of tokens that the edge cuts off a window.
    """

    start: int
    count: int
    height: int
    width: int
    missing: int = 0

    @property
    def each(self) -> int:
        """Tokens of a window."""
        return self.height * self.width

    @property
    def tokens(self) -> slice:
        """Positions of all tokens."""
        return slice(self.start, self.start + self.count * self.each)

    def split(self, tokens: int) -> Iterator[Windows]:
        """Split into parts of at most that many tokens, but at least one window."""
        step = max(1, tokens // self.each)
        for first in range(0, self.count, step):
            yield Windows(
                self.start + first * self.each,
                min(step, self.count - first),
                self.height,
                self.width,
                self.missing,
            )

    def pooled(self, stride: int, area: int) -> Windows:
        """The same windows at a lower resolution; `area` is that of a window with nothing missing.

        Raises:
            ValueError: The stride does not divide the windows.
        """
        if self.height % stride or self.width % stride:
            raise ValueError(f"windows of {self.height} x {self.width} cannot be pooled")
        height, width = self.height // stride, self.width // stride
        start = self.start // stride**2
        return Windows(start, self.count, height, width, max(0, area - height * width))


@dataclass(frozen=True, slots=True, eq=False)
class WindowOrder:
    """An order of the tokens of a grid.

    Attributes:
        height: Height of the grid in tokens.
        width: Width of the grid in tokens.
        raster: `int64[height * width]`, the position in raster order of each token.
        windows: The windows, in order.
    """

    height: int
    width: int
    raster: Tensor
    windows: tuple[Windows, ...]

    @classmethod
    def of(cls, height: int, width: int, side: int) -> WindowOrder:
        """Divide a grid into windows of `side` x `side` tokens from its top left corner."""
        grid = torch.arange(height * width).view(height, width)
        rows, columns = height - height % side, width - width % side
        pieces, windows, start = [], [], 0
        for top, bottom in ((0, rows), (rows, height)):
            for left, right in ((0, columns), (columns, width)):
                part = grid[top:bottom, left:right]
                if not part.numel():
                    continue
                tall, wide = min(side, bottom - top), min(side, right - left)
                blocks = part.view(part.shape[0] // tall, tall, part.shape[1] // wide, wide)
                pieces.append(blocks.transpose(1, 2).flatten())
                count = blocks.shape[0] * blocks.shape[2]
                windows.append(Windows(start, count, tall, wide, side * side - tall * wide))
                start += part.numel()
        return cls(height, width, torch.cat(pieces), tuple(windows))

    def pooled(self, stride: int) -> WindowOrder:
        """The order after pooling `stride` x `stride` tokens within each window.

        Raises:
            ValueError: The stride does not divide the windows.
        """
        largest = max(each.each + each.missing for each in self.windows) // stride**2
        windows = tuple(each.pooled(stride, largest) for each in self.windows)
        corners = torch.cat(
            [
                self.raster[each.tokens]
                .view(each.count, each.height, each.width)[:, ::stride, ::stride]
                .flatten()
                for each in self.windows
            ]
        )
        row, column = corners // self.width // stride, corners % self.width // stride
        width = self.width // stride
        return WindowOrder(self.height // stride, width, row * width + column, windows)

    def positions(self) -> Tensor:
        """The position in this order of each token in raster order, `int64[height * width]`."""
        return self.raster.argsort()

    def taken_from(self, other: WindowOrder) -> Tensor | None:
        """Positions in another order of the same grid; None if the orders are equal."""
        if torch.equal(self.raster, other.raster):
            return None
        return other.positions()[self.raster]

    def parents(self, coarse: WindowOrder) -> Tensor:
        """The position in a grid of half the resolution of the token that covers each token."""
        row, column = self.raster // self.width // 2, self.raster % self.width // 2
        return coarse.positions()[row * coarse.width + column]
