"""Rasters of any size in a run: segmented by windows, which an interrupted run does not repeat."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import orjson

from inference_server.batch.inputs import Source, unreadable
from inference_server.images.raster_source import RasterSource
from inference_server.images.window import Window
from inference_server.images.window_reader import RasterLimits
from inference_server.observability.metrics import Timings
from inference_server.segmentation.tiling import (
    Progress,
    SeamOptions,
    TiledObjects,
    WindowJournal,
    plan_grid,
    segment_tiled,
    tile_size_of,
)
from inference_server.segmentation.types import (
    ImageRef,
    SegmentationResult,
    StoredImage,
    TilingOptions,
)
from inference_server.settings import MiB, Settings

if TYPE_CHECKING:
    from inference_server.batch.search import Search
    from inference_server.segmentation.local import LocalSegmentationService

Tiles = Literal["auto", "always", "never"]

Watch = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]
"""Shows the windows of a raster: called with its name, the number of windows and of those that are
done; yields a function that is called with the number of windows that are done."""


@contextmanager
def unwatched(name: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """Show nothing; see `Watch`."""
    yield lambda count: None


@dataclass(frozen=True, slots=True)
class RasterOptions:
    """How rasters are read and written.

    Attributes:
        tiles: whether images are segmented by windows; `auto`: TIFF files that are too large to be
            encoded as a whole, or larger than the size of windows that is asked for.
        tiling: size and overlap of windows.
        bands: numbers of the bands to show, one or three. Default: those that the file says.
        crs: CRS of GeoJSON, an EPSG code or a name. Default: that of the image.
    """

    tiles: Tiles = "auto"
    tiling: TilingOptions = field(default_factory=TilingOptions)
    bands: tuple[int, ...] | None = None
    crs: str | None = None

    def described(self) -> dict[str, Any]:
        """Return the options that affect the results and differ from their defaults, by name."""
        given = {
            "--tiles": None if self.tiles == "auto" else self.tiles,
            "--tile-size": self.tiling.tile_size,
            "--tile-overlap": self.tiling.overlap,
            "--bands": self.bands and list(self.bands),
            "--geojson-crs": self.crs,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class RasterJob:
    """Segments rasters by windows.

    Attributes:
        search: the prompts.
        options: how rasters are read.
        settings: limits of rasters and windows.
        identity: what the run is, besides its rasters; windows of another run are not reused.
        folder: folder of the windows that are done.
    """

    search: Search
    options: RasterOptions
    settings: Settings
    identity: str
    folder: Path

    def open(self, source: Source) -> RasterSource | None:
        """Open an image that is to be segmented by windows; None for any other. Blocks.

        Args:
            source: the image file.

        Raises:
            InputError: the file cannot be opened.
            InferenceServerError: it is damaged, or cannot be read by windows.
        """
        if self.options.tiles == "never":
            return None
        try:
            raster = RasterSource.at(source.path, RasterLimits.of(self.settings))
        except OSError as error:
            raise unreadable(error) from None
        try:
            if self.options.tiles == "always" or self._is_large(raster):
                raster.check()
                return raster
        except BaseException:
            raster.close()
            raise
        raster.close()
        return None

    def _is_large(self, raster: RasterSource) -> bool:
        """Whether an image is too large for one encoding, or for the window that was asked for."""
        if not raster.is_tiff:
            return False
        side = self.options.tiling.tile_size
        if side is not None and max(raster.size) > side:
            return True
        return not raster.fits(self.settings.max_image_pixels, self.settings.max_image_side)

    def shown(self, image: StoredImage) -> StoredImage:
        """Return the chosen bands of an image as an image of its own; itself without a choice.

        Args:
            image: the file.

        Raises:
            InferenceServerError: it has no such bands.
        """
        if self.options.bands is None:
            return image
        raster = RasterSource(image.data, RasterLimits.of(self.settings))
        with raster.reader(self.options.bands) as reader:
            height, width = reader.size
            pixels = reader.read(Window(0, 0, width, height)).pixels
        colours = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        return StoredImage.of(cv2.imencode(".bmp", colours)[1].tobytes())

    def journal_of(self, source: Source) -> Path:
        """Path of the file of the windows of a raster that are done."""
        return self.folder / f"{StoredImage.of(bytes(source.path)).digest[:32]}.windows"

    @asynccontextmanager
    async def segmented(
        self,
        segmenter: LocalSegmentationService,
        source: Source,
        raster: RasterSource,
        watch: Watch,
    ) -> AsyncIterator[TiledObjects]:
        """Segment a raster, and hold its objects while the block runs.

        Args:
            segmenter: the segmentation service.
            source: the raster's file.
            raster: the open file.
            watch: shows the progress.

        Yields:
            The objects; `prompt` is an index into `Search.asked`.

        Raises:
            InferenceServerError: a window cannot be read or searched, or a limit is exceeded.
        """
        search, settings = self.search, self.settings
        side = await tile_size_of(segmenter, *search.tiled_by)
        digest = await segmenter.in_slow_thread(lambda: raster.digest)
        reader = await segmenter.in_slow_thread(partial(raster.reader, self.options.bands))
        size, most = reader.size, settings.tile_objects_mb * MiB
        grid = plan_grid(settings, size, self.options.tiling, side)
        timings = Timings()

        seams = SeamOptions.of(
            settings, nms_iou_threshold=search.nms, automatic=search.automatic_prompt
        )
        with reader, TiledObjects(size, max_bytes=most) as objects:
            if search.has_everywhere:
                identity = orjson.dumps([self.identity, digest]).decode()
                prompts = await search.in_all_windows(segmenter, reader, grid.tile, timings)

                async def windows(image: ImageRef, _: Window) -> SegmentationResult:
                    return await search.everywhere(segmenter, image, timings, prompts)

                path = self.journal_of(source)
                path.parent.mkdir(parents=True, exist_ok=True)
                with (
                    WindowJournal(path, identity, grid, max_bytes=most) as journal,
                    watch(source.shown, len(grid), len(journal)) as told,
                ):

                    def tell(progress: Progress) -> None:
                        told(progress.done)

                    await segment_tiled(
                        *(segmenter, reader, windows, grid, seams),
                        objects=objects,
                        settings=settings,
                        progress=tell,
                        journal=journal,
                    )
            for each in await search.selected(segmenter, reader, grid.tile, timings):
                await segmenter.in_thread(partial(objects.add, each))
            yield objects

    def finish(self, source: Source) -> None:
        """Delete the windows of a raster whose results are written."""
        self.journal_of(source).unlink(missing_ok=True)
        with suppress(OSError):  # another raster is not finished, or there never was a file
            self.folder.rmdir()

    def forget(self) -> None:
        """Delete the windows of all unfinished rasters."""
        for path in self.folder.glob("*.windows"):
            path.unlink()

    @property
    def has_windows(self) -> bool:
        """Whether windows of an unfinished raster are kept."""
        return any(self.folder.glob("*.windows"))
