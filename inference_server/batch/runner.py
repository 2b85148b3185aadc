"""The runner: searches many images, several at a time, and goes on where an earlier run ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from inference_server.batch.formats import (
    Picture,
    answer,
    coco_document,
    coco_part,
    drawn,
    feature_collection,
    labels,
)
from inference_server.batch.inputs import Failure, InputError, Source, read, stamp
from inference_server.batch.journal import Journal, JournalError
from inference_server.batch.outputs import OVERLAY, Output, OutputError
from inference_server.batch.search import Search
from inference_server.errors import InferenceServerError, ModelUnavailableError
from inference_server.observability.metrics import Timings

if TYPE_CHECKING:
    from inference_server.segmentation.local import LocalSegmentationService
    from inference_server.segmentation.types import StoredImage

logger = logging.getLogger(__name__)

ABORTS = (JournalError, OutputError, ModelUnavailableError)
"""What the next image would meet as well."""


@dataclass(slots=True)
class Summary:
    """What a run came to.

    Attributes:
        images: that are done, now or before.
        objects: that were found in these.
        failures: images that are not done.
    """

    images: int = 0
    objects: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Batch:
    """A search in many images.

    Attributes:
        search: what to look for.
        form: one of `outputs.FORMATS`.
        segmentation: of COCO: `rle` or `polygon`.
        overlay: draw the masks over each image.
        output: where the results go.
        journal: what is done already.
        max_mb: most MiB of an image's file.
    """

    search: Search
    form: str
    segmentation: str
    overlay: bool
    output: Output
    journal: Journal
    max_mb: int

    def remaining(self, sources: Sequence[Source], summary: Summary) -> list[Source]:
        """The images that are not done yet, or are others by now, or whose files are gone.

        Args:
            sources: all images.
            summary: counts those that are done.
        """
        left = []
        for source in sources:
            entry = self.journal.entry(source)
            if entry is not None and self._still(source, entry.stamp, entry.digest):
                summary.images += 1
                summary.objects += entry.objects
                continue
            left.append(source)
            if entry is not None:  # should it fail now, nothing may pass for its result
                self.journal.forget(source)
                self.output.remove(self.output.files(source))
        return left

    def _still(self, source: Source, known: tuple[int, int], digest: str) -> bool:
        """Whether an image is the one that was done, and its files are there."""
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
    ) -> None:
        """Search images; each is in the journal when it is done.

        Args:
            segmenter: that does it.
            sources: the images.
            summary: is counted up.
            workers: most images under way at a time: what their files, pixels and masks take is
                the memory that the run takes.
            done: is told of each image, with the failure of one that failed.

        Raises:
            OutputError: a file cannot be written.
            JournalError: nor can the journal.
            ModelUnavailableError: a model was lost.
        """
        waiting = iter(sources)

        async def work() -> None:
            for source in waiting:
                failure = None
                try:
                    objects = await self._one(segmenter, source)
                    summary.objects += objects
                    summary.images += 1
                except ABORTS:
                    raise
                except Exception as error:  # whatever it is, it is this image's
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

    async def _one(self, segmenter: LocalSegmentationService, source: Source) -> int:
        """Search one image, and write its files; returns how many objects it has."""
        timings = Timings()

        def load() -> tuple[tuple[int, int], StoredImage]:
            return stamp(source), read(source, self.max_mb)

        known, image = await segmenter.in_thread(load)
        found = await self.search.run(segmenter, image, timings)
        picture = Picture(source, image, found, self.search.asked)
        files = await segmenter.in_thread(partial(self._files, picture))
        if self.overlay:
            draw = partial(drawn, picture=picture)
            files[OVERLAY] = await segmenter.on_pixels(image, draw, timings)

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
        """The files of an image by suffix, or under "" its part of the document."""
        if self.form == "coco":
            return {"": coco_part(picture, self.search.categories, self.segmentation)}
        if self.form == "geojson":
            return {".geojson": feature_collection(picture)}
        if self.form == "png":
            return labels(picture)
        return {".json": answer(picture, self.form)}

    def finish(self, sources: Sequence[Source], models: Sequence[str], *, complete: bool) -> None:
        """Write the document of all images, where there is one.

        Args:
            sources: all images; those that failed are left out.
            models: that found the objects.
            complete: whether none failed, so that there is nothing to go on with.

        Raises:
            OutputError: it cannot be written.
        """
        if self.output.document is not None:

            def parts() -> Iterator[bytes]:
                return filter(None, map(self.journal.part, sources))

            content = coco_document(parts, self.search.categories, models)
            self.output.write(self.output.document, content)
        if complete and self.output.is_file:
            self.journal.remove()


def reason_of(error: Exception) -> str:
    """Why an image failed, for people at a terminal."""
    if isinstance(error, InferenceServerError):
        return error.message.removeprefix("Could not load input image. Cause: ")
    if isinstance(error, InputError | JournalError | OutputError):
        return str(error)
    return f"{type(error).__name__}: {error}"
