"""Windows of a raster: rectangles of its pixels that are read one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of a raster's pixels.

    Attributes:
        x: first column.
        y: first row.
        width: number of columns.
        height: number of rows.
    """

    x: int
    y: int
    width: int
    height: int

    @property
    def bottom(self) -> int:
        """The row after the last."""
        return self.y + self.height

    @property
    def right(self) -> int:
        """The column after the last."""
        return self.x + self.width

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, as an index of an array of the whole raster."""
        return slice(self.y, self.bottom), slice(self.x, self.right)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1) in pixels of the raster, (x1, y1) exclusive."""
        return self.x, self.y, self.right, self.bottom

    def overlap(self, other: Window) -> Window | None:
        """The pixels that two windows share; None if there are none.

        Args:
            other: a window of the same raster.
        """
        y, x = max(self.y, other.y), max(self.x, other.x)
        height, width = min(self.bottom, other.bottom) - y, min(self.right, other.right) - x
        return Window(x, y, width, height) if height > 0 and width > 0 else None


@dataclass(frozen=True, slots=True)
class WindowPixels:
    """The pixels of a window, as a model sees them.

    Attributes:
        pixels: `uint8[h, w, 3]`, RGB. A window that is larger than the model's input may be read at
            a lower resolution; it then covers the same rectangle with fewer pixels.
        valid: `bool[h, w]`, the pixels that have data; None if all have.
    """

    pixels: NDArray[np.uint8]
    valid: NDArray[np.bool_] | None = None


class WindowSource(Protocol):
    """A raster that is read by windows, in worker threads, one call at a time."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the raster in pixels."""
        ...

    def has_data(self, window: Window) -> bool:
        """Whether a window has any pixel with data. It may err on the side of true.

        Args:
            window: a window inside the raster.
        """
        ...

    def read(self, window: Window, max_side: int | None = None) -> WindowPixels:
        """Read a window.

        Args:
            window: a window inside the raster.
            max_side: the longer side of the result in pixels; a larger window is reduced to it.
                Default: full resolution.
        """
        ...
