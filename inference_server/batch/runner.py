"""Processes many images concurrently, and resumes earlier runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from inference_server.batch.formats import (
    Picture,
    coco_document,
    coco_part,
    feature_collection,
    label_files,
    overlay_jpeg,
    response_json,
    yolo_document,
    yolo_lines,
)
from inference_server.batch.inputs import Failure, InputError, Source, read, stamp
from inference_server.batch.journal import Journal, JournalError
from inference_server.batch.merge import merged_parts
from inference_server.batch.outputs import OVERLAY, Output, OutputError
from inference_server.batch.raster_formats import TiledPicture, coco_chunks, contents
from inference_server.batch.rasters import RasterJob, Watch, unwatched
from inference_server.batch.search import Search
from inference_server.errors import InferenceServerError, ModelUnavailableError, RequestError
from inference_server.geo import GeoRaster
from inference_server.observability.metrics import Timings

if TYPE_CHECKING:
    from inference_server.images.raster_source import RasterSource
    from inference_server.segmentation.local import LocalSegmentationService
    from inference_server.segmentation.types import StoredImage

logger = logging.getLogger(__name__)

ABORTS = (JournalError, OutputError, ModelUnavailableError)
"""Errors that stop a run, because the next image would fail as well."""


@dataclass(slots=True)
class Summary:
    """The outcome of a run.

    Attributes:
        images: number of finished images, including those of earlier runs.
        objects: number of objects in these images.
        failures: images and arguments that failed.
    """

    images: int = 0
    objects: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Batch:
    """Processes the images of a run.

    Attributes:
        search: the prompts.
        form: output format, as of `plan.Request`.
        segmentation: masks in COCO format, `rle` or `polygon`.
        overlay: also write each image with its masks drawn on it.
        output: destination of the results.
        journal: journal of finished images.
        max_mb: maximum size of an image file in MiB.
        rasters: segments rasters by windows.
        epsilon: maximum distance in pixels of a simplified polygon. Default: 0, not simplified.
    """

    search: Search
    form: str
    segmentation: str
    overlay: bool
    output: Output
    journal: Journal
    max_mb: int
    rasters: RasterJob
    epsilon: float = 0.0

    def remaining(self, sources: Sequence[Source], summary: Summary) -> list[Source]:
        """Return the images that are not finished, have changed, or lack output files.

        Args:
            sources: all images.
            summary: updated with the finished images.

        Returns:
            The images to process. Outdated results of changed images are deleted.
        """
        left = []
        for source in sources:
            entry = self.journal.entry(source)
            if entry is not None and self._still(source, entry.stamp, entry.digest):
                summary.images += 1
                summary.objects += entry.objects
                continue
            left.append(source)
            if entry is not None:  # an image that fails now must not keep its old result
                self.journal.forget(source)
                self.output.remove(self.output.files(source))
        return left

    def _still(self, source: Source, known: tuple[int, int], digest: str) -> bool:
        """Return whether a finished image is unchanged and its output files exist."""
        if not all(path.exists() for path in self.output.files(source)):
            return False
        try:
            now = stamp(source)
            if now == known:
                return True
            if read(source, self.max_mb).digest != digest:
                return False
        except InputError:
            return False
        self.journal.touch(source, now)
        return True

    async def run(
        self,
        segmenter: LocalSegmentationService,
        sources: Sequence[Source],
        summary: Summary,
        *,
        workers: int,
        done: Callable[[Failure | None], None],
        watch: Watch = unwatched,
    ) -> None:
        """Process images, and record each finished one in the journal.

        Args:
            segmenter: the segmentation service.
            sources: the images.
            summary: updated with finished and failed images.
            workers: maximum number of images in progress; the memory of a run is proportional to
                it.
            done: called after each image, with its failure or None.
            watch: shows the windows of a raster.

        Raises:
            OutputError: an output file cannot be written.
            JournalError: the journal cannot be written.
            ModelUnavailableError: a model cannot be loaded.
        """
        waiting = iter(sources)
        alone = asyncio.Lock()

        async def work() -> None:
            for source in waiting:
                failure = None
                try:
                    objects = await self._one(segmenter, source, alone, watch)
                    summary.objects += objects
                    summary.images += 1
                except ABORTS:
                    raise
                except Exception as error:  # any other error concerns this image only
                    logger.debug("%s", source.path, exc_info=True)
                    failure = Failure(str(source.path), reason_of(error))
                    summary.failures.append(failure)
                done(failure)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(workers):
                    tasks.create_task(work())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            order = {str(source.path): number for number, source in enumerate(sources)}
            summary.failures.sort(key=lambda failure: order.get(failure.what, -1))

    async def _one(
        self,
        segmenter: LocalSegmentationService,
        source: Source,
        alone: asyncio.Lock,
        watch: Watch,
    ) -> int:
        """Process one image and write its files; return the number of objects.

        Args:
            segmenter: the segmentation service.
            source: the image.
            alone: held while a raster is segmented, so that their memory does not add up.
            watch: shows the windows of a raster.
        """

        def opened() -> tuple[tuple[int, int], RasterSource | None]:
            known = stamp(source)
            return known, self.rasters.open(source)

        known, raster = await segmenter.in_slow_thread(opened)
        if raster is None:
            return await self._image(segmenter, source)
        with raster:
            async with alone:
                return await self._raster(segmenter, source, raster, known, watch)

    async def _raster(
        self,
        segmenter: LocalSegmentationService,
        source: Source,
        raster: RasterSource,
        known: tuple[int, int],
        watch: Watch,
    ) -> int:
        """Process an image by windows, and write its files piece by piece."""
        if self.overlay:
            raise RequestError(
                "A raster that is segmented by windows has no overlay, which shows a whole image. "
                "Run without --overlay."
            )
        async with self.rasters.segmented(segmenter, source, raster, watch) as objects:

            def keep() -> None:
                reference = GeoRaster(raster.data).reference
                crs = self.rasters.options.crs
                picture = TiledPicture(source, objects, reference, self.search.asked, crs)
                categories = self.search.categories
                if self.form == "coco":
                    chunks = coco_chunks(picture, categories, self.segmentation, self.epsilon)
                    self.journal.add_chunks(source, chunks)
                else:
                    files = contents(picture, self.form, categories, self.epsilon)
                    paths = self.output.files(source)
                    for path, content in zip(paths, files.values(), strict=True):
                        self.output.write(path, content)
                self.journal.finish(source, known, raster.digest, len(objects), b"")
                self.rasters.finish(source)

            await segmenter.in_slow_thread(keep)
            return len(objects)

    async def _image(self, segmenter: LocalSegmentationService, source: Source) -> int:
        """Process one image as a whole and write its files; return the number of objects."""
        timings = Timings()

        def load() -> tuple[tuple[int, int], StoredImage, StoredImage]:
            known, image = stamp(source), read(source, self.max_mb)
            return known, image, self.rasters.shown(image)

        known, image, shown = await segmenter.in_thread(load)
        found = await self.search.run(segmenter, shown, timings)
        options = self.rasters.options
        picture = Picture(source, image, found, self.search.asked, options.bands, options.crs)
        files = await segmenter.in_thread(partial(self._files, picture))
        if self.overlay:
            draw = partial(overlay_jpeg, picture=picture)
            files[OVERLAY] = await segmenter.on_pixels(shown, draw, timings)

        def keep() -> None:
            part = files.pop("", b"")
            for path, suffix in zip(
                self.output.files(source), self.output.suffixes or files, strict=True
            ):
                self.output.write(path, [files[suffix]])
            self.journal.finish(source, known, image.digest, len(found.instances), part)

        await segmenter.in_thread(keep)
        return len(found.instances)

    def _files(self, picture: Picture) -> dict[str, bytes]:
        """Return the files of an image by suffix, or its part of the document under ""."""
        if self.form == "coco":
            part = coco_part(picture, self.search.categories, self.segmentation, self.epsilon)
            return {"": part}
        if self.form == "geojson":
            return {".geojson": feature_collection(picture, self.epsilon)}
        if self.form == "yolo":
            return {".txt": yolo_lines(picture, self.search.categories, self.epsilon)}
        if self.form in ("png", "geotiff"):
            return label_files(picture, self.form)
        return {".json": response_json(picture, self.form, self.epsilon)}

    def finish(self, sources: Sequence[Source], models: Sequence[str]) -> None:
        """Write the document of all images, if the output has one.

        Args:
            sources: all images; unfinished ones are omitted.
            models: labels of the models, for the document's description.

        Raises:
            OutputError: the document cannot be written.
        """
        if self.output.document is None:
            return
        categories = self.search.categories
        if self.form == "yolo":
            self.output.write(self.output.document, yolo_document(categories))
            return

        def parts() -> Iterator[bytes]:
            return chain.from_iterable(map(self.journal.parts, sources))

        if self.output.base.exists():
            earlier, merged = merged_parts(self.output.base, parts)
            content = coco_document(merged, [*earlier, *categories], models)
        else:
            content = coco_document(parts, categories, models)
        self.output.write(self.output.document, content)


def reason_of(error: Exception) -> str:
    """Return why an image failed, as text for the terminal.

    Args:
        error: the error that was raised.
    """
    if isinstance(error, InferenceServerError):
        return error.message.removeprefix("Could not load input image. Cause: ")
    if isinstance(error, InputError | JournalError | OutputError):
        return str(error)
    return f"{type(error).__name__}: {error}"
