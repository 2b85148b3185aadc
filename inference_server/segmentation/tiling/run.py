"""Segment a raster window by window."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.engines.catalog import ModelKey
from inference_server.errors import StoppingError, TransientError
from inference_server.images.window import Window, WindowPixels, WindowSource
from inference_server.masks import Mask, clip, enlarged, moved
from inference_server.segmentation.service import SegmentationService
from inference_server.segmentation.tiling.grid import Grid, window_around
from inference_server.segmentation.tiling.journal import WindowJournal
from inference_server.segmentation.tiling.objects import TiledObjects
from inference_server.segmentation.tiling.seams import SeamMerger, SeamOptions
from inference_server.segmentation.types import (
    EncodedImage,
    ImageRef,
    Instance,
    SegmentationResult,
    StoredImage,
)
from inference_server.settings import Settings

T = TypeVar("T")

Search = Callable[[ImageRef, Window], Awaitable[SegmentationResult]]
"""Searches a window, which is sent as an image of its own; masks have the window's size."""

_USUAL_SIDE = 1024
"""Default side of a window if a model does not tell that of its input."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        done: windows that are done, with those that were skipped.
        total: windows of the raster.
        skipped: windows without data.
        objects: objects that are finished.
    """

    done: int
    total: int
    skipped: int
    objects: int


@dataclass(frozen=True, slots=True)
class TiledResult:
    """The result of a request on a raster.

    Attributes:
        image: the model that was used, and whether all windows were cached; without an embedding.
            None if all windows came from the journal.
        objects: objects in a temporary file, which the caller closes.
        progress: number of windows and objects.
    """

    image: EncodedImage | None
    objects: TiledObjects
    progress: Progress


@dataclass(frozen=True, slots=True)
class View:
    """A window as an image, which may have fewer pixels than the window.

    Attributes:
        window: the window, in pixels of the raster.
        size: (height, width) of the image in pixels.
    """

    window: Window
    size: tuple[int, int]

    def points(self, points: NDArray[Any]) -> NDArray[np.float32]:
        """Points of the raster as points of the image.

        Args:
            points: [..., 2], x, y in pixels of the raster.
        """
        corner = np.array([self.window.x, self.window.y], np.float64)
        scale = np.array([self.size[1] / self.window.width, self.size[0] / self.window.height])
        moved_points = (np.asarray(points, np.float64) - corner) * scale
        return np.asarray(moved_points, np.float32)

    def boxes(self, boxes: NDArray[Any]) -> NDArray[np.float32]:
        """Boxes of the raster as boxes of the image.

        Args:
            boxes: [..., 4], x0, y0, x1, y1 in pixels of the raster.
        """
        boxes = np.asarray(boxes, np.float64)
        return self.points(boxes.reshape(*boxes.shape[:-1], 2, 2)).reshape(boxes.shape)

    def in_raster(
        self, instance: Instance, size: tuple[int, int], valid: Mask | None = None
    ) -> Instance:
        """An instance of the image as one of the raster.

        Args:
            instance: the instance; its logits are dropped.
            size: (height, width) of the raster in pixels.
            valid: the pixels of the image that have data; None if all have.
        """
        window = self.window
        mask = instance.mask if valid is None else clip(instance.mask, valid)
        box = instance.box
        if box is not None:
            across, down = window.width / self.size[1], window.height / self.size[0]
            box = (
                window.x + box[0] * across,
                window.y + box[1] * down,
                window.x + box[2] * across,
                window.y + box[3] * down,
            )
        mask = moved(enlarged(mask, window.size), (window.x, window.y), size)
        return Instance(instance.prompt, instance.score, mask, box=box)


@dataclass(frozen=True, slots=True)
class Shown:
    """A window that was read.

    Attributes:
        view: the window and the size of its image.
        image: the image.
        valid: its pixels with data; None if all have.
    """

    view: View
    image: ImageRef
    valid: Mask | None


async def segment_tiled(
    segmenter: SegmentationService,
    source: WindowSource,
    search: Search,
    grid: Grid,
    seams: SeamOptions,
    *,
    objects: TiledObjects,
    settings: Settings,
    progress: Callable[[Progress], None] | None = None,
    journal: WindowJournal | None = None,
) -> TiledResult:
    """Segment a raster window by window, and join what the windows cut.

    A few windows are in progress at the same time; their results are joined in order. Windows
    without data are skipped. If the caller is cancelled, no further window is begun, and the
    function returns when the thread that reads or joins has ended, so that the caller can close the
    source and the objects.

    Args:
        segmenter: runs the work in threads.
        source: the raster.
        search: searches one window. It may be called again for a window if queues are full.
        grid: the windows.
        seams: when objects of two windows are the same.
        objects: receives the objects.
        settings: windows in progress, and attempts per window.
        progress: called after each window. Default: nobody is told.
        journal: windows that are done, of this raster, grid and search. Default: none; all windows
            are searched.

    Returns:
        The result. If no window has data, the first one is searched all the same, so that the model
        is known; its objects are dropped.

    Raises:
        InferenceServerError: a window cannot be read or searched, or a limit is exceeded.
    """
    run = _Run(segmenter, source, search, settings.tile_attempts, journal)
    merger = SeamMerger(grid, seams, objects.add)
    waiting: deque[asyncio.Task[list[Instance] | None]] = deque()
    skipped = 0

    async def merge(done: int) -> None:
        nonlocal skipped
        # Not awaited itself: if the caller is cancelled, all tasks are to be cancelled at once.
        await asyncio.wait([waiting[0]])
        found = waiting.popleft().result()
        skipped += found is None

        def add() -> None:
            if journal is not None:
                journal.add(done, found)
            merger.add(done, run.in_raster(grid[done], found or ()))

        await _to_the_end(segmenter.in_thread(add))
        if progress is not None:
            progress(Progress(done + 1, len(grid), skipped, len(objects)))

    try:
        for index, window in enumerate(grid):
            waiting.append(asyncio.create_task(run.segment(index, window)))
            if len(waiting) == settings.tile_windows_in_flight:
                await merge(index + 1 - len(waiting))
        while waiting:
            await merge(len(grid) - len(waiting))
        if skipped == len(grid) and run.image is None:
            await run.segment_anyway(grid[0])
        await _to_the_end(segmenter.in_thread(merger.finish))
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    done = Progress(len(grid), len(grid), skipped, len(objects))
    if progress is not None:
        progress(done)
    return TiledResult(run.image, objects, done)


async def segment_around(
    segmenter: SegmentationService,
    source: WindowSource,
    box: tuple[float, float, float, float],
    search: Callable[[ImageRef, View], Awaitable[SegmentationResult]],
    tile_size: int,
) -> SegmentationResult:
    """Segment the window around points or boxes: one image, however large the raster.

    Args:
        segmenter: runs the work in threads.
        source: the raster.
        box: (x0, y0, x1, y1), tight box of the points and boxes, in pixels of the raster. If it is
            larger than half a window, the window is enlarged and read at a lower resolution.
        search: searches the window; `View` moves prompts into it.
        tile_size: side of the window in pixels.

    Returns:
        The instances, in the raster.

    Raises:
        InferenceServerError: the window cannot be read or searched.
    """
    shown = await show(segmenter, source, window_around(source.size, box, tile_size), tile_size)
    result = await search(shown.image, shown.view)
    size = source.size

    def in_raster() -> list[Instance]:
        view, valid = shown.view, shown.valid
        return [view.in_raster(each, size, valid) for each in result.instances]

    instances = await segmenter.in_thread(in_raster)
    return SegmentationResult(_summary(result.image, size), instances)


async def show(
    segmenter: SegmentationService,
    source: WindowSource,
    window: Window,
    max_side: int | None = None,
) -> Shown:
    """Read a window as an image.

    Args:
        segmenter: runs the work in threads.
        source: the raster.
        window: the window.
        max_side: the image's longer side in pixels; a larger window is reduced. Default: full
            resolution.
    """
    return await _to_the_end(
        segmenter.in_slow_thread(lambda: _shown(window, source.read(window, max_side)))
    )


async def tile_size_of(
    segmenter: SegmentationService,
    prompts: Literal["concept", "visual"],
    model: ModelKey | None = None,
) -> int:
    """Side of a model's input in pixels, the default of `tile_size`. Loads the model.

    Args:
        segmenter: has the models.
        prompts: the kind of prompts: `concept` (words, exemplars) or `visual` (points, boxes).
        model: the model that answers them. Default: the one of requests that name none.

    Raises:
        ModelUnavailableError: the model is unknown, or its weights cannot be loaded.
    """
    choose = segmenter.catalog.concept if prompts == "concept" else segmenter.catalog.visual
    key = choose(model)

    async def side() -> int | None:
        known = await segmenter.checkpoints()
        return next((each.side for each in known if each.key == key), None)

    found = await side()
    if found is None:
        await segmenter.load_model(key)
        found = await side()
    return found or _USUAL_SIDE


class _Run:
    """Reads and searches the windows of a raster.

    Attributes:
        image: sums up the windows that were searched; None before the first one.
    """

    def __init__(
        self,
        segmenter: SegmentationService,
        source: WindowSource,
        search: Search,
        attempts: int,
        journal: WindowJournal | None,
    ) -> None:
        self.image: EncodedImage | None = None
        self._segmenter = segmenter
        self._source = source
        self._search = search
        self._attempts = attempts
        self._journal = journal
        self._reading = asyncio.Lock()

    async def segment(self, index: int, window: Window) -> list[Instance] | None:
        """Return the instances of a window, in the window; None if it has no data."""
        journal = self._journal
        if journal is not None and index in journal:
            return await _to_the_end(self._segmenter.in_thread(partial(journal.read, index)))
        async with self._reading:
            shown = await _to_the_end(self._segmenter.in_slow_thread(partial(self._read, window)))
        return None if shown is None else await self._searched(shown)

    async def segment_anyway(self, window: Window) -> None:
        """Search a window without data, only to know the model."""
        await self._searched(await show(self._segmenter, self._source, window))

    def in_raster(self, window: Window, found: list[Instance] | tuple[()]) -> list[Instance]:
        """Move the instances of a window to the raster."""
        view = View(window, window.size)
        return [view.in_raster(instance, self._source.size) for instance in found]

    def _read(self, window: Window) -> Shown | None:
        if not self._source.has_data(window):
            return None
        return _shown(window, self._source.read(window))

    async def _searched(self, shown: Shown) -> list[Instance]:
        result = await self._patiently(shown)
        image = _summary(result.image, self._source.size)
        self.image = EncodedImage.joined([image] if self.image is None else [self.image, image])
        found, valid = result.instances, shown.valid
        if valid is None:
            return [replace(each, logits=None) for each in found]

        def clipped() -> list[Instance]:
            return [replace(each, mask=clip(each.mask, valid), logits=None) for each in found]

        return await self._segmenter.in_thread(clipped)

    async def _patiently(self, shown: Shown) -> SegmentationResult:
        """Search a window, again if the queues are full."""
        for attempt in range(self._attempts):
            try:
                return await self._search(shown.image, shown.view.window)
            except StoppingError:
                raise
            except TransientError as error:
                if attempt + 1 == self._attempts:
                    raise
                await asyncio.sleep(error.retry_after)
        raise AssertionError("a window is tried at least once")


def _shown(window: Window, read: WindowPixels) -> Shown:
    """Make an image file of a window's pixels; BMP, because it costs no compression."""
    pixels = read.pixels
    file = cv2.imencode(".bmp", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    valid = None if read.valid is None or read.valid.all() else Mask.from_plane(read.valid)
    view = View(window, (pixels.shape[0], pixels.shape[1]))
    return Shown(view, ImageRef(file=StoredImage.of(file), window=True), valid)


def _summary(image: EncodedImage, size: tuple[int, int]) -> EncodedImage:
    """What a response needs of an encoded window, without its embedding."""
    return replace(image, embedding=replace(image.embedding, size=size, features=None, nbytes=0))


async def _to_the_end(work: Awaitable[T]) -> T:
    """Wait until work in a thread has ended, even if the caller is cancelled.

    The thread uses the source or the objects, which the caller closes then.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # Nobody waits for it, which asyncio would log as an error.
        raise
