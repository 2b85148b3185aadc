"""The journal of windows that are done."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from inference_server.masks import Mask
from inference_server.segmentation.tiling import Grid, WindowJournal
from inference_server.segmentation.types import Instance
from inference_server.settings import MiB
from tests.segmentation.tiling.worlds import rectangle

GRID = Grid.of((90, 110), 40, 10)


def test_a_journal_is_read_by_several_threads(tmp_path: Path) -> None:
    """Each thread gets its own window, though all of them share the file's position."""
    planes = [rectangle(window.size, 0, 0, 1 + i, 2 + i) for i, window in enumerate(GRID)]
    found = [[Instance(0, 0.5, Mask.from_plane(plane))] * (1 + i) for i, plane in enumerate(planes)]
    readers = 4
    together = threading.Barrier(readers)
    with WindowJournal(tmp_path / "w", "run", GRID, max_bytes=MiB) as journal:
        for index, instances in enumerate(found):
            journal.add(index, instances)

        def read(reader: int) -> None:
            together.wait()
            for turn in range(200):
                index = (reader + turn) % len(found)
                done = journal.read(index)
                assert done is not None
                for each, like in zip(done, found[index], strict=True):
                    assert np.array_equal(each.mask.runs, like.mask.runs)

        with ThreadPoolExecutor(readers) as pool:
            list(pool.map(read, range(readers)))
