"""Segmentation results as the Space's response body: PNGs in base64, and polygons."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pybase64

from inference_server.api.huggingface.prompts import SpacePrompts
from inference_server.errors import ImageTooLargeError
from inference_server.masks import clip, encode_png, outline, outside
from inference_server.observability.metrics import Timings
from inference_server.segmentation.service import SegmentationService
from inference_server.segmentation.types import Instance, SegmentationResult
from inference_server.settings import MiB

_SAM_VERSION = "3.0"

_MASKS_PER_CALL = 8
"""Up to this many masks are encoded with the response. More would hold a thread for long, so each
group of this many becomes a call of its own, and other requests get their turn."""

_Encoded = list[tuple[str, Any]]
"""Per mask: its PNG in base64, and its polygon or None."""


@dataclass(frozen=True, slots=True)
class SpaceResult:
    """Renders the result of one request.

    Attributes:
        segmenter: provides the worker threads.
        result: the instances found.
        prompts: the prompts of the request.
        epsilon: maximum distance between a polygon and the outline of its mask, in pixels; None
            omits polygons.
        max_bytes: maximum size of the rows of pixels that the masks span, in bytes.
        timings: receives the time of encoding, as `masks`.
    """

    segmenter: SegmentationService
    result: SegmentationResult
    prompts: SpacePrompts
    epsilon: float | None
    max_bytes: int
    timings: Timings

    async def prepare(self) -> Callable[[], dict[str, Any]]:
        """Encode many masks concurrently, and return a function that renders the response.

        Returns:
            Returns the response body; call it once, in a worker thread. It may raise
            `ImageTooLargeError`.

        Raises:
            ImageTooLargeError: the masks exceed `max_bytes`.
        """
        if len(self.result.instances) <= _MASKS_PER_CALL:

            def render() -> dict[str, Any]:
                with self.timings.measure("masks"):
                    instances = self._visible()
                    encoded = _encode(instances, self.epsilon)
                return self._body(instances, encoded)

            return render
        with self.timings.measure("masks"):
            instances = await self.segmenter.in_thread(self._visible)
            groups = [
                instances[start : start + _MASKS_PER_CALL]
                for start in range(0, len(instances), _MASKS_PER_CALL)
            ]
            encoded = await asyncio.gather(
                *(
                    self.segmenter.in_thread(partial(_encode, group, self.epsilon))
                    for group in groups
                )
            )
        return lambda: self._body(instances, [each for group in encoded for each in group])

    def _visible(self) -> list[Instance]:
        """Return the instances without excluded areas and without empty masks.

        Raises:
            ImageTooLargeError: the masks exceed `max_bytes`.
        """
        size, instances = self.result.image.embedding.size, self.result.instances
        if len(self.prompts.excluded):
            valid = outside(self.prompts.excluded, size)
            instances = [replace(each, mask=clip(each.mask, valid)) for each in instances]
        instances = [each for each in instances if not each.mask.is_empty]
        boxes = [each.mask.box for each in instances]
        if sum(y1 - y0 for _, y0, _, y1 in boxes) * size[1] > self.max_bytes:
            raise ImageTooLargeError(
                f"The pixel rows that the {len(instances)} masks span exceed "
                f"{self.max_bytes // MiB} MiB. Send a smaller image or fewer prompts per request, "
                "raise confidence_threshold, or raise INFERENCE_MAX_BINARY_MB on the server."
            )
        return instances

    def _body(self, instances: Sequence[Instance], encoded: _Encoded) -> dict[str, Any]:
        body: dict[str, Any] = {
            "masks": [png for png, _ in encoded],
            "scores": [instance.score for instance in instances],
            "num_objects": len(instances),
            "sam_version": _SAM_VERSION,
            "prompt_types": self.prompts.kinds,
            "success": True,
        }
        if self.epsilon is not None:
            height, width = self.result.image.embedding.size
            body["polygons"] = [polygon for _, polygon in encoded]
            body["polygon_format"] = "pixel_coordinates"
            body["original_image_size"] = [width, height]
        return body


def _encode(instances: Sequence[Instance], epsilon: float | None) -> _Encoded:
    """Encode masks as PNGs in base64, and as polygons unless `epsilon` is None."""
    return [
        (
            pybase64.b64encode_as_string(encode_png(each.mask)),
            None if epsilon is None else outline(each.mask, epsilon),
        )
        for each in instances
    ]
