"""The mask: a crop and where it lies in its image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A binary mask, held as a crop and an offset, so that its cost follows its own area.

    All pixels outside of the crop are background. The crop may have background margins: `box` and
    `trimmed` look at the pixels. Masks compare by identity; compare `to_plane` for equal pixels.

    Attributes:
        x0: column of the crop's first pixel in the image.
        y0: row of the crop's first pixel in the image.
        crop: bool [h, w], h and w may be 0.
        size: (height, width) of the image, in pixels.

    Raises:
        ValueError: if the crop is not bool [h, w], or reaches out of the image.
    """

    x0: int
    y0: int
    crop: NDArray[np.bool_]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.crop.ndim != 2 or self.crop.dtype != np.bool_:
            raise ValueError(f"a crop is bool [h, w], not {self.crop.dtype} {self.crop.shape}")
        height, width = self.size
        h, w = self.crop.shape
        if not (0 <= self.x0 <= width - w and 0 <= self.y0 <= height - h):
            raise ValueError(
                f"a crop of {h} x {w} at row {self.y0}, column {self.x0} "
                f"reaches out of an image of {height} x {width}"
            )

    @classmethod
    def empty(cls, size: tuple[int, int]) -> Mask:
        """The mask without a pixel, of an image of `size` (height, width)."""
        return cls(0, 0, np.zeros((0, 0), np.bool_), size)

    @classmethod
    def from_plane(cls, plane: NDArray[np.bool_]) -> Mask:
        """A mask with a tight crop.

        Args:
            plane: bool [H, W], the whole image. It is copied from, not kept.
        """
        height, width = plane.shape
        return cls(0, 0, plane, (height, width)).trimmed()

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.crop))

    @property
    def is_empty(self) -> bool:
        """Whether the mask has no pixel."""
        return not self.crop.any()

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The tight box (x0, y0, x1, y1) in image pixels, (x1, y1) exclusive; zeros if empty."""
        x, y, w, h = _bounding_rect(self.crop)
        if w == 0:
            return 0, 0, 0, 0
        return self.x0 + x, self.y0 + y, self.x0 + x + w, self.y0 + y + h

    def trimmed(self) -> Mask:
        """The same mask with a tight crop of its own (a copy)."""
        x, y, w, h = _bounding_rect(self.crop)
        if w == 0:
            return Mask.empty(self.size)
        return Mask(self.x0 + x, self.y0 + y, self.crop[y : y + h, x : x + w].copy(), self.size)

    def to_plane(self) -> NDArray[np.bool_]:
        """The whole image's plane, bool [H, W]. Costs the image's area: for tests and export."""
        plane = np.zeros(self.size, np.bool_)
        h, w = self.crop.shape
        plane[self.y0 : self.y0 + h, self.x0 : self.x0 + w] = self.crop
        return plane


def intersection(a: Mask, b: Mask) -> int:
    """Number of pixels in both masks; only the crops' overlap is looked at.

    Raises:
        ValueError: if the masks are of images of different sizes.
    """
    if a.size != b.size:
        raise ValueError(f"masks of images of different sizes: {a.size} and {b.size}")
    x0, y0 = max(a.x0, b.x0), max(a.y0, b.y0)
    x1 = min(a.x0 + a.crop.shape[1], b.x0 + b.crop.shape[1])
    y1 = min(a.y0 + a.crop.shape[0], b.y0 + b.crop.shape[0])
    if x0 >= x1 or y0 >= y1:
        return 0
    part_a = a.crop[y0 - a.y0 : y1 - a.y0, x0 - a.x0 : x1 - a.x0]
    part_b = b.crop[y0 - b.y0 : y1 - b.y0, x0 - b.x0 : x1 - b.x0]
    return int(np.count_nonzero(part_a & part_b))


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of the masks' pixels, in [0, 1]; 0 where both are empty.

    Raises:
        ValueError: if the masks are of images of different sizes.
    """
    shared = intersection(a, b)
    return shared / (a.area + b.area - shared) if shared else 0.0


def _bounding_rect(crop: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(x, y, w, h) of the true pixels of bool [h, w]; w and h are 0 where there are none."""
    if crop.size == 0:  # OpenCV refuses an array without elements
        return 0, 0, 0, 0
    x, y, w, h = cv2.boundingRect(crop.view(np.uint8))
    return x, y, w, h
