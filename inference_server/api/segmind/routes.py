"""Segmind's sam3-image and sam-v2-image, answered at once; the queue runs the same tasks."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.dependencies import read, state_of, timings_of
from inference_server.api.openapi import RESULT_HEADERS, Answer, Operation
from inference_server.api.responses import answer
from inference_server.api.segmind.results import Pictures
from inference_server.auth import Tenant, Work
from inference_server.engines.base import ConceptPrompt, VisualPrompt
from inference_server.errors import InferenceServerError
from inference_server.jobs.task import ResultFile, Task, TaskContext, TaskResult
from inference_server.masks import Mask
from inference_server.observability.metrics import Timings
from inference_server.segmentation.postprocess import suppressed
from inference_server.segmentation.types import (
    AutomaticOptions,
    ConceptOptions,
    EncodedImage,
    ImageRef,
    Instance,
    SegmentationResult,
    StoredImage,
    VisualOptions,
)
from schemas.segmind import (
    Base64Image,
    Sam3ImageRequest,
    SamV2ImageRequest,
    SegmindFailure,
    SegmindImages,
    SegmindRequest,
)

_PNG = "image/png"

_SAME_OBJECT = 0.7
"""IoU from which a mask of words or boxes and one of points are the same object."""

STATUSES: Mapping[int, int] = MappingProxyType({408: 400, 413: 400, 402: 406, 503: 502})
"""What the contract calls statuses that it does not list."""


def wording(error: InferenceServerError) -> dict[str, Any]:
    """`{"error": ...}`, and nothing else: clients believe a `status`."""
    return {"error": error.message}


class _Asked:
    """An image, and the ways to find something on it."""

    def __init__(
        self, context: TaskContext, tenant: Tenant, image: StoredImage, timings: Timings
    ) -> None:
        self._segmenter = context.segmenter
        self._tenant = tenant.name
        self._file = image
        self._image = ImageRef(file=image)
        self._timings = timings

    @classmethod
    async def of(
        cls, context: TaskContext, tenant: Tenant, body: SegmindRequest, timings: Timings
    ) -> _Asked:
        """With the image of a request, which is fetched once for engines and drawing."""
        named = ImageRef(url=body.image) if body.image_is_url else ImageRef(base64=body.image)
        stored = await context.segmenter.read(tenant.name, named, timings)
        return cls(context, tenant, stored, timings)

    async def concept(
        self, text: str | None, boxes: Sequence[Sequence[float]] = (), threshold: float = 0.5
    ) -> SegmentationResult:
        """Everything like words or like the contents of boxes."""
        corners = np.array(boxes, np.float32).reshape(-1, 4)
        prompt = ConceptPrompt(text, corners, np.ones(len(corners), np.int64), threshold)
        return await self._segmenter.concept(
            self._tenant,
            self._image,
            [prompt],
            ConceptOptions(within=True),
            timings=self._timings,
        )

    async def visual(
        self, points: Sequence[Sequence[float]], labels: Sequence[int]
    ) -> SegmentationResult:
        """The object on which points lie; what one point means is the best of three guesses."""
        prompt = VisualPrompt(
            np.array(points, np.float32).reshape(-1, 2), np.array(labels, np.int64)
        )
        return await self._segmenter.visual(
            self._tenant,
            None,
            self._image,
            [prompt],
            VisualOptions(multimask=len(points) == 1, within=True),
            timings=self._timings,
        )

    async def automatic(self, options: AutomaticOptions) -> SegmentationResult:
        """Everything."""
        return await self._segmenter.automatic(
            self._tenant, None, self._image, options, timings=self._timings
        )

    async def distinct(self, instances: list[Instance]) -> list[Instance]:
        """Without the lesser one of two masks of the same object."""
        return await self._segmenter.in_thread(partial(suppressed, instances, _SAME_OBJECT))

    def pictures(self, image: EncodedImage, instances: Sequence[Instance]) -> Pictures:
        """What was found, to be drawn."""
        masks = [instance.mask for instance in instances]
        return Pictures(self._segmenter, self._file, image.embedding.size, masks, self._timings)


async def run_sam3_image(
    context: TaskContext, tenant: Tenant, body: Sam3ImageRequest, timings: Timings
) -> TaskResult:
    """Segment by words, boxes and points, or everything.

    Returns:
        Of `preview.png`, `overlay.png` and `mask_1.png`, … those that are asked for.
    """
    asked = await _Asked.of(context, tenant, body, timings)
    results = []
    if body.text_prompt is not None or body.boxes_input:
        results.append(await asked.concept(body.text_prompt, body.boxes_input, body.threshold))
    if body.points_input:
        results.append(await asked.visual(body.points_input, body.labels))
    if body.is_automatic:
        options = AutomaticOptions(
            points_per_side=body.points_per_side, pred_iou_threshold=body.pred_iou_thresh
        )
        results.append(await asked.automatic(options))
    image = EncodedImage.joined([result.image for result in results])
    found = _visible([each for result in results for each in result.instances], body.threshold)
    if len(results) > 1:
        found = await asked.distinct(found)
    found.sort(key=lambda instance: -instance.score)
    pictures = asked.pictures(image, found[: body.max_masks or None])
    files = []
    if body.return_preview:
        files.append(ResultFile("preview.png", _PNG, await pictures.preview()))
    if body.return_overlay:
        files.append(ResultFile("overlay.png", _PNG, await pictures.overlay()))
    if body.return_masks:
        each = enumerate(await pictures.each(), 1)
        files += [ResultFile(f"mask_{number}.png", _PNG, data) for number, data in each]
    return TaskResult(image, files=tuple(files))


def _visible(instances: Sequence[Instance], threshold: float = 0.0) -> list[Instance]:
    """Those that are likely enough and have a pixel."""
    return [each for each in instances if each.score >= threshold and not each.mask.is_empty]


async def run_sam_v2_image(
    context: TaskContext, tenant: Tenant, body: SamV2ImageRequest, timings: Timings
) -> TaskResult:
    """Segment by words, or one object by points.

    Returns:
        `overlay.png` or `mask.png`, whichever is asked for.
    """
    asked = await _Asked.of(context, tenant, body, timings)
    if body.prompt is not None:
        result = await asked.concept(body.prompt)
        found = [
            each
            for each in _visible(result.instances)
            if not any(_holds(each.mask, x, y) for x, y in body.remove_coordinates)
        ]
    else:
        points = [*body.coordinates, *body.remove_coordinates]
        labels = [1] * len(body.coordinates) + [0] * len(body.remove_coordinates)
        result = await asked.visual(points, labels)
        found = _visible(result.instances)
    pictures = asked.pictures(result.image, found)
    if body.overlay_mask:
        file = ResultFile("overlay.png", _PNG, await pictures.overlay())
    else:
        file = ResultFile("mask.png", _PNG, await pictures.preview())
    return TaskResult(result.image, files=(file,), in_base64=body.base64)


def _holds(mask: Mask, x: float, y: float) -> bool:
    """Whether a mask has the pixel in which a point lies."""
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
"""What there is to do, by the last part of the path."""


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def sam3_image(request: Request) -> Response:
    """One image, or several in JSON: which of them is the request's choice, not the result's."""
    tenant, body = await read(request, Sam3ImageRequest, _work_of_sam3_image)
    result = await run_sam3_image(state_of(request).task_context, tenant, body, timings_of(request))
    if not body.return_masks and body.return_preview != body.return_overlay:
        return await answer(request, result.image, lambda: result.files[0].content, _PNG)

    def images() -> dict[str, str | list[str]]:
        texts = {file.name.removesuffix(".png"): _text(file.content) for file in result.files}
        told: dict[str, str | list[str]] = {
            name: texts.pop(name) for name in ("preview", "overlay") if name in texts
        }
        if body.return_masks:
            told["masks"] = list(texts.values())
        return told

    return await answer(request, result.image, images)


async def sam_v2_image(request: Request) -> Response:
    """One image."""
    tenant, body = await read(request, SamV2ImageRequest, _work_of_sam_v2_image)
    result = await run_sam_v2_image(
        state_of(request).task_context, tenant, body, timings_of(request)
    )
    (file,) = result.files
    if result.in_base64:
        return await answer(request, result.image, lambda: _text(file.content))
    return await answer(request, result.image, lambda: file.content, _PNG)


def _error(name: str, description: str, *headers: str) -> Answer:
    headers = (*headers, "x-request-id")
    return Answer(description, SegmindFailure, headers=headers, component=f"{name}Segmind")


ERRORS: Mapping[int, Answer] = MappingProxyType(
    {
        400: _error("BadRequest", "The request is not valid, or its image cannot be read."),
        401: _error(
            "Unauthorized",
            "The API key is missing or wrong, has expired or was revoked.",
            "www-authenticate",
        ),
        403: _error("Forbidden", "The API key has not the scope that this needs."),
        406: _error("OutOfCredits", "The API key has not enough credits left for this."),
        429: _error(
            "Busy",
            "The API key asks too often, or too many requests are waiting: try again.",
            "retry-after",
        ),
        500: _error("Internal", "Something failed in the server; its log has the request's id."),
        502: _error(
            "Unavailable",
            "Not now: a model's weights are missing, the server is stopping or has no memory left, "
            "or a database cannot be used. The message says which.",
            "retry-after",
        ),
        504: _error("TimedOut", "The request took longer than the server's time limit."),
    }
)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "post",
        "/v1/sam3-image",
        "sam3Image",
        "Segment an image, and get images",
        "Finds every object of a concept by words and exemplar boxes, one object by points, or "
        "everything. The answer is the image if either `return_preview` or `return_overlay` is "
        "true alone; otherwise JSON. Where nothing is found the preview is black, the overlay is "
        "the input image, and `masks` is empty.",
        ("Segmind",),
        sam3_image,
        {
            200: Answer(
                "One image, or several in JSON.",
                SegmindImages,
                raw={_PNG: "binary"},
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
        "Segment an image by words or points, and get an image",
        "Finds every object of a concept by words, or one object by points. Where nothing is found "
        "the overlay is the input image, and the mask is black.",
        ("Segmind",),
        sam_v2_image,
        {
            200: Answer(
                "The image; with `base64` its PNG as a JSON text.",
                Base64Image,
                raw={_PNG: "binary"},
                raw_first=True,
                headers=RESULT_HEADERS,
            ),
            **ERRORS,
        },
        request=SamV2ImageRequest,
    ),
)
