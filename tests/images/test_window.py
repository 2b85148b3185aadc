"""Windows of a raster."""

from __future__ import annotations

import numpy as np

from inference_server.images.window import Window


def test_a_window_tells_its_edges_and_indexes_an_array() -> None:
    plane = np.arange(12 * 20).reshape(12, 20)
    window = Window(x=3, y=2, width=5, height=4)

    assert (window.right, window.bottom, window.size) == (8, 6, (4, 5))
    assert window.box == (3, 2, 8, 6)
    assert plane[window.slices].shape == window.size
    assert plane[window.slices][0, 0] == plane[2, 3]


def test_windows_share_their_overlap_or_nothing() -> None:
    window = Window(0, 0, 10, 10)

    assert window.overlap(Window(8, 4, 10, 10)) == Window(8, 4, 2, 6)
    assert window.overlap(Window(10, 0, 10, 10)) is None  # it touches, without a shared pixel
    assert window.overlap(window) == window
