"""Rasters segmented window by window: accuracy at the seams, memory and time by size."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import exemplars
from benchmarks.mosaic import Mosaic
from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.timing import exponent, resident
from inference_server.demo.shapes import SHAPES
from inference_server.engines.device import release_memory
from inference_server.images.file_bytes import FileBytes
from inference_server.images.raster_file import RasterFile
from inference_server.images.window import Window, WindowSource
from inference_server.images.window_reader import WindowReader
from inference_server.masks import Mask, intersection
from inference_server.observability.metrics import Timings
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.segmentation.tiling import (
    Progress,
    SeamOptions,
    TiledObjects,
    View,
    plan_grid,
    segment_around,
    segment_tiled,
    window_around,
)
from inference_server.segmentation.types import (
    ConceptOptions,
    ConceptPrompt,
    ImageRef,
    Instance,
    SegmentationResult,
    TilingOptions,
)
from inference_server.settings import Settings

_MATCH = 0.5
"""Minimum IoU of a found and a true shape, of the same class."""

_SEEN = 0.3
"""A shape is counted twice if this share of it is found by two objects of its class."""

DIFFERENCE = 0.01
MEMORY = 500.0
"""Goals: difference of F1, and peak extra memory in MB."""

_PROMPTS, _ONE_PROMPT = (
    [ConceptPrompt(text, np.zeros((0, 4), np.float32), np.zeros(0, np.int64)) for text in texts]
    for texts in (SHAPES, ("shape",))
)


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        side: side in pixels of the raster whose shapes are counted.
        count: number of its shapes.
        tile: `tile_size`.
        overlaps: overlaps to compare, as divisors of `tile`.
        large: `tile_size` of the rasters that are timed.
        sides: their sides.
        kinds: side of the raster that is timed in other kinds of files.
        pairs: pairs of images for exemplars.
    """

    side: int
    count: int
    tile: int
    overlaps: tuple[int, ...]
    large: int
    sides: tuple[int, ...]
    kinds: int
    pairs: int


FULL = Scale(12_000, 2_000, 512, (8, 3), 1024, (7_072, 14_144, 28_288), 14_144, 60)
SMALL = Scale(1_000, 14, 512, (8,), 512, (700, 1_000), 1_100, 2)


@dataclass(slots=True)
class Score:
    """How well the shapes were found.

    Attributes:
        hits: shapes found.
        missed: shapes not found.
        wrong: objects that are no shape of their class, or one that was found already.
        twice: shapes that two objects of their class show.
        joined: objects that show two shapes of their class.
    """

    hits: int = 0
    missed: int = 0
    wrong: int = 0
    twice: int = 0
    joined: int = 0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0 to 1."""
        return 2 * self.hits / max(1, 2 * self.hits + self.missed + self.wrong)


def run(small: bool) -> Report:
    """Run the benchmark.

    Args:
        small: small rasters, for a run of a few seconds.
    """
    scale = SMALL if small else FULL
    report = Report(
        "tiles",
        "Rasters window by window",
        notes=[
            "Demo SAM 3, generated GeoTIFFs, whose shapes have the size that the demo knows in a "
            "window. Accuracy: six prompts, the names of the shapes. An object is right if its "
            f"IoU with a shape of its class is at least {_MATCH:g}. Single images: one crop of the "
            "size of a window around each shape, of which only the objects nearest to that shape "
            "count that the crop does not cut.",
            "Memory: resident memory of the process above that before the run, with loaded models. "
            "Time: reading, encoding, searching for `shape`, joining; one run "
            "each.",
        ],
    )
    settings = Settings(dtype="float32")
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(LocalSegmentationService.for_files(settings)) as segmenter,
        asyncio.Runner() as loop,
    ):
        bench = Bench(segmenter, settings, loop, Path(folder))
        _accuracy(report, bench, scale)
        _growth(report, bench, scale)
        report.tables.append(exemplars.measure(segmenter, loop, scale.pairs))
    return report


class Bench:
    """A service in this process, and files in a temporary folder.

    Args:
        segmenter: the service.
        settings: its settings.
        loop: runs it.
        folder: folder of the rasters.

    Attributes:
        prompts: what is searched.
    """

    def __init__(
        self,
        segmenter: LocalSegmentationService,
        settings: Settings,
        loop: asyncio.Runner,
        folder: Path,
    ) -> None:
        self.segmenter = segmenter
        self.settings = settings
        self.loop = loop
        self.folder = folder
        self.prompts = _PROMPTS

    async def concept(self, image: ImageRef, window: object) -> SegmentationResult:
        """Search one window."""
        return await self.segmenter.concept(
            "bench", image, self.prompts, ConceptOptions(), timings=Timings()
        )

    def tiled(
        self, source: WindowSource, tile: int, overlap: int, use: Callable[[TiledObjects], Any]
    ) -> tuple[Progress, Any]:
        """Segment a raster, and use its objects before they are deleted."""
        grid = plan_grid(self.settings, source.size, TilingOptions(tile, overlap), tile)
        with TiledObjects.of(self.settings, source.size) as objects:
            result = self.loop.run(
                segment_tiled(
                    *(self.segmenter, source, self.concept, grid, SeamOptions.of(self.settings)),
                    objects=objects,
                    settings=self.settings,
                )
            )
            return result.progress, use(objects)

    def around(self, source: WindowSource, window: Window, tile: int) -> list[Instance]:
        """Segment one crop."""

        async def search(image: ImageRef, view: View) -> SegmentationResult:
            return await self.concept(image, view)

        box = (window.x, window.y, window.right, window.bottom)
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        return self.loop.run(
            segment_around(self.segmenter, source, (*middle, *middle), search, tile)
        ).instances

    @contextmanager
    def raster(self, mosaic: Mosaic, **options: Any) -> Iterator[WindowReader]:
        """Write a raster and open it."""
        path = self.folder / "raster.tif"
        mosaic.write(path, **options)
        try:
            with path.open("rb") as file, WindowReader(RasterFile(FileBytes(file))) as source:
                yield source
        finally:
            path.unlink()


def _accuracy(report: Report, bench: Bench, scale: Scale) -> None:
    """Compare windows with single images."""
    mosaic = Mosaic.of(1, (scale.side, scale.side), scale.count, scale.tile)
    rows: list[dict[str, Cell]] = []
    with bench.raster(mosaic) as source:
        alone = singles(bench, source, mosaic, scale.tile)
        rows.append({"way": "single images", "windows": len(mosaic.shapes), **_cells(alone)})
        for divisor in scale.overlaps:
            overlap = scale.tile // divisor
            progress, score = bench.tiled(
                source, scale.tile, overlap, lambda objects: scored(objects, mosaic)
            )
            rows.append(
                {
                    "way": f"windows that share {overlap} pixels",
                    "windows": progress.total,
                    **_cells(score),
                }
            )
            report.goals.append(
                Goal(
                    f"F1 of single images minus F1 of windows that share {overlap} pixels",
                    alone.f1 - score.f1,
                    DIFFERENCE,
                    "at most",
                    "",
                )
            )
    title = f"{len(mosaic.shapes)} shapes in {scale.side} x {scale.side}, `tile_size` {scale.tile}"
    report.tables.append(Table(title, rows))


def _cells(score: Score) -> dict[str, Cell]:
    return {
        "F1": score.f1,
        "found": score.hits,
        "missed": score.missed,
        "wrong": score.wrong,
        "counted twice": score.twice,
        "two in one": score.joined,
    }


def _growth(report: Report, bench: Bench, scale: Scale) -> None:
    """Measure memory and time by the raster's size."""
    bench.prompts = _ONE_PROMPT
    rows: list[dict[str, Cell]] = []
    pixels: list[float] = []
    seconds: list[float] = []
    tile = scale.large
    kinds: list[tuple[int, str, dict[str, Any]]] = [(side, "tiles", {}) for side in scale.sides]
    kinds.append((scale.kinds, "strips", {"tiled": False}))
    kinds.append((scale.kinds, "half without data", {"empty_from": scale.kinds // 2}))
    warm = Mosaic.of(2, (tile + 200, tile + 200), 8, tile)
    with bench.raster(warm) as source:
        bench.tiled(source, tile, tile // 8, len)
    for side, kind, options in kinds:
        mosaic = Mosaic.of(2, (side, side), round(2.7 * (side / tile) ** 2), tile)
        with bench.raster(mosaic, **options) as source:
            bench.segmenter.forget()
            release_memory()  # what the runs before have freed
            with Watched() as watched:
                progress, found = bench.tiled(source, tile, tile // 8, len)
        if kind == "tiles":
            pixels.append(side**2)
            seconds.append(watched.seconds)
        rows.append(
            {
                "megapixels": round(side**2 / 1e6),
                "file": kind,
                "windows": progress.total,
                "skipped": progress.skipped,
                "objects": found,
                "seconds": watched.seconds,
                "seconds per window": watched.seconds / (progress.total - progress.skipped),
                "peak extra memory (MB)": watched.peak / 1e6,
            }
        )
        report.goals.append(
            Goal(
                f"peak extra memory, {round(side**2 / 1e6)} MP in {kind}",
                watched.peak / 1e6,
                MEMORY,
                "at most",
                "MB",
            )
        )
    report.tables.append(Table(f"One request, `tile_size` {tile}, overlap {tile // 8}", rows))
    report.tables.append(
        Table("Time by number of pixels", [{"exponent": exponent(pixels, seconds)}])
    )


class Watched:
    """Measures the time and the memory of a block; Linux only.

    Attributes:
        seconds: its duration.
        peak: peak resident memory in bytes, above that before.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak = 0
        self._done = threading.Event()

    def __enter__(self) -> Watched:
        self._first = resident()
        self._begin = time.perf_counter()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._begin
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, resident() - self._first)
            if self._done.wait(0.02):
                return


def scored(objects: Iterable[Instance], mosaic: Mosaic) -> Score:
    """Compare the objects of a raster with its shapes.

    Args:
        objects: the objects; `prompt` is the index of the class.
        mosaic: the raster.
    """
    score = Score()
    by_class: list[list[Instance]] = [[] for _ in SHAPES]
    for instance in objects:
        by_class[instance.prompt].append(instance)
    for shape, found in zip(SHAPES, by_class, strict=True):
        true = [each.mask(mosaic.size) for each in mosaic.shapes if each.shape == shape]
        _count(score, found, true)
    score.missed = len(mosaic.shapes) - score.hits
    return score


def _count(score: Score, found: Sequence[Instance], true: Sequence[Mask]) -> None:
    """Count the objects of one class."""
    boxes = np.array([mask.box for mask in true]).reshape(-1, 4)
    shown = np.zeros(len(true), np.int64)
    free = np.ones(len(true), np.bool_)
    for instance in sorted(found, key=lambda each: -each.score):
        x0, y0, x1, y1 = instance.mask.box
        near = np.flatnonzero(
            (boxes[:, 0] < x1) & (boxes[:, 2] > x0) & (boxes[:, 1] < y1) & (boxes[:, 3] > y0)
        )
        shared = {int(i): intersection(instance.mask, true[i]) for i in near}
        shows = [i for i, pixels in shared.items() if pixels >= _SEEN * true[i].area]
        shown[shows] += 1
        score.joined += len(shows) > 1
        area = instance.mask.area
        right = [
            i for i, n in shared.items() if free[i] and n >= _MATCH * (area + true[i].area - n)
        ]
        score.hits += bool(right)
        score.wrong += not right
        free[right[:1]] = False
    score.twice += int((shown > 1).sum())


def singles(bench: Bench, source: WindowSource, mosaic: Mosaic, tile: int) -> Score:
    """Segment a crop around each shape.

    Args:
        bench: the service.
        source: the raster.
        mosaic: its shapes.
        tile: side of a crop in pixels.
    """
    score = Score()
    centers = np.array([each.center for each in mosaic.shapes])
    for number, placed in enumerate(mosaic.shapes):
        window = window_around(mosaic.size, (*placed.center, *placed.center), tile)
        own = []
        for instance in bench.around(source, window, tile):
            x0, y0, x1, y1 = instance.mask.box
            inside = window.x < x0 and x1 < window.right and window.y < y0 and y1 < window.bottom
            distance = np.hypot(*(centers - ((x0 + x1) / 2, (y0 + y1) / 2)).T)
            if inside and int(distance.argmin()) == number:
                own.append(instance)
        for prompt, shape in enumerate(SHAPES):
            true = [placed.mask(mosaic.size)] if placed.shape == shape else []
            _count(score, [each for each in own if each.prompt == prompt], true)
    score.missed = len(mosaic.shapes) - score.hits
    return score
