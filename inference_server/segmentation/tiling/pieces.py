"""The separate pieces of an object's mask, and which of them are not part of the object.

A model may find an object twice in one window: two masks with about the same largest piece are of
one object. A mask of a crowded window may have stray pieces on other objects. Two rules find them:

* In one window: a piece that lies in the largest piece of another object of the same prompt with a
  higher score is that object's.
* In several windows: a piece is a stray if another window shows it, cuts it at no more edges, and
  has no mask of the same object there. One window that has is enough to keep it, and so a piece
  that no other window shows is kept.

The largest piece of an object is never dropped, so an object may lose pieces, but is not lost.
Pieces are connected by edges or corners of pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.images.window import Window
from inference_server.masks import Mask, column_runs, mask_nms, pixels_of_runs
from inference_server.segmentation.types import Instance

SHOWN = 0.9
"""A window shows a mask, or a piece of it, if it has at least this share of its pixels."""

_CONFIRMED = 0.5
"""A mask of another window confirms a piece if it has at least this share of its pixels."""

_COVERED = 0.8
"""A piece is an other object's if at least this share of its pixels is in that object's mask."""

_SAME = 0.5
"""Of two masks of one window, one shows the other's object if it has at least this share of the
other's largest piece."""


@dataclass(eq=False, slots=True)
class Pieces:
    """The pieces of a mask that has several, and what other windows say of them.

    Attributes:
        mask: the mask.
        labels: int32 [n], the number of the piece, from 0, of each run of `column_runs`.
        areas: int64 [p], number of pixels of each piece.
        boxes: int64 [p, 4], tight box of each piece.
        shown: bool [p], whether another window shows a piece as well as its own.
        confirmed: bool [p], whether another window has it, too.
        claims: fragments of other windows and the pieces, bool [p], that they confirm if they are
            of the same object.
    """

    mask: Mask
    labels: NDArray[np.int32]
    areas: NDArray[np.int64]
    boxes: NDArray[np.int64]
    shown: NDArray[np.bool_] = field(init=False)
    confirmed: NDArray[np.bool_] = field(init=False)
    claims: list[tuple[int, NDArray[np.bool_]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shown = np.zeros(len(self.areas), np.bool_)
        self.confirmed = np.zeros(len(self.areas), np.bool_)

    @classmethod
    def of(cls, mask: Mask) -> Pieces | None:
        """Divide a mask; its box is at most a window.

        Returns:
            The pieces; None if there is only one.
        """
        if mask.is_empty:
            return None
        x0, y0, _, _ = mask.box
        count, plane = cv2.connectedComponents(mask.crop.view(np.uint8))
        if count <= 2:  # the background, and one piece
            return None
        columns, first, stop = column_runs(mask)
        labels = np.asarray(plane[first - y0, columns - x0] - 1, np.int32)
        order = labels.argsort(kind="stable")
        starts = np.searchsorted(labels[order], np.arange(count - 1))
        boxes = [
            np.minimum.reduceat(columns[order], starts),
            np.minimum.reduceat(first[order], starts),
            np.maximum.reduceat(columns[order], starts) + 1,
            np.maximum.reduceat(stop[order], starts),
        ]
        areas = np.add.reduceat((stop - first)[order], starts)
        return cls(mask, labels, areas, np.stack(boxes, axis=1))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, without the mask."""
        arrays = (self.labels, self.areas, self.boxes, self.shown, self.confirmed)
        return sum(each.nbytes for each in arrays) + sum(each.nbytes for _, each in self.claims)

    def in_window(self, window: Window) -> NDArray[np.int64]:
        """Number of pixels of each piece in a window, int64 [p]."""
        columns, first, stop = column_runs(self.mask)
        rows = np.minimum(stop, window.bottom) - np.maximum(first, window.y)
        inside = (columns >= window.x) & (columns < window.right)
        return self._added(np.where(inside, rows.clip(0), 0))

    def shared(self, mask: Mask) -> NDArray[np.int64]:
        """Number of pixels that each piece shares with a mask of the same image, int64 [p]."""
        columns, first, stop = column_runs(self.mask)
        base = columns * self.mask.size[0]
        runs = np.stack([base + first, base + stop], axis=1)
        return self._added(pixels_of_runs(mask, runs))

    def claim(self, number: int | None, mask: Mask) -> None:
        """Note the pieces that a mask of another window has, too.

        Args:
            number: number of the fragment whose mask it is, which counts if it turns out to be of
                the same object; None if it seems to be by its pixels. Then it counts if it has
                pixels of two pieces: one may as well be a stray on another object.
            mask: its mask.
        """
        shared = self.shared(mask)
        has = shared >= _CONFIRMED * self.areas
        if number is None:
            if np.count_nonzero(shared) > 1:
                self.confirmed |= has
        elif has.any():
            self.claims.append((number, has))

    def strays(self, own: Collection[int]) -> NDArray[np.bool_]:
        """The pieces that other windows show and none confirms, bool [p].

        Args:
            own: numbers of the object's fragments.
        """
        confirmed = self.confirmed.copy()
        for number, has in self.claims:
            if number in own:
                confirmed |= has
        return self.shown & ~confirmed

    def without(self, dropped: NDArray[np.bool_]) -> Mask:
        """The mask without some pieces.

        Args:
            dropped: bool [p].
        """
        columns, first, stop = column_runs(self.mask)
        kept = ~dropped[self.labels]
        base = columns[kept] * self.mask.size[0]
        flips = np.stack([base + first[kept], base + stop[kept]], axis=1).reshape(-1)
        return Mask.from_flips(flips, self.mask.size)

    def _added(self, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sums over the runs of each piece."""
        sums = np.bincount(self.labels, pixels, len(self.areas))
        return sums.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Divided:
    """An object of one window, divided into its pieces.

    Attributes:
        instance: the object; its mask is not empty.
        pieces: the pieces of its mask; None if there is only one.
    """

    instance: Instance
    pieces: Pieces | None

    @classmethod
    def of(cls, instance: Instance) -> Divided:
        """Divide an object."""
        return cls(instance, Pieces.of(instance.mask))

    @cached_property
    def body(self) -> Mask:
        """The largest piece."""
        if self.pieces is None:
            return self.instance.mask
        areas = self.pieces.areas
        return self.pieces.without(np.arange(len(areas)) != areas.argmax())


def without_doubles(found: Sequence[Divided], iou: float) -> list[Divided]:
    """Drop the objects of one window that it shows twice.

    Args:
        found: the objects of one window, of any prompts.
        iou: maximum IoU of the largest pieces of two objects of a prompt, 0 to 1. Whole masks are
            not compared: in a crowded window, those of neighbours may share most of their strays.

    Returns:
        The objects that remain, in their order: of two, that of the higher score.
    """
    by_prompt: dict[int, list[int]] = {}
    for number, each in enumerate(found):
        by_prompt.setdefault(each.instance.prompt, []).append(number)
    kept: list[int] = []
    for numbers in by_prompt.values():
        scores = np.array([found[i].instance.score for i in numbers], np.float32)
        kept += [numbers[i] for i in mask_nms([found[i].body for i in numbers], scores, iou)]
    return [found[i] for i in sorted(kept)]


def without_covered(found: Sequence[Divided]) -> list[Divided]:
    """Drop the pieces of masks that are other objects of their window.

    Args:
        found: the objects of one window, of any prompts.

    Returns:
        The same objects. One loses the pieces of which at least 0.8 lie in the largest piece of an
        object of its prompt with a higher score. It keeps all if that object has half of its own
        largest piece: then both are the same object, or one is a part of the other.
    """
    boxes = np.array([each.instance.mask.box for each in found], np.int64).reshape(-1, 4)
    prompts = np.array([each.instance.prompt for each in found], np.int64)
    scores = np.array([each.instance.score for each in found], np.float64)
    result: list[Divided] = []
    for box, each in zip(boxes, found, strict=True):
        pieces = each.pieces
        if pieces is not None:
            rivals = np.flatnonzero(
                (prompts == each.instance.prompt)
                & (scores > each.instance.score)
                & (boxes[:, :2] < box[2:]).all(axis=1)
                & (boxes[:, 2:] > box[:2]).all(axis=1)
            )
            largest = int(pieces.areas.argmax())
            dropped = np.zeros(len(pieces.areas), np.bool_)
            for rival in rivals.tolist():
                shared = pieces.shared(found[rival].body)
                if shared[largest] < _SAME * pieces.areas[largest]:
                    dropped |= shared >= _COVERED * pieces.areas
            dropped[largest] = False
            if dropped.any():
                each = Divided.of(replace(each.instance, mask=pieces.without(dropped)))
        result.append(each)
    return result
