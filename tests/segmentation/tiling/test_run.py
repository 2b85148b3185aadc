"""A raster segmented window by window, with a scripted search."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from inference_server.engines.base import Embedding
from inference_server.errors import CapacityError, ImageError, StoppingError
from inference_server.executor import Threads
from inference_server.images.window import Window, WindowPixels
from inference_server.masks import Mask
from inference_server.segmentation.service import SegmentationService
from inference_server.segmentation.tiling import (
    Grid,
    Progress,
    SeamOptions,
    TiledObjects,
    TiledResult,
    View,
    WindowJournal,
    segment_around,
    segment_tiled,
)
from inference_server.segmentation.types import (
    EncodedImage,
    ImageKey,
    ImageRef,
    Instance,
    SegmentationResult,
)
from inference_server.settings import MiB, Settings
from tests.segmentation.tiling.worlds import Plane, rectangle, ring, seen

pytestmark = pytest.mark.anyio

T = TypeVar("T")
SIZE = (90, 110)
GRID = Grid.of(SIZE, 40, 10)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Worker:
    """The threads of a segmentation service."""

    threads: Threads = field(default_factory=lambda: Threads(2, 2))

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await self.threads.run(work)

    async def in_slow_thread(self, work: Callable[[], T]) -> T:
        return await self.threads.run_slow(work)


@pytest.fixture
def worker() -> Iterator[SegmentationService]:
    made = Worker()
    yield cast("SegmentationService", made)
    made.threads.close()


@dataclass
class Raster:
    """A raster in memory that records what is read of it.

    Attributes:
        valid: its pixels with data.
        read_windows: windows read so far.
        gate: reading waits for it.
        reading: set while a thread reads.
        most: most readers at the same time.
    """

    size: tuple[int, int] = SIZE
    valid: Plane | None = None
    read_windows: list[Window] = field(default_factory=list)
    gate: threading.Event | None = None
    reading: threading.Event = field(default_factory=threading.Event)
    readers: int = 0
    most: int = 0

    def has_data(self, window: Window) -> bool:
        return self.valid is None or bool(self.valid[window.slices].any())

    def read(self, window: Window, max_side: int | None = None) -> WindowPixels:
        self.readers += 1
        self.most = max(self.most, self.readers)
        self.reading.set()
        if self.gate is not None:
            assert self.gate.wait(60)
        self.read_windows.append(window)
        pixels: NDArray[np.uint8] = np.zeros((*window.size, 3), np.uint8)
        pixels[..., 0], pixels[..., 2] = window.x % 256, window.y % 256
        valid = None if self.valid is None else self.valid[window.slices]
        if max_side is not None and max(window.size) > max_side:
            scale = max_side / max(window.size)
            reduced = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
            pixels = np.asarray(reduced, np.uint8)
        self.readers -= 1
        return WindowPixels(pixels, valid)


class Damaged(Raster):
    """A raster whose windows cannot be read."""

    def read(self, window: Window, max_side: int | None = None) -> WindowPixels:
        super().read(window, max_side)
        raise ImageError("damaged")


def encoded(image: ImageRef, hit: bool = False) -> EncodedImage:
    assert image.file is not None
    key = ImageKey("tenant", "scripted", f"sha256:{image.file.digest}", image.window)
    embedding = Embedding((1, 1), object(), 1000)
    return EncodedImage(key, embedding, "scripted", hit, image.file.digest)


@dataclass
class Search:
    """Returns what each window shows of the objects.

    Attributes:
        objects: planes of the raster.
        asked: windows searched so far.
        failures: raised by the first calls, one each.
        most: most searches at the same time.
    """

    objects: list[Plane]
    asked: list[Window] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    running: int = 0
    most: int = 0

    async def __call__(self, image: ImageRef, window: Window) -> SegmentationResult:
        assert image.window
        assert image.file is not None
        pixels = cv2.imdecode(np.frombuffer(image.file.data, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert pixels is not None
        assert pixels.shape[:2] == window.size
        assert tuple(pixels[0, 0]) == (window.x, 0, window.y)
        self.asked.append(window)
        if self.failures:
            raise self.failures.pop(0)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        return SegmentationResult(encoded(image), seen(self.objects, window))


OBJECTS = [
    rectangle(SIZE, 0, 42, 110, 47),
    ring(SIZE, 28, 28, 9, 5),
    rectangle(SIZE, 80, 60, 90, 70),
    rectangle(SIZE, 2, 2, 8, 8),
]


async def run(
    worker: SegmentationService,
    raster: Raster,
    search: Any,
    settings: Settings | None = None,
    **options: Any,
) -> tuple[TiledResult, list[Instance]]:
    with TiledObjects(SIZE, max_bytes=MiB) as objects:
        result = await segment_tiled(
            *(worker, raster, search, GRID, SeamOptions()),
            objects=objects,
            settings=settings or Settings(),
            **options,
        )
        return result, list(objects)


def planes_of(found: list[Instance]) -> set[bytes]:
    return {instance.mask.to_plane().tobytes() for instance in found}


@contextmanager
def files_of(folder: Path) -> Iterator[None]:
    """The folder has no more files afterwards than before."""
    before = sorted(folder.iterdir())
    yield
    assert sorted(folder.iterdir()) == before


async def test_a_raster_is_segmented_window_by_window(worker: SegmentationService) -> None:
    raster, search, told = Raster(), Search(OBJECTS), list[Progress]()

    result, found = await run(worker, raster, search, progress=told.append)

    assert planes_of(found) == {plane.tobytes() for plane in OBJECTS}
    assert len(found) == len(OBJECTS)
    assert raster.read_windows == list(GRID)
    assert raster.most == 1
    assert result.progress == Progress(len(GRID), len(GRID), 0, len(OBJECTS)) == told[-1]
    assert [each.done for each in told] == [*range(1, len(GRID) + 1), len(GRID)]
    assert result.image is not None
    assert (result.image.model, result.image.hit) == ("scripted", False)
    assert (result.image.embedding.size, result.image.embedding.features) == (SIZE, None)


@pytest.mark.parametrize("flight", [1, 3])
async def test_few_windows_are_in_flight(worker: SegmentationService, flight: int) -> None:
    search = Search(OBJECTS)
    _, found = await run(worker, Raster(), search, Settings(tile_windows_in_flight=flight))
    assert planes_of(found) == {plane.tobytes() for plane in OBJECTS}
    assert search.most <= flight


async def test_windows_without_data_are_skipped_and_masks_end_with_the_data(
    worker: SegmentationService,
) -> None:
    valid = rectangle(SIZE, 0, 0, 50, 90)
    raster, search = Raster(valid=valid), Search(OBJECTS)

    result, found = await run(worker, raster, search)

    with_data = [window for window in GRID if valid[window.slices].any()]
    assert 0 < len(with_data) < len(GRID)
    assert raster.read_windows == with_data
    assert sorted(search.asked, key=lambda window: (window.y, window.x)) == with_data
    assert result.progress.skipped == len(GRID) - len(with_data)
    left = [plane & valid for plane in OBJECTS if (plane & valid).any()]
    assert planes_of(found) == {plane.tobytes() for plane in left}


async def test_a_raster_without_data_has_no_objects_but_a_model(
    worker: SegmentationService,
) -> None:
    raster, search = Raster(valid=np.zeros(SIZE, np.bool_)), Search(OBJECTS)
    result, found = await run(worker, raster, search)
    assert found == []
    assert search.asked == [GRID[0]]
    assert result.image is not None
    assert result.image.model == "scripted"


async def test_a_window_is_tried_again_while_queues_are_full(worker: SegmentationService) -> None:
    full = CapacityError("full", retry_after=0.0)
    search = Search(OBJECTS, failures=[full] * 5)
    _, found = await run(worker, Raster(), search)
    assert planes_of(found) == {plane.tobytes() for plane in OBJECTS}
    assert len(search.asked) == len(GRID) + 5


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (CapacityError("full", retry_after=0.0), 3),
        (StoppingError("stopping"), 1),
        (ImageError("damaged"), 1),
    ],
)
async def test_a_window_that_fails_ends_the_request(
    worker: SegmentationService, error: Exception, times: int
) -> None:
    search = Search(OBJECTS, failures=[error] * 100)
    limits = Settings(tile_attempts=3, tile_windows_in_flight=1)
    with pytest.raises(type(error)):
        await run(worker, Raster(), search, limits)
    assert len(search.asked) == times


async def test_a_cancelled_run_stops_and_waits_for_the_thread_that_reads(
    worker: SegmentationService, tmp_path: Path
) -> None:
    raster, search = Raster(gate=threading.Event()), Search(OBJECTS)
    assert raster.gate is not None
    with (
        files_of(tmp_path),
        TiledObjects(SIZE, max_bytes=MiB, directory=tmp_path) as objects,
    ):
        task = asyncio.create_task(
            segment_tiled(
                *(worker, raster, search, GRID, SeamOptions()),
                objects=objects,
                settings=Settings(),
            )
        )
        await asyncio.to_thread(raster.reading.wait, 60)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0)
        assert not done  # the caller must not close the raster yet
        raster.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert raster.readers == 0
        assert len(raster.read_windows) == 1
        assert search.asked == []


async def test_a_window_that_fails_after_its_run_was_given_up_is_not_logged(
    worker: SegmentationService, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a damaged file, each client could fill the log with the errors of further windows."""
    raster = Damaged(gate=threading.Event())
    assert raster.gate is not None
    task = asyncio.create_task(run(worker, raster, Search(OBJECTS)))
    await asyncio.to_thread(raster.reading.wait, 60)
    task.cancel()
    await asyncio.wait([task], timeout=0)
    raster.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    assert [each.message for each in caplog.records if each.name == "asyncio"] == []


async def test_a_cancelled_run_leaves_no_task_behind(worker: SegmentationService) -> None:
    begun = asyncio.Event()
    ended: list[Window] = []

    async def search(image: ImageRef, window: Window) -> SegmentationResult:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(window)
        raise AssertionError

    before = asyncio.all_tasks()
    task = asyncio.create_task(run(worker, Raster(), search))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("in_flight", [1, 3])
async def test_an_interrupted_run_continues_at_its_window(
    worker: SegmentationService, tmp_path: Path, in_flight: int
) -> None:
    valid = rectangle(SIZE, 0, 0, 70, 90)
    whole, expected = await run(worker, Raster(valid=valid), Search(OBJECTS))
    raster, search = Raster(valid=valid), Search(OBJECTS, failures=[])
    limits = Settings(tile_windows_in_flight=1)

    async def until_the_seventh(image: ImageRef, window: Window) -> SegmentationResult:
        if window == GRID[6]:
            raise ImageError("interrupted")
        return await search(image, window)

    with WindowJournal(tmp_path / "w", "run", GRID, max_bytes=MiB) as journal:
        with pytest.raises(ImageError):
            await run(worker, raster, until_the_seventh, limits, journal=journal)
        assert len(journal) == 6
    limits = Settings(tile_windows_in_flight=in_flight)
    raster, search = Raster(valid=valid), Search(OBJECTS)
    with WindowJournal(tmp_path / "w", "run", GRID, max_bytes=MiB) as journal:
        result, found = await run(worker, raster, search, limits, journal=journal)
        assert all(window in list(GRID)[6:] for window in raster.read_windows)
        assert GRID[6] in search.asked
        assert planes_of(found) == planes_of(expected)
        assert result.progress == whole.progress

        again, found = await run(worker, Raster(valid=valid), search, limits, journal=journal)
        assert again.image is None  # nothing had to be searched
        assert planes_of(found) == planes_of(expected)


async def test_a_click_costs_one_window(worker: SegmentationService) -> None:
    raster = Raster((8000, 10_000))
    views: list[View] = []

    async def search(image: ImageRef, view: View) -> SegmentationResult:
        views.append(view)
        assert image.window
        (x, y), *_ = view.points(np.array([[5000.0, 4000.0]]))
        plane = rectangle(view.size, int(x) - 2, int(y) - 1, int(x) + 3, int(y) + 4)
        box = (float(x) - 2, float(y) - 1, float(x) + 3, float(y) + 4)
        return SegmentationResult(
            encoded(image), [Instance(0, 0.9, Mask.from_plane(plane), box=box)]
        )

    result = await segment_around(worker, raster, (5000, 4000, 5000, 4000), search, 200)

    (found,) = result.instances
    assert raster.read_windows == [Window(4900, 3900, 200, 200)]
    assert found.mask.size == raster.size
    assert found.mask.box == found.box == (4998, 3999, 5003, 4004)


async def test_a_box_larger_than_the_window_is_seen_at_a_lower_resolution(
    worker: SegmentationService,
) -> None:
    raster = Raster((8000, 10_000))
    box = (4000, 3000, 5000, 3600)

    async def search(image: ImageRef, view: View) -> SegmentationResult:
        assert view.size == (200, 200)
        x0, y0, x1, y1 = (round(float(edge)) for edge in view.boxes(np.array(box)))
        plane = rectangle(view.size, x0, y0, x1, y1)
        return SegmentationResult(encoded(image), [Instance(0, 0.9, Mask.from_plane(plane))])

    result = await segment_around(worker, raster, box, search, 200)

    assert result.instances[0].mask.box == box
    assert result.instances[0].mask.area == 1000 * 600


def test_a_view_moves_prompts_into_its_window() -> None:
    view = View(Window(100, 50, 400, 200), (100, 200))
    assert view.points(np.array([[100, 50], [300, 150]])).tolist() == [[0, 0], [100, 50]]
    assert view.boxes(np.array([[100, 50, 500, 250]])).tolist() == [[0, 0, 200, 100]]
    instance = Instance(3, 0.5, Mask.from_plane(rectangle((100, 200), 10, 10, 20, 20)))
    moved = view.in_raster(replace(instance, box=(10, 10, 20, 20)), (1000, 1000))
    assert moved.mask.box == moved.box == (120, 70, 140, 90)
    assert moved.logits is None
