"""Join the objects that windows cut, in one sweep over the rows of windows.

What a window shows of an object is a fragment. Its fate is decided by what cuts it:

* A fragment that another window contains and cuts at fewer edges is dropped: that window sees more
  of the object, so its judgement counts, also if it finds nothing.
* Fragments that are cut, and no window sees better, are joined if they agree in the strip that
  their windows share; see `matching`. The object has the pixels of all its fragments and the
  highest of their scores.
* A fragment that is cut, that no other window confirms, and that lies almost wholly in another
  window is dropped as well: that window shows as much of the object, and more beyond the edge.
* A fragment that is not cut is an object. Those that several windows see whole are compared as
  wholes, and that of the highest score remains.
* Of two masks of one window and prompt with the same largest piece, that of the higher score
  remains: a model may find an object twice. Then separate pieces of a mask that belong to other
  objects are dropped; see `pieces`.

An object is finished when no later window has any of its pixels. It leaves the memory then: first
it is compared with those around it by the NMS of the request, if that has one, and then it is
handed on. In memory are only objects near the windows that are next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import ImageTooLargeError
from inference_server.masks import intersection, mask_nms, meet, within
from inference_server.segmentation.tiling.assembly import Assembly
from inference_server.segmentation.tiling.grid import Box, Grid
from inference_server.segmentation.tiling.matching import Fragment, iou_in, matches
from inference_server.segmentation.tiling.pieces import (
    SHOWN,
    Divided,
    without_covered,
    without_doubles,
)
from inference_server.segmentation.types import AutomaticOptions, Instance
from inference_server.settings import MiB, Settings


@dataclass(frozen=True, slots=True)
class SeamOptions:
    """When objects of different windows are the same.

    Attributes:
        min_iou: minimum IoU in the strip that two windows share, 0 to 1; of whole masks, if one of
            them is not cut; of their largest pieces, if both are of one window.
        containment: minimum share of an object's pixels in that strip that lie in the other, 0 to
            1, if their IoU is too low.
        nms_iou_threshold: remove an object whose mask overlaps that of a more confident one, of any
            prompt, by more than this IoU (0 to 1); None keeps all. The option of the request.
        by_prompt: whether objects of different prompts are different. Set it to false for automatic
            masks, whose `prompt` is the number of a point of the window.
        automatic: the prompt that all automatic masks have, if others have other prompts. A whole
            and its parts stay; without `nms_iou_threshold` these masks have that of
            `AutomaticOptions`.
        max_bytes: maximum bytes of the masks in memory.
    """

    min_iou: float = 0.5
    containment: float = 0.8
    nms_iou_threshold: float | None = None
    by_prompt: bool = True
    automatic: int | None = None
    max_bytes: int = 256 * MiB

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        nms_iou_threshold: float | None = None,
        by_prompt: bool = True,
        automatic: int | None = None,
    ) -> SeamOptions:
        """The options of a request.

        Args:
            settings: maximum bytes of the masks in memory.
            nms_iou_threshold: maximum mask IoU of two objects, 0 to 1. Default: None, all are kept.
            by_prompt: whether objects of different prompts stay apart. Default: yes.
            automatic: the prompt of automatic masks. Default: None, there are none.
        """
        return cls(
            nms_iou_threshold=nms_iou_threshold,
            by_prompt=by_prompt,
            automatic=automatic,
            max_bytes=settings.tile_memory_mb * MiB,
        )


class SeamMerger:
    """Joins the objects of windows, which come in the order of the grid.

    Args:
        grid: the windows.
        options: when objects are the same.
        emit: receives each finished object.

    Attributes:
        nbytes: bytes of the masks in memory.
    """

    def __init__(self, grid: Grid, options: SeamOptions, emit: Callable[[Instance], None]) -> None:
        self._grid = grid
        self._options = options
        self._emit = emit
        self._by_window: dict[int, list[Fragment]] = {}
        self._owner: dict[Fragment, Assembly] = {}
        self._open: dict[Assembly, None] = {}
        self._doubtful: list[Fragment] = []
        self._finished: list[Instance] = []
        self._count_of_fragments = 0
        self.nbytes = 0

    def add(self, index: int, instances: Iterable[Instance]) -> None:
        """Add the objects of the next window.

        Args:
            index: number of the window, higher than those before; windows that were not searched
                may be left out.
            instances: its objects, with masks in the raster; none if it shows none.

        Raises:
            ImageTooLargeError: the masks in memory exceed their limit.
        """
        clear, doubtful = self._fragments(index, instances)
        for fragment in clear:
            self._begin(fragment)
        for other in self._grid.neighbours(index):
            self._join(other, index, clear)
            earlier = [*self._by_window.get(other, ()), *self._doubtful_of(other)]
            self._review(earlier, index, [*clear, *doubtful])
            self._review([*clear, *doubtful], other, earlier)
        self._confirm(clear, self._doubtful)
        self._confirm([each for kept in self._by_window.values() for each in kept], doubtful)
        self._settle_doubtful(index, doubtful)
        self._close(index)
        self._count()

    def finish(self) -> None:
        """Finish all objects, after the last window."""
        self._doubtful.clear()
        self._close(len(self._grid) - 1)

    def _fragments(
        self, index: int, instances: Iterable[Instance]
    ) -> tuple[list[Fragment], list[Fragment]]:
        """The fragments of a window, and those of them that another window sees better."""
        clear: list[Fragment] = []
        doubtful: list[Fragment] = []
        found = [Divided.of(each) for each in instances if not each.mask.is_empty]
        if self._options.by_prompt:
            # Automatic masks of one object are meant to overlap: the whole and its parts.
            apart = [each for each in found if each.instance.prompt == self._options.automatic]
            rest = [each for each in found if each.instance.prompt != self._options.automatic]
            found = without_covered(without_doubles(rest, self._options.min_iou)) + apart
        for each in found:
            instance = each.instance
            fragment = Fragment(index, instance.prompt, instance.score, instance.mask, instance.box)
            self._count_of_fragments += 1
            fragment.number = self._count_of_fragments
            fragment.pieces = each.pieces
            fragment.cuts = self._grid.cuts(index, fragment.box)
            self._find_better(fragment)
            (doubtful if fragment.better else clear).append(fragment)
        return clear, doubtful

    def _find_better(self, fragment: Fragment) -> None:
        """Find the windows that see a fragment better, whatever its stray pieces."""
        grid, index, pieces = self._grid, fragment.window, fragment.pieces
        if pieces is None:
            fragment.body_cuts, fragment.better = fragment.cuts, grid.better(index, fragment.box)
            return
        cuts = grid.cuts_of(index, pieces.boxes)
        largest = pieces.areas.argmax()
        fragment.body_cuts = int(cuts[largest])
        body = cuts > 0
        body[largest] = True
        if 2 * pieces.areas[body].sum() <= fragment.area:
            body[:] = True
        x0, y0 = (int(edge) for edge in pieces.boxes[body, :2].min(axis=0))
        x1, y1 = (int(edge) for edge in pieces.boxes[body, 2:].max(axis=0))
        fragment.better = grid.better(index, (x0, y0, x1, y1))

    def _begin(self, fragment: Fragment) -> None:
        made = Assembly([fragment])
        self._owner[fragment] = made
        self._open[made] = None
        self._by_window.setdefault(fragment.window, []).append(fragment)

    def _join(self, other: int, index: int, clear: Sequence[Fragment]) -> None:
        """Join the fragments of a window with those of an earlier one."""
        earlier, later = self._by_window.get(other, []), clear
        columns = len(self._grid.lefts)
        (row, column), (below, beside) = divmod(other, columns), divmod(index, columns)
        if row != below and column != beside:
            # Where four windows meet, any two large objects fill the corner. So the two other
            # windows decide, unless they show nothing.
            bridges = {row * columns + beside, below * columns + column}
            earlier = [each for each in earlier if not each.joined & bridges]
            later = [each for each in later if not each.joined & bridges]
        if not earlier or not later:
            return
        options = self._options
        for first, second in matches(
            earlier,
            later,
            (self._grid[other], self._grid[index]),
            min_iou=options.min_iou,
            containment=options.containment,
            by_prompt=options.by_prompt,
        ):
            first.joined.add(index)
            second.joined.add(other)
            self._unite(self._owner[first], self._owner[second])

    def _unite(self, a: Assembly, b: Assembly) -> None:
        if a is b:
            return
        if len(a.fragments) < len(b.fragments):
            a, b = b, a
        a.fragments += b.fragments
        for fragment in b.fragments:
            self._owner[fragment] = a
        del self._open[b]

    def _doubtful_of(self, window: int) -> list[Fragment]:
        return [fragment for fragment in self._doubtful if fragment.window == window]

    def _review(self, fragments: Sequence[Fragment], other: int, shown: Sequence[Fragment]) -> None:
        """Note what a window says of the pieces of another window's fragments.

        Now, and not when the object is finished, because what a window shows leaves the memory.

        Args:
            fragments: the other window's fragments.
            other: number of the window.
            shown: its fragments, also those that another window sees better.
        """
        grid, options = self._grid, self._options
        for fragment in fragments:
            pieces = fragment.pieces
            if pieces is None or not meet(fragment.box, grid[other].box):
                continue
            own, cuts = (
                grid.cuts_of(fragment.window, pieces.boxes),
                grid.cuts_of(other, pieces.boxes),
            )
            pieces.shown |= (pieces.in_window(grid[other]) >= SHOWN * pieces.areas) & (cuts <= own)
            strip = grid[fragment.window].overlap(grid[other])
            for each in shown:
                if (options.by_prompt and each.prompt != fragment.prompt) or not meet(
                    each.box, fragment.box
                ):
                    continue
                if each in self._owner:
                    pieces.claim(each.number, each.mask)
                elif strip is not None and iou_in(strip, each, fragment) >= options.min_iou:
                    pieces.claim(None, each.mask)

    def _confirm(self, clear: Sequence[Fragment], doubtful: Sequence[Fragment]) -> None:
        """Note which fragments agree with one that was dropped in favour of their window."""
        for dropped in doubtful:
            for fragment in clear:
                if fragment.window in dropped.better and self._agree(fragment, dropped):
                    fragment.confirmed = True

    def _agree(self, a: Fragment, b: Fragment) -> bool:
        """Whether two fragments are the same by their whole masks."""
        if (self._options.by_prompt and a.prompt != b.prompt) or not meet(a.box, b.box):
            return False
        shared = intersection(a.mask, b.mask)
        return shared >= self._options.min_iou * (a.area + b.area - shared)

    def _settle_doubtful(self, index: int, doubtful: list[Fragment]) -> None:
        """Keep one of two fragments each of which the other's window should have seen better.

        This is an object about as wide as the strip: the mask of each window ends at its edge.
        """
        for fragment in doubtful:
            for other in self._doubtful:
                if other.window not in fragment.better or fragment.window not in other.better:
                    continue
                if self._agree(fragment, other):
                    best = max(other, fragment, key=lambda each: each.score)
                    best.cuts = best.body_cuts = 0
                    self._begin(best)
                    self._doubtful.remove(other)
                    break
            else:
                self._doubtful.append(fragment)
        self._doubtful = [
            each for each in self._doubtful if not self._grid.is_passed(each.box, index)
        ]

    def _close(self, index: int) -> None:
        """Hand on the objects that no window after this one has any pixel of."""
        passed = [each for each in self._open if self._grid.is_passed(each.box, index)]
        for each in passed:
            del self._open[each]
            for fragment in each.fragments:
                del self._owner[fragment]
                self._by_window[fragment.window].remove(fragment)
            if not self._is_contradicted(each):
                self._finished.append(each.finish())
        for window in [window for window, kept in self._by_window.items() if not kept]:
            del self._by_window[window]
        threshold, automatic = self._options.nms_iou_threshold, self._options.automatic
        if threshold is None:
            threshold = AutomaticOptions().mask_nms_threshold
            decided = [each for each in self._finished if each.prompt != automatic]
            self._finished = [each for each in self._finished if each.prompt == automatic]
        else:
            decided = []
        if self._finished:
            kept, self._finished = self._suppressed(threshold)
            decided += kept
        for instance in decided:
            self._emit(instance)

    def _is_contradicted(self, found: Assembly) -> bool:
        """Whether another window shows almost all of a cut object, and has not found it."""
        fragment, *others = found.fragments
        if others or not fragment.body_cuts or fragment.joined or fragment.confirmed:
            return False
        least = SHOWN * fragment.area
        window = self._grid[fragment.window]
        for other in self._grid.around(fragment.window):
            strip = window.overlap(self._grid[other])
            if strip is not None and within(fragment.mask, strip.box).area >= least:
                return True
        return False

    def _suppressed(self, threshold: float) -> tuple[list[Instance], list[Instance]]:
        """NMS among finished objects.

        Returns:
            Those that remain for sure, and those whose rivals are not finished yet.
        """
        finished = self._finished
        boxes = _boxes([each.mask.box for each in finished])
        areas = np.array([each.mask.area for each in finished], np.int64)
        growing = _boxes([each.box for each in self._open])
        least = np.array([each.area for each in self._open], np.int64)
        # The IoU with an object that may still grow is at most the share of the larger area.
        waits = _meeting(boxes, growing) & (
            areas[:, None] > threshold * np.maximum(areas[:, None], least[None])
        )
        blocked: NDArray[np.bool_] = np.asarray(waits.any(axis=1))
        decided: list[Instance] = []
        waiting: list[Instance] = []
        for group in _groups(finished, boxes, areas, threshold):
            if blocked[group].any():
                waiting += [finished[i] for i in group]
                continue
            scores = np.array([finished[i].score for i in group], np.float32)
            kept = mask_nms([finished[i].mask for i in group], scores, threshold)
            decided += [finished[group[i]] for i in kept]
        return decided, waiting

    def _count(self) -> None:
        """Measure the masks in memory, and refuse more than the limit."""
        fragments = [fragment for kept in self._by_window.values() for fragment in kept]
        fragments += self._doubtful
        masks = [fragment.mask for fragment in fragments]
        masks += [instance.mask for instance in self._finished]
        self.nbytes = sum(mask.runs.nbytes for mask in masks)
        self.nbytes += sum(each.pieces.nbytes for each in fragments if each.pieces is not None)
        if self.nbytes > self._options.max_bytes:
            raise ImageTooLargeError(
                "The objects that windows of this raster cut need more than "
                f"{self._options.max_bytes // MiB} MiB of memory. Send a part of the raster, or "
                "raise INFERENCE_TILE_MEMORY_MB."
            )


def _boxes(boxes: Sequence[Box]) -> NDArray[np.int64]:
    return np.array(boxes, np.int64).reshape(-1, 4)


def _meeting(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each of n boxes shares pixels with each of m, bool [n, m]."""
    low, high = (
        np.maximum(a[:, None, :2], b[None, :, :2]),
        np.minimum(a[:, None, 2:], b[None, :, 2:]),
    )
    met: NDArray[np.bool_] = np.asarray((low < high).all(axis=2))
    return met


def _groups(
    finished: Sequence[Instance],
    boxes: NDArray[np.int64],
    areas: NDArray[np.int64],
    threshold: float,
) -> list[list[int]]:
    """Group instances that may suppress one another, directly or through others."""
    group = list(range(len(finished)))

    def root(i: int) -> int:
        while group[i] != i:
            i = group[i] = group[group[i]]
        return i

    for i, j in zip(*np.nonzero(np.triu(_meeting(boxes, boxes), 1)), strict=True):
        if min(areas[i], areas[j]) <= threshold * max(areas[i], areas[j]):
            continue
        shared = intersection(finished[i].mask, finished[j].mask)
        if shared > threshold * (areas[i] + areas[j] - shared):
            group[root(int(j))] = root(int(i))
    groups: dict[int, list[int]] = {}
    for i in range(len(finished)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())
