"""What a Segmind request found, as PNGs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.errors import RequestError
from inference_server.masks import Mask, encode_pixels, encode_png, label_plane
from inference_server.masks.render import overlay
from inference_server.observability.metrics import Timings
from inference_server.segmentation.service import SegmentationService
from inference_server.segmentation.types import StoredImage
from inference_server.settings import MiB

MOST_DRAWN = 1000
"""Masks that are drawn over an image, or each on its own, for one request."""

MOST_BYTES = 128 * MiB
"""Of the PNGs of a request's masks."""

_ROOM = 256 * MiB
"""Of the full planes that one request has at a time, of which a PNG may take three."""

_MOST_AT_ONCE = 8
"""PNGs of a request that wait for threads, so that others get their turn."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """The masks of one image, to be drawn.

    Attributes:
        segmenter: whose threads draw.
        image: the image's file.
        size: (height, width) of the image in pixels.
        masks: of the image.
        timings: of the request.
    """

    segmenter: SegmentationService
    image: StoredImage
    size: tuple[int, int]
    masks: Sequence[Mask]
    timings: Timings

    async def preview(self) -> bytes:
        """All masks in one, white on black, one channel."""
        return await self._drawn(
            lambda: encode_pixels(label_plane(self.masks, self.size, unique=False))
        )

    async def overlay(self) -> bytes:
        """The masks in colours over the image.

        Raises:
            ImageError: the image cannot be decoded.
            RequestError: there are too many masks.
        """
        self._check_count()

        def draw(image: NDArray[np.uint8]) -> bytes:
            with self.timings.measure("serialise"):
                return _overlay(image, self.masks)

        return await self.segmenter.on_pixels(self.image, draw, self.timings)

    async def each(self) -> list[bytes]:
        """Each mask on its own, white on black, one channel; several at a time.

        Raises:
            RequestError: there are too many masks.
        """
        self._check_count()
        height, width = self.size
        lanes = asyncio.Semaphore(max(1, min(_MOST_AT_ONCE, _ROOM // (3 * height * width))))
        drawn: list[bytes] = [b""] * len(self.masks)
        nbytes = 0

        async def draw(index: int, mask: Mask) -> None:
            nonlocal nbytes
            async with lanes:
                drawn[index] = await self._drawn(partial(encode_png, mask))
            nbytes += len(drawn[index])
            if nbytes > MOST_BYTES:
                raise RequestError(
                    f"The masks are more than {MOST_BYTES // MiB} MiB as images. Set max_masks, or "
                    "send a smaller image."
                )

        try:
            async with asyncio.TaskGroup() as tasks:
                for index, mask in enumerate(self.masks):
                    tasks.create_task(draw(index, mask))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return drawn

    def _check_count(self) -> None:
        if len(self.masks) > MOST_DRAWN:
            raise RequestError(
                f"There are {len(self.masks)} masks, and {MOST_DRAWN} are drawn at most. Set "
                "max_masks, raise threshold or pred_iou_thresh, or ask for return_preview alone."
            )

    async def _drawn(self, work: Callable[[], bytes]) -> bytes:
        def draw() -> bytes:
            with self.timings.measure("serialise"):
                return work()

        return await self.segmenter.in_thread(draw)


def _overlay(image: NDArray[np.uint8], masks: Sequence[Mask]) -> bytes:
    drawn = overlay(image, masks) if masks else image
    return encode_pixels(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
