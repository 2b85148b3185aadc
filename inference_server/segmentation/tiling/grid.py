"""The windows of a raster, and the window around a prompt."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import ImageTooLargeError, PromptError
from inference_server.images.window import Window
from inference_server.segmentation.types import TilingOptions
from inference_server.settings import Settings

_OVERLAP = 8
"""Default: windows share an eighth of their side."""

_AROUND = 2
"""The window around a prompt has at least this many times the prompt's size."""

_Pixels = TypeVar("_Pixels", int, NDArray[np.int64])

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels, (x1, y1) exclusive."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Windows of equal size that cover a raster, row by row.

    They are spread evenly, so that none sticks out: neighbours share at least the overlap. A raster
    that is smaller than a window has one window in that direction, of the raster's size.

    Attributes:
        size: (height, width) of the raster in pixels.
        tile: (height, width) of each window in pixels.
        tops: first row of each row of windows, ascending.
        lefts: first column of each column of windows, ascending.
        overlap: pixels that neighbours share at least.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    overlap: int

    @classmethod
    def of(cls, size: tuple[int, int], tile_size: int, overlap: int | None = None) -> Grid:
        """Create the grid of a raster.

        Args:
            size: (height, width) of the raster in pixels.
            tile_size: side of a window in pixels.
            overlap: pixels that neighbours share at least, less than half of `tile_size`. Default:
                an eighth of `tile_size`.

        Raises:
            ValueError: the overlap is negative, or half of `tile_size` or more.
        """
        overlap = tile_size // _OVERLAP if overlap is None else overlap
        if not 0 <= 2 * overlap < tile_size:
            raise ValueError(f"windows of {tile_size} pixels cannot share {overlap}")
        tops, height = _spread(size[0], tile_size, overlap)
        lefts, width = _spread(size[1], tile_size, overlap)
        return cls(size, (height, width), tops, lefts, overlap)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def __getitem__(self, index: int) -> Window:
        """The window with a number, counted row by row."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        row, column = divmod(index, len(self.lefts))
        return Window(self.lefts[column], self.tops[row], self.tile[1], self.tile[0])

    def __iter__(self) -> Iterator[Window]:
        return (self[index] for index in range(len(self)))

    @property
    def margin(self) -> int:
        """Distance in pixels from a window's edge within which a mask counts as cut by it.

        A model's masks may end a little before the edge.
        """
        return max(1, min(min(self.tile) // 64, self.overlap // 4))

    def cuts(self, index: int, box: Box) -> int:
        """Number of a window's edges that cut a mask; the edges of the raster cut nothing.

        Args:
            index: number of the window.
            box: tight box of a mask inside the window.
        """
        row, column = divmod(index, len(self.lefts))
        return self._cut(box[0], box[2], self.lefts[column], 1) + self._cut(
            box[1], box[3], self.tops[row], 0
        )

    def cuts_of(self, index: int, boxes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of a window's edges that cut each of some masks, as `cuts`; int64 [n].

        Args:
            index: number of the window.
            boxes: int64 [n, 4], tight boxes of masks; what lies outside the window counts as cut.
        """
        row, column = divmod(index, len(self.lefts))
        return self._cut(boxes[:, 0], boxes[:, 2], self.lefts[column], 1) + self._cut(
            boxes[:, 1], boxes[:, 3], self.tops[row], 0
        )

    def better(self, index: int, box: Box) -> frozenset[int]:
        """The windows that contain a mask of a window and cut it at fewer edges.

        Args:
            index: number of the window.
            box: tight box of the mask.
        """
        cuts = self.cuts(index, box)
        if not cuts:
            return frozenset()
        columns = self._containing(box[0], box[2], self.lefts, self.tile[1])
        rows = self._containing(box[1], box[3], self.tops, self.tile[0])
        across = [(c, self._cut(box[0], box[2], self.lefts[c], 1)) for c in columns]
        down = [(r, self._cut(box[1], box[3], self.tops[r], 0)) for r in rows]
        return frozenset(
            r * len(self.lefts) + c for r, more in down for c, some in across if some + more < cuts
        )

    def neighbours(self, index: int) -> list[int]:
        """Earlier windows that share pixels with a window; those in its row or column first.

        Args:
            index: number of the window.
        """
        columns = len(self.lefts)
        row, column = divmod(index, columns)
        return sorted(
            (i for i in self.around(index) if i < index),
            key=lambda i: (i // columns != row and i % columns != column, i),
        )

    def around(self, index: int) -> list[int]:
        """All other windows that share pixels with a window.

        Args:
            index: number of the window.
        """
        columns = len(self.lefts)
        row, column = divmod(index, columns)
        rows = _sharing(self.tops[row], self.tops, self.tile[0])
        across = _sharing(self.lefts[column], self.lefts, self.tile[1])
        return [r * columns + c for r in rows for c in across if (r, c) != (row, column)]

    def is_passed(self, box: Box, index: int) -> bool:
        """Whether no window after the given one has any pixel of a box.

        Args:
            box: (x0, y0, x1, y1) in pixels of the raster; the windows up to `index` cover it.
            index: number of the last window that is done.
        """
        row, column = divmod(index, len(self.lefts))
        if row + 1 < len(self.tops) and box[3] > self.tops[row + 1]:
            return False
        if box[3] <= self.tops[row] or column + 1 == len(self.lefts):
            return True
        return box[2] <= self.lefts[column + 1]

    def _cut(self, first: _Pixels, stop: _Pixels, edge: int, axis: int) -> _Pixels:
        """Number of edges that cut a range, or each of some ranges, in one direction."""
        side, whole, margin = self.tile[axis], self.size[axis], self.margin
        begins = int(edge > 0) * (first < edge + margin)
        return begins + int(edge + side < whole) * (stop > edge + side - margin)

    @staticmethod
    def _containing(first: int, stop: int, edges: tuple[int, ...], side: int) -> range:
        """The windows that contain a range, in one direction."""
        return range(bisect_left(edges, stop - side), bisect_right(edges, first))


def _sharing(edge: int, edges: tuple[int, ...], side: int) -> range:
    """The windows that share pixels with the one that begins at `edge`, in one direction."""
    return range(bisect_right(edges, edge - side), bisect_left(edges, edge + side))


def _spread(length: int, side: int, overlap: int) -> tuple[tuple[int, ...], int]:
    """First pixels of windows along one direction, and their length."""
    if length <= side:
        return (0,), length
    room = length - side
    steps = -(-room // (side - overlap))
    return tuple(round(i * room / steps) for i in range(steps + 1)), side


def checked_tile_size(settings: Settings, tile_size: int | None, side: int) -> int:
    """Return the side of a request's windows in pixels, within the limits.

    Args:
        settings: limits of windows, each of which is sent as an image.
        tile_size: what the request says.
        side: side of the model's input in pixels, the default; see `tile_size_of`. It is reduced to
            the limits.

    Raises:
        PromptError: `tile_size` is out of range.
    """
    least = settings.min_tile_size
    largest = min(settings.max_image_side, math.isqrt(settings.max_image_pixels))
    if tile_size is None:
        return min(side, largest)
    most = min(settings.max_tile_size, largest)
    if not least <= tile_size <= most:
        raise PromptError(f"`tile_size` must be {least} to {most} pixels, not {tile_size}.")
    return tile_size


def plan_grid(settings: Settings, size: tuple[int, int], options: TilingOptions, side: int) -> Grid:
    """Create the grid of a request, within the limits.

    Args:
        settings: limits of windows.
        size: (height, width) of the raster in pixels.
        options: what the request says.
        side: side of the model's input in pixels, the default of `tile_size`; see `tile_size_of`.

    Raises:
        ImageTooLargeError: the raster needs too many windows.
        PromptError: `tile_size` or the overlap is out of range.
    """
    tile_size = checked_tile_size(settings, options.tile_size, side)
    overlap = tile_size // _OVERLAP if options.overlap is None else options.overlap
    if not 0 <= 2 * overlap < tile_size:
        raise PromptError(
            f"`tile_overlap` must be 0 or more and less than half of `tile_size` ({tile_size} "
            f"pixels), not {overlap}."
        )
    grid = Grid.of(size, tile_size, overlap)
    if len(grid) > settings.max_raster_windows:
        raise ImageTooLargeError(
            f"The raster needs {len(grid)} windows of {tile_size} pixels; the limit is "
            f"{settings.max_raster_windows}. Send a larger `tile_size`."
        )
    return grid


def window_around(
    size: tuple[int, int], box: tuple[float, float, float, float], tile_size: int
) -> Window:
    """Choose the window around points or a box: a square with the prompt in its centre.

    Its side is `tile_size`, or twice the longer side of the prompt if that is more, so that the
    model sees what surrounds the object. At an edge of the raster it is moved inside.

    Args:
        size: (height, width) of the raster in pixels.
        box: (x0, y0, x1, y1), tight box of the points and boxes, in pixels of the raster.
        tile_size: side of a window in pixels.
    """
    x0, y0, x1, y1 = box
    side = max(tile_size, math.ceil(_AROUND * max(x1 - x0, y1 - y0)))
    height, width = (min(side, length) for length in size)
    x = min(max(math.floor((x0 + x1 - width) / 2), 0), size[1] - width)
    y = min(max(math.floor((y0 + y1 - height) / 2), 0), size[0] - height)
    return Window(x, y, width, height)
