"""The temporary file of objects, and the journal of windows."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.errors import ImageTooLargeError, StorageError
from inference_server.masks import Mask
from inference_server.segmentation.tiling.grid import Grid
from inference_server.segmentation.tiling.journal import WindowJournal
from inference_server.segmentation.tiling.objects import TiledObjects
from inference_server.segmentation.tiling.records import pack, unpack
from inference_server.segmentation.types import Instance
from inference_server.settings import MiB
from tests.full_disk import full_disk
from tests.masks.planes import Plane, planes
from tests.segmentation.tiling.worlds import rectangle

SIZE = (60, 80)
GRID = Grid.of(SIZE, 40, 10)


def instance(x: int, y: int, w: int, h: int, prompt: int = 0, score: float = 0.5) -> Instance:
    return Instance(prompt, score, Mask.from_plane(rectangle(SIZE, x, y, x + w, y + h)))


@given(planes(), st.integers(0, 9), st.floats(0, 1), st.booleans())
def test_an_instance_is_read_as_it_was_written(
    plane: Plane, prompt: int, score: float, boxed: bool
) -> None:
    box = (1.5, 2.0, 3.25, 4.0) if boxed else None
    written = Instance(prompt, score, Mask.from_plane(plane), box=box)

    read = unpack(pack(written), written.mask.size)

    assert (read.prompt, read.score, read.box) == (prompt, score, box)
    assert np.array_equal(read.mask.runs, written.mask.runs)


def test_runs_far_apart_are_read_as_they_were_written() -> None:
    size = (100_000, 100_000)
    runs = np.array([[5, 9], [7_000_000_000, 7_000_000_001]], np.int64)
    read = unpack(pack(Instance(0, 1.0, Mask(runs, size))), size)
    assert np.array_equal(read.mask.runs, runs)


def test_objects_come_in_the_order_of_their_first_rows() -> None:
    with TiledObjects(SIZE, max_bytes=MiB) as objects:
        for x, y in ((5, 40), (30, 7), (10, 7), (0, 0)):
            objects.add(instance(x, y, 4, 6))
        assert len(objects) == 4
        assert [each.mask.box[:2] for each in objects] == [(0, 0), (10, 7), (30, 7), (5, 40)]
        assert objects[2].mask.box == (30, 7, 34, 13)
        objects.add(instance(0, 3, 1, 1))
        assert [each.mask.box[1] for each in objects] == [0, 3, 7, 7, 40]


@pytest.mark.parametrize(
    ("rows", "numbers"),
    [((0, 60), [0, 1, 2]), ((0, 7), [0]), ((6, 8), [1]), ((12, 40), [1]), ((13, 41), [2])],
)
def test_objects_are_found_by_rows(rows: tuple[int, int], numbers: list[int]) -> None:
    with TiledObjects(SIZE, max_bytes=MiB) as objects:
        for x, y in ((5, 40), (30, 7), (0, 0)):
            objects.add(instance(x, y, 4, 6))
        assert [number for number, _ in objects.touching(range(*rows))] == numbers
        for number, found in objects.touching(range(*rows)):
            assert np.array_equal(found.mask.runs, objects[number].mask.runs)


def test_the_file_is_bounded() -> None:
    with TiledObjects(SIZE, max_bytes=200) as objects:
        objects.add(instance(0, 0, 5, 5))
        with pytest.raises(ImageTooLargeError, match="INFERENCE_TILE_OBJECTS_MB"):
            objects.add(instance(0, 0, 40, 5))
        assert len(objects) == 1


@pytest.mark.parametrize("nbytes", [10, 150, 1_000])
def test_a_full_disk_is_a_storage_error_also_after_closing(tmp_path: Path, nbytes: int) -> None:
    def fill() -> None:
        with full_disk(nbytes), TiledObjects(SIZE, max_bytes=MiB, directory=tmp_path) as objects:
            for _ in range(20):
                objects.add(instance(0, 0, 5, 5))
                assert len(list(objects)) == len(objects)

    with pytest.raises(StorageError, match="Temporary storage cannot be written"):
        fill()


def test_what_fits_is_read_on_a_full_disk(tmp_path: Path) -> None:
    with full_disk(1_000), TiledObjects(SIZE, max_bytes=MiB, directory=tmp_path) as objects:
        with suppress(StorageError):
            for _ in range(100):
                objects.add(instance(0, 0, 5, 5))
        assert 2 < len(objects) < 100
        assert [each.mask.box for each in objects] == [(0, 0, 5, 5)] * len(objects)


def test_the_file_has_no_name_and_ends_with_the_context(tmp_path: Path) -> None:
    with TiledObjects(SIZE, max_bytes=MiB, directory=tmp_path) as objects:
        objects.add(instance(0, 0, 5, 5))
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="closed"):
        next(iter(objects))


def journal(path: Path, identity: str = "raster 1", max_bytes: int = MiB) -> WindowJournal:
    return WindowJournal(path, identity, GRID, max_bytes=max_bytes)


def shown(x: int) -> Instance:
    """An instance of a window."""
    return Instance(1, 0.75, Mask.from_plane(rectangle(GRID.tile, x, 3, x + 4, 9)))


def test_a_journal_returns_the_windows_of_an_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "windows"
    with journal(path) as first:
        first.add(0, [shown(1), shown(20)])
        first.add(1, None)
        first.add(2, [])
        assert 2 in first
        assert 3 not in first

    with journal(path) as again:
        assert len(again) == 3
        found = again.read(0)
        assert found is not None
        assert [each.mask.box[0] for each in found] == [1, 20]
        assert again.read(1) is None
        assert again.read(2) == []
        again.add(3, [shown(8)])
    with journal(path) as last:
        assert len(last) == 4


def test_a_journal_is_read_by_several_threads(tmp_path: Path) -> None:
    """Each thread gets its own window, though all of them share the file's position."""
    shapes = [rectangle(window.size, 0, 0, 1 + i, 2 + i) for i, window in enumerate(GRID)]
    found = [[Instance(0, 0.5, Mask.from_plane(plane))] * (1 + i) for i, plane in enumerate(shapes)]
    readers = 4
    together = threading.Barrier(readers)
    with journal(tmp_path / "windows") as done:
        for index, instances in enumerate(found):
            done.add(index, instances)

        def read(reader: int) -> None:
            together.wait()
            for turn in range(200):
                index = (reader + turn) % len(found)
                again = done.read(index)
                assert again is not None
                for each, like in zip(again, found[index], strict=True):
                    assert np.array_equal(each.mask.runs, like.mask.runs)

        with ThreadPoolExecutor(readers) as pool:
            list(pool.map(read, range(readers)))


@pytest.mark.parametrize("lost", [1, 5, 17, 40])
def test_a_record_that_was_cut_off_is_done_again(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "windows"
    with journal(path) as first:
        first.add(0, [shown(1)])
        first.add(1, [shown(2)])
    data = path.read_bytes()
    path.write_bytes(data[:-lost])
    with journal(path) as again:
        assert len(again) == 1
        again.add(1, [shown(2)])
    assert path.read_bytes() == data


def test_a_damaged_record_and_what_follows_are_done_again(tmp_path: Path) -> None:
    path = tmp_path / "windows"
    with journal(path) as first:
        for index in range(3):
            first.add(index, [shown(index)])
    data = bytearray(path.read_bytes())
    data[-60] ^= 1
    path.write_bytes(data)
    with journal(path) as again:
        assert len(again) == 2


def test_a_journal_of_another_run_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "windows"
    with journal(path) as first:
        first.add(0, [shown(1)])
    with journal(path, "raster 2") as other:
        assert len(other) == 0
    path.write_bytes(b"something else")
    with journal(path) as other:
        assert len(other) == 0


def test_a_journal_is_bounded(tmp_path: Path) -> None:
    with (
        journal(tmp_path / "windows", max_bytes=100) as small,
        pytest.raises(ImageTooLargeError, match="journal"),
    ):
        small.add(0, [shown(1), shown(2)])


def test_a_journal_on_a_full_disk_is_a_storage_error_also_after_closing(tmp_path: Path) -> None:
    path = tmp_path / "windows"

    def fill() -> None:
        with full_disk(300), journal(path) as first:
            for index in range(len(GRID)):
                first.add(index, [shown(1)])

    with pytest.raises(StorageError, match="The journal cannot be written"):
        fill()
    with journal(path) as again:
        assert 0 < len(again) < len(GRID)


def test_a_journal_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="windows"):
        journal(tmp_path / "missing" / "windows")
