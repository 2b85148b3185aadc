"""Segmentation results as Segmind's PNG files and response bodies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pybase64
from numpy.typing import NDArray

from inference_server.errors import RequestError
from inference_server.jobs.task import ResultFile
from inference_server.masks import Mask, encode_pixels, encode_png, label_plane
from inference_server.masks.render import overlay
from inference_server.observability.metrics import Timings
from inference_server.segmentation.service import SegmentationService
from inference_server.segmentation.types import StoredImage
from inference_server.settings import MiB, Settings

PNG = "image/png"

_PLANE_BYTES = 256 * MiB
"""Memory for the full-size planes of one request at a time; encoding a PNG may take three."""

_MASKS_PER_CALL = 8
"""Up to this many masks are encoded with the response. More would hold a thread for long, so each
becomes a call of its own, this many at a time, and other requests get their turn."""


@dataclass(frozen=True, slots=True)
class MaskImages:
    """Draws the masks of one image.

    Attributes:
        settings: limits on the number of masks and the size of their files.
        segmenter: provides the worker threads.
        image: the image file, for overlays.
        size: (height, width) of the image in pixels.
        masks: the masks to draw.
        timings: receives the time of decoding and drawing.
    """

    settings: Settings
    segmenter: SegmentationService
    image: StoredImage
    size: tuple[int, int]
    masks: Sequence[Mask]
    timings: Timings

    async def prepare(
        self, *, union: str | None = None, overlay: bool = False, separate: bool = False
    ) -> Callable[[], tuple[ResultFile, ...]]:
        """Draw what cannot be drawn with the response, and return a function that draws the rest.

        An overlay needs the decoded image, which the image loader bounds.

        Args:
            union: name of a file with all masks in white on black; None omits it.
            overlay: whether to draw `overlay.png`, the masks in colours over the image.
            separate: whether to draw `mask_1.png`, `mask_2.png`, ..., each mask in white on black.

        Returns:
            Returns the files in the order above; call it once, in a worker thread.

        Raises:
            ImageError: the image cannot be decoded.
            RequestError: there are too many masks.
        """
        most = self.settings.max_drawn_masks
        if (overlay or separate) and len(self.masks) > most:
            raise RequestError(
                f"The result has {len(self.masks)} masks; at most {most} can be drawn. Set "
                "max_masks, raise threshold or pred_iou_thresh, or request only return_preview."
            )
        over_image = await self._overlay() if overlay else None
        encoded = None
        if separate and len(self.masks) > _MASKS_PER_CALL:
            encoded = await self._encode_concurrently()

        def render() -> tuple[ResultFile, ...]:
            files = []
            if union is not None:
                plane = label_plane(self.masks, self.size, unique=False)
                files.append(ResultFile(union, PNG, encode_pixels(plane)))
            if over_image is not None:
                files.append(ResultFile("overlay.png", PNG, over_image))
            if separate:
                each = self._encode() if encoded is None else encoded
                files += [
                    ResultFile(f"mask_{number}.png", PNG, data)
                    for number, data in enumerate(each, 1)
                ]
            return tuple(files)

        return render

    async def _overlay(self) -> bytes:
        def draw(image: NDArray[np.uint8]) -> bytes:
            with self.timings.measure("serialise"):
                drawn = overlay(image, self.masks) if self.masks else image
                return encode_pixels(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))

        return await self.segmenter.on_pixels(self.image, draw, self.timings)

    def _encode(self) -> Iterator[bytes]:
        """Encode the masks one after the other."""
        budget = _Budget(self.settings.max_mask_files_mb)
        for mask in self.masks:
            data = encode_png(mask)
            budget.take(data)
            yield data

    async def _encode_concurrently(self) -> list[bytes]:
        """Encode each mask in a worker thread, several at a time."""
        height, width = self.size
        concurrency = max(1, min(_MASKS_PER_CALL, _PLANE_BYTES // (3 * height * width)))
        slots = asyncio.Semaphore(concurrency)
        encoded = [b""] * len(self.masks)
        budget = _Budget(self.settings.max_mask_files_mb)

        async def encode(index: int, mask: Mask) -> None:
            def work() -> bytes:
                with self.timings.measure("serialise"):
                    return encode_png(mask)

            async with slots:
                encoded[index] = await self.segmenter.in_thread(work)
            budget.take(encoded[index])

        try:
            async with asyncio.TaskGroup() as tasks:
                for index, mask in enumerate(self.masks):
                    tasks.create_task(encode(index, mask))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return encoded


class _Budget:
    """Counts the bytes of single mask files against a limit in MiB."""

    def __init__(self, megabytes: int) -> None:
        self._megabytes = megabytes
        self._left = megabytes * MiB

    def take(self, data: bytes) -> None:
        """Count a file; raises `RequestError` when the files exceed the limit."""
        self._left -= len(data)
        if self._left < 0:
            raise RequestError(
                f"The mask images exceed {self._megabytes} MiB. Set max_masks, or send a smaller "
                "image."
            )


def base64_text(data: bytes) -> str:
    """Encode a file as base64 text."""
    return pybase64.b64encode_as_string(data)


def images_body(files: Sequence[ResultFile], *, with_masks: bool) -> dict[str, str | list[str]]:
    """Build the JSON body of several images, in base64.

    Args:
        files: the files of `MaskImages.prepare`.
        with_masks: whether the body has the list `masks`, which may be empty.
    """
    texts = {file.name.removesuffix(".png"): base64_text(file.content) for file in files}
    body: dict[str, str | list[str]] = {
        name: texts.pop(name) for name in ("preview", "overlay") if name in texts
    }
    if with_masks:
        body["masks"] = list(texts.values())
    return body
