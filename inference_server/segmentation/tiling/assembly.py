"""An object that is assembled from the fragments that windows show of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from inference_server.masks import union
from inference_server.segmentation.tiling.grid import Box
from inference_server.segmentation.tiling.matching import Fragment
from inference_server.segmentation.types import Instance

_WHOLE = 0.5
"""An object that one window shows uncut replaces its joined fragments if it has at least this share
of their pixels."""


@dataclass(eq=False, slots=True)
class Assembly:
    """An object that later windows may continue.

    Attributes:
        fragments: what windows show of it, at least one fragment.
    """

    fragments: list[Fragment] = field(default_factory=list)

    @property
    def box(self) -> Box:
        """Tight box of the fragments."""
        boxes = [fragment.box for fragment in self.fragments]
        return (
            min(box[0] for box in boxes),
            min(box[1] for box in boxes),
            max(box[2] for box in boxes),
            max(box[3] for box in boxes),
        )

    @property
    def area(self) -> int:
        """Number of pixels, at least."""
        return max(fragment.area for fragment in self.fragments)

    def finish(self) -> Instance:
        """The object as one instance, without its stray pieces."""
        self._drop_strays()
        usable = [fragment for fragment in self.fragments if fragment.area]
        whole = [fragment for fragment in usable if not fragment.cuts]
        parts = [fragment for fragment in usable if fragment.cuts]
        best = max(whole, key=lambda fragment: fragment.score, default=None)
        if parts:
            mask = union([fragment.mask for fragment in parts])
            if best is None or best.area < _WHOLE * mask.area:
                top = max(parts, key=lambda fragment: fragment.score)
                return Instance(top.prompt, top.score, mask, box=_around(parts))
        assert best is not None  # noqa: S101 - an object has a fragment
        return Instance(best.prompt, best.score, best.mask, box=best.drawn)

    def _drop_strays(self) -> None:
        """Drop the pieces that another window shows and none confirms, but the largest piece."""
        if all(fragment.pieces is None for fragment in self.fragments):
            return
        own = {fragment.number for fragment in self.fragments}
        largest = max(fragment.largest for fragment in self.fragments)
        for fragment in self.fragments:
            pieces = fragment.pieces
            if pieces is not None:
                strays = pieces.strays(own) & (pieces.areas < largest)
                if strays.any():
                    fragment.reduce(pieces.without(strays))


def _around(parts: Sequence[Fragment]) -> tuple[float, float, float, float] | None:
    """The box around the boxes that the engine predicted; None if it predicts none."""
    boxes = [part.drawn for part in parts if part.drawn is not None]
    if not boxes:
        return None
    x0, y0, _, _ = (min(edges) for edges in zip(*boxes, strict=True))
    _, _, x1, y1 = (max(edges) for edges in zip(*boxes, strict=True))
    return x0, y0, x1, y1
