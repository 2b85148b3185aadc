"""Segmind's sam3-image and sam-v2-image; the same tasks can run as jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.dependencies import read, state_of, timings_of
from inference_server.api.headers import RESULT_HEADERS
from inference_server.api.openapi import Answer, Operation
from inference_server.api.responses import respond
from inference_server.api.segmind.errors import ERRORS
from inference_server.api.segmind.prompts import (
    automatic_options,
    concept_prompt,
    image_ref,
    point_options,
    point_prompt,
)
from inference_server.api.segmind.results import PNG, MaskImages, base64_text, images_body
from inference_server.auth import Tenant, Work
from inference_server.jobs.task import Task, TaskContext, TaskResult
from inference_server.masks import Mask
from inference_server.observability.metrics import Timings
from inference_server.segmentation.postprocess import suppress_overlaps
from inference_server.segmentation.types import (
    ConceptOptions,
    ConceptPrompt,
    EncodedImage,
    ImageRef,
    Instance,
    SegmentationResult,
    StoredImage,
)
from schemas.segmind import (
    Base64Image,
    Sam3ImageRequest,
    SamV2ImageRequest,
    SegmindImages,
    SegmindRequest,
)

_SAME_OBJECT_IOU = 0.7
"""Minimum mask IoU at which a mask of text or boxes and one of points are the same object."""


@dataclass(frozen=True, slots=True)
class _ImageTask:
    """Runs the prompts of one request on its image.

    Attributes:
        context: provides the segmentation service.
        tenant: name of the image's owner.
        image: the image file, loaded once for all prompts and for drawing.
        timings: receives the duration of each step.
    """

    context: TaskContext
    tenant: str
    image: StoredImage
    timings: Timings

    @classmethod
    async def of(
        cls, context: TaskContext, tenant: Tenant, body: SegmindRequest, timings: Timings
    ) -> _ImageTask:
        """Load the image of a request."""
        image = await context.segmenter.read(tenant.name, image_ref(body), timings)
        return cls(context, tenant.name, image, timings)

    async def concept(self, prompt: ConceptPrompt) -> SegmentationResult:
        """Find every instance of a concept."""
        image, options = ImageRef(file=self.image), ConceptOptions(within=True)
        return await self.context.segmenter.concept(
            self.tenant, image, [prompt], options, timings=self.timings
        )

    async def points(
        self, points: Sequence[Sequence[float]], labels: Sequence[int]
    ) -> SegmentationResult:
        """Segment the object at some points."""
        return await self.context.segmenter.visual(
            self.tenant,
            ImageRef(file=self.image),
            [point_prompt(points, labels)],
            point_options(points),
            timings=self.timings,
        )

    async def automatic(self, body: Sam3ImageRequest) -> SegmentationResult:
        """Segment every object."""
        image, options = ImageRef(file=self.image), automatic_options(body)
        return await self.context.segmenter.automatic(
            self.tenant, image, options, timings=self.timings
        )

    def mask_images(self, encoded: EncodedImage, instances: Sequence[Instance]) -> MaskImages:
        """Return what draws some instances."""
        masks = [instance.mask for instance in instances]
        size = encoded.embedding.size
        context = self.context
        return MaskImages(
            context.settings, context.segmenter, self.image, size, masks, self.timings
        )


async def run_sam3_image(
    context: TaskContext, tenant: Tenant, body: Sam3ImageRequest, timings: Timings
) -> TaskResult:
    """Segment by text, boxes and points, or segment everything.

    Returns:
        The requested files among `preview.png`, `overlay.png` and `mask_1.png`, `mask_2.png`, ...
    """
    task = await _ImageTask.of(context, tenant, body, timings)
    results = []
    if body.text_prompt is not None or body.boxes_input:
        prompt = concept_prompt(body.text_prompt, body.boxes_input, body.threshold)
        results.append(await task.concept(prompt))
    if body.points_input:
        results.append(await task.points(body.points_input, body.labels))
    if body.is_automatic:
        results.append(await task.automatic(body))
    image = EncodedImage.joined([result.image for result in results])
    found = _visible([each for result in results for each in result.instances], body.threshold)
    if len(results) > 1:
        found = await context.segmenter.in_thread(
            partial(suppress_overlaps, found, _SAME_OBJECT_IOU)
        )
    found.sort(key=lambda instance: -instance.score)
    files = await task.mask_images(image, found[: body.max_masks or None]).prepare(
        union="preview.png" if body.return_preview else None,
        overlay=body.return_overlay,
        separate=body.return_masks,
    )
    return TaskResult(image, files=files)


def _visible(instances: Sequence[Instance], threshold: float = 0.0) -> list[Instance]:
    """Return the instances that reach a score and have at least one pixel."""
    return [each for each in instances if each.score >= threshold and not each.mask.is_empty]


async def run_sam_v2_image(
    context: TaskContext, tenant: Tenant, body: SamV2ImageRequest, timings: Timings
) -> TaskResult:
    """Segment by text, or segment one object by points.

    Returns:
        `overlay.png` or `mask.png`, or its base64 text as JSON if `base64` is true.
    """
    task = await _ImageTask.of(context, tenant, body, timings)
    if body.prompt is not None:
        result = await task.concept(concept_prompt(body.prompt))
        found = [
            each
            for each in _visible(result.instances)
            if not any(_contains(each.mask, x, y) for x, y in body.remove_coordinates)
        ]
    else:
        points = [*body.coordinates, *body.remove_coordinates]
        labels = [1] * len(body.coordinates) + [0] * len(body.remove_coordinates)
        result = await task.points(points, labels)
        found = _visible(result.instances)
    files = await task.mask_images(result.image, found).prepare(
        union=None if body.overlay_mask else "mask.png", overlay=body.overlay_mask
    )
    if body.base64:
        return TaskResult(result.image, lambda: base64_text(files()[0].content))
    return TaskResult(result.image, files=files)


def _contains(mask: Mask, x: float, y: float) -> bool:
    """Tell whether a mask contains the pixel at a point."""
    height, width = mask.size
    if not (0 <= x < width and 0 <= y < height):
        return False
    before = np.searchsorted(mask.runs.reshape(-1), int(x) * height + int(y), side="right")
    return bool(before % 2)


def _work_of_sam3_image(body: Sam3ImageRequest) -> Sequence[Work]:
    if body.is_automatic:
        return ["automatic"]
    work: list[Work] = []
    if body.text_prompt is not None or body.boxes_input:
        work.append("concept")
    if body.points_input:
        work.append("visual")
    return work


def _work_of_sam_v2_image(body: SamV2ImageRequest) -> Sequence[Work]:
    return ["visual" if body.prompt is None else "concept"]


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "sam3-image": Task(Sam3ImageRequest, run_sam3_image, _work_of_sam3_image),
        "sam-v2-image": Task(SamV2ImageRequest, run_sam_v2_image, _work_of_sam_v2_image),
    }
)
"""Tasks that can also run as jobs, by the path below `/v2/`."""


async def sam3_image(request: Request) -> Response:
    """Respond with one image, or with several in JSON: the request's options decide which."""
    tenant, body = await read(request, Sam3ImageRequest, _work_of_sam3_image)
    context = state_of(request).task_context
    result = await run_sam3_image(context, tenant, body, timings_of(request))
    files = result.files
    assert files is not None  # noqa: S101 - `run_sam3_image` returns files
    if not body.return_masks and body.return_preview != body.return_overlay:
        return await respond(request, result.image, lambda: files()[0].content, PNG)
    return await respond(
        request, result.image, lambda: images_body(files(), with_masks=body.return_masks)
    )


async def sam_v2_image(request: Request) -> Response:
    """Respond with one image."""
    tenant, body = await read(request, SamV2ImageRequest, _work_of_sam_v2_image)
    context = state_of(request).task_context
    result = await run_sam_v2_image(context, tenant, body, timings_of(request))
    if result.body is not None:
        return await respond(request, result.image, result.body)
    files = result.files
    assert files is not None  # noqa: S101 - a result has a body or files
    return await respond(request, result.image, lambda: files()[0].content, PNG)


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "post",
        "/v1/sam3-image",
        "sam3Image",
        "Segment an image; the response is images",
        "Finds every instance of a concept given by text and exemplar boxes, one object given by "
        "points, or every object. The response is a PNG if exactly one of `return_preview` and "
        "`return_overlay` is true and `return_masks` is false; otherwise it is JSON. If nothing is "
        "found, the preview is black, the overlay is the input image, and `masks` is empty.",
        ("Segmind",),
        sam3_image,
        {
            200: Answer(
                "One PNG, or several images in JSON.",
                SegmindImages,
                raw={PNG: "binary"},
                raw_first=True,
                headers=RESULT_HEADERS,
            ),
            **ERRORS,
        },
        request=Sam3ImageRequest,
    ),
    Operation(
        "post",
        "/v1/sam-v2-image",
        "samV2Image",
        "Segment an image by text or points; the response is an image",
        "Finds every instance of a concept given by text, or one object given by points. If "
        "nothing is found, the overlay is the input image, and the mask is black.",
        ("Segmind",),
        sam_v2_image,
        {
            200: Answer(
                "The image as a PNG; with `base64`, a JSON string with the PNG in base64.",
                Base64Image,
                raw={PNG: "binary"},
                raw_first=True,
                headers=RESULT_HEADERS,
            ),
            **ERRORS,
        },
        request=SamV2ImageRequest,
    ),
)
