"""Random masks as planes for property tests, and reference implementations."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference_server.masks import Mask, intersection

Plane = NDArray[np.bool_]


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks' pixels, 0 to 1; 0 if both are empty."""
    shared = intersection(a, b)
    return shared / (a.area + b.area - shared) if shared else 0.0


@st.composite
def planes(draw: st.DrawFn, size: tuple[int, int] | None = None) -> Plane:
    """Strategy of bool [H, W]: noise, rectangles added and removed, empty, or full."""
    h, w = size or (draw(st.integers(1, 24)), draw(st.integers(1, 24)))
    kind = draw(st.sampled_from(["noise", "rectangles", "rectangles", "empty", "full"]))
    if kind == "noise":
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        return rng.random((h, w)) < draw(st.sampled_from([0.02, 0.2, 0.5, 0.8, 0.98]))
    plane = np.full((h, w), kind == "full")
    if kind == "rectangles":
        for _ in range(draw(st.integers(1, 6))):
            y0, x0 = draw(st.integers(0, h - 1)), draw(st.integers(0, w - 1))
            y1, x1 = draw(st.integers(y0 + 1, h)), draw(st.integers(x0 + 1, w))
            plane[y0:y1, x0:x1] ^= True
    return plane


def examples() -> dict[str, Plane]:
    """Planes of 12 x 17 pixels, by name, that each test covers once."""
    size = (12, 17)
    named: dict[str, Plane] = {name: np.zeros(size, np.bool_) for name in EXAMPLES}
    named["full"][:] = True
    named["one pixel"][5, 7] = True
    named["first pixel"][0, 0] = True
    named["last pixel"][-1, -1] = True
    named["row"][4, 2:15] = True
    named["column"][:, 9] = True
    named["two columns"][:, 3:5] = True
    np.fill_diagonal(named["diagonal"], True)
    named["ring"][2:10, 3:12] = True
    named["ring"][4:8, 5:10] = False
    named["frame"][:] = True
    named["frame"][1:-1, 1:-1] = False
    named["ring with an island"][1:11, 1:11] = True
    named["ring with an island"][2:10, 2:10] = False
    named["ring with an island"][5:7, 5:7] = True
    named["several parts"][::4, ::3] = True
    # The end of one column and the start of the next are one run in column-major order.
    named["run over a column's foot"][8:, 3] = True
    named["run over a column's foot"][:4, 4] = True
    return named


EXAMPLES = [
    "empty",
    "full",
    "one pixel",
    "first pixel",
    "last pixel",
    "row",
    "column",
    "two columns",
    "diagonal",
    "ring",
    "frame",
    "ring with an island",
    "several parts",
    "run over a column's foot",
]
