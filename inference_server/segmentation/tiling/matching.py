"""Which objects of two windows that overlap are the same.

Two masks that windows cut are compared in the strip that the windows share; there both windows see
the same pixels. If one of them is not cut, the whole masks are compared. Three rules apply in turn,
the most similar pairs first:

1. An object gets at most one partner in the other window, with an IoU of at least `min_iou`.
2. An object may leave a window and come back, so that the window shows it as several objects. So
   objects without a partner are compared piece by piece, where a piece is connected within the
   strip. Again, a piece gets at most one partner.
3. Two objects that are still alone are the same if one of them lies in the other, and is not much
   smaller: a window that shows little of an object outlines it badly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.images.window import Window
from inference_server.masks import Mask, intersection, meet, within
from inference_server.segmentation.tiling.grid import Box
from inference_server.segmentation.tiling.pieces import Pieces

_LEAST_SHARE = 0.25
"""Rule 3: minimum IoU."""


@dataclass(eq=False, slots=True)
class Fragment:
    """What one window shows of an object.

    Attributes:
        window: number of the window.
        prompt: index of the prompt that found it.
        score: its confidence, 0 to 1.
        mask: its mask in the raster.
        drawn: box that the engine predicted, in pixels of the raster; None if it predicts none.
        cuts: number of the window's edges that cut it.
        body_cuts: number of the window's edges that cut its largest piece.
        better: windows that contain its mask, but for small pieces that are not cut, and cut it at
            fewer edges.
        joined: windows whose fragments it was joined with directly.
        confirmed: whether another window has the same mask, which was dropped in favour of this
            one.
        number: number of the fragment, unique in its raster.
        pieces: the pieces of the mask; None if there is only one.
        box: tight box of the mask.
        area: number of pixels of the mask.
    """

    window: int
    prompt: int
    score: float
    mask: Mask
    drawn: tuple[float, float, float, float] | None
    cuts: int = 0
    body_cuts: int = 0
    better: frozenset[int] = frozenset()
    joined: set[int] = field(default_factory=set)
    confirmed: bool = False
    number: int = 0
    pieces: Pieces | None = None
    box: Box = field(init=False)
    area: int = field(init=False)

    def __post_init__(self) -> None:
        self.box = self.mask.box
        self.area = self.mask.area

    @property
    def largest(self) -> int:
        """Number of pixels of the largest piece."""
        return self.area if self.pieces is None else int(self.pieces.areas.max())

    def reduce(self, mask: Mask) -> None:
        """Take a smaller mask, at the end: what is known of the pieces is forgotten.

        Args:
            mask: the mask.
        """
        self.mask, self.box, self.area, self.pieces = mask, mask.box, mask.area, None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two fragments of different windows that share pixels.

    Attributes:
        first: index of the earlier window's fragment.
        second: index of the later window's fragment.
        shared: number of pixels that both have.
        areas: pixels of each that are compared.
        cut: whether both are cut, so that only the strip is compared.
    """

    first: int
    second: int
    shared: int
    areas: tuple[int, int]
    cut: bool

    @property
    def iou(self) -> float:
        """Intersection over union of what is compared, 0 to 1."""
        return self.shared / (sum(self.areas) - self.shared)

    @property
    def containment(self) -> float:
        """Share of the smaller one that lies in the larger one, of what is compared, 0 to 1."""
        return self.shared / min(self.areas)


def matches(
    earlier: Sequence[Fragment],
    later: Sequence[Fragment],
    windows: tuple[Window, Window],
    *,
    min_iou: float,
    containment: float,
    by_prompt: bool,
) -> list[tuple[Fragment, Fragment]]:
    """Find the fragments of two windows that show the same object.

    Args:
        earlier: fragments of one window.
        later: fragments of the other.
        windows: the two windows.
        min_iou: minimum IoU of partners, 0 to 1.
        containment: minimum share of an object's pixels in the strip that lie in the other, 0 to 1;
            for rule 3.
        by_prompt: whether fragments of different prompts are different objects.

    Returns:
        Pairs of an earlier and a later fragment.
    """
    strip = windows[0].overlap(windows[1])
    if strip is None:
        return []
    pairs = sorted(_pairs(earlier, later, strip, by_prompt), key=lambda pair: -pair.iou)
    first: set[int] = set()
    second: set[int] = set()

    def alone(pair: Pair) -> bool:
        return pair.first not in first and pair.second not in second

    found: list[Pair] = []

    def take(pair: Pair) -> None:
        found.append(pair)
        first.add(pair.first)
        second.add(pair.second)

    for pair in pairs:
        if pair.iou >= min_iou and alone(pair):
            take(pair)
    cut = [pair for pair in pairs if pair.cut]
    if any(pair.first not in first or pair.second not in second for pair in cut):
        for pair in _by_piece(earlier, later, cut, found, strip, min_iou):
            take(pair)
    for pair in sorted(pairs, key=lambda pair: -pair.containment):
        if alone(pair) and pair.containment >= containment and pair.iou >= _LEAST_SHARE:
            take(pair)
    return [(earlier[pair.first], later[pair.second]) for pair in found]


def _pairs(
    earlier: Sequence[Fragment], later: Sequence[Fragment], strip: Window, by_prompt: bool
) -> Iterator[Pair]:
    """All pairs that share pixels."""
    inside = [(i, each) for i, each in enumerate(earlier) if meet(each.box, strip.box)]
    areas: dict[int, int] = {}
    for second, other in enumerate(later):
        if not meet(other.box, strip.box):
            continue
        area: int | None = None
        for first, each in inside:
            if (by_prompt and each.prompt != other.prompt) or not meet(each.box, other.box):
                continue
            shared = intersection(each.mask, other.mask)
            if not shared:
                continue
            if not each.cuts or not other.cuts:
                yield Pair(first, second, shared, (each.area, other.area), False)
                continue
            if first not in areas:
                areas[first] = within(each.mask, strip.box).area
            area = within(other.mask, strip.box).area if area is None else area
            yield Pair(first, second, shared, (areas[first], area), True)


def _by_piece(
    earlier: Sequence[Fragment],
    later: Sequence[Fragment],
    pairs: Sequence[Pair],
    found: Sequence[Pair],
    strip: Window,
    min_iou: float,
) -> list[Pair]:
    """Rule 2: further pairs, of which a piece of each is the same."""
    first: dict[int, _Pieces] = {}
    second: dict[int, _Pieces] = {}
    candidates: list[tuple[bool, float, Pair, int, int]] = []
    for pair in pairs:
        if pair.first not in first:
            first[pair.first] = _Pieces.of(earlier[pair.first].mask, strip)
        if pair.second not in second:
            second[pair.second] = _Pieces.of(later[pair.second].mask, strip)
        for iou, i, j in first[pair.first].compared(second[pair.second]):
            if iou >= min_iou:
                candidates.append((pair not in found, -iou, pair, i, j))
    more: list[Pair] = []
    taken: set[tuple[int, int, int]] = set()
    # Pieces of partners first: they are no longer free.
    for is_new, _, pair, i, j in sorted(candidates, key=lambda each: each[:2]):
        one, other = (0, pair.first, i), (1, pair.second, j)
        if one in taken or other in taken:
            continue
        taken |= {one, other}
        if is_new and pair not in more:
            more.append(pair)
    return more


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The connected pieces of a mask in a strip.

    Attributes:
        labels: int32 [h, w], the number of each pixel's piece from 1; 0 outside.
        areas: pixels of each piece, by number.
    """

    labels: NDArray[np.int32]
    areas: NDArray[np.int64]

    @classmethod
    def of(cls, mask: Mask, strip: Window) -> _Pieces:
        plane = within(mask, strip.box).to_plane().view(np.uint8)
        labels = np.asarray(cv2.connectedComponents(plane)[1], np.int32)
        return cls(labels, np.bincount(labels.ravel()))

    def compared(self, other: _Pieces) -> Iterator[tuple[float, int, int]]:
        """IoU of the pieces that share pixels, and their numbers."""
        both = (self.labels > 0) & (other.labels > 0)
        count = len(other.areas)
        codes, shared = np.unique(
            self.labels[both].astype(np.int64) * count + other.labels[both], return_counts=True
        )
        for code, pixels in zip(codes.tolist(), shared.tolist(), strict=True):
            i, j = divmod(code, count)
            yield pixels / float(self.areas[i] + other.areas[j] - pixels), i, j


def iou_in(strip: Window, a: Fragment, b: Fragment) -> float:
    """IoU of two fragments in the pixels that their windows share, 0 to 1.

    Args:
        strip: these pixels.
        a: a fragment of one window.
        b: a fragment of the other.
    """
    shared = intersection(a.mask, b.mask)
    if not shared:
        return 0.0
    return shared / (within(a.mask, strip.box).area + within(b.mask, strip.box).area - shared)
