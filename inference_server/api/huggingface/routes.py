"""The Hugging Face Space's endpoints: JSON in; masks as PNGs in base64, and polygons, out."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.dependencies import read, state_of, timings_of
from inference_server.api.huggingface.prompts import Prompts
from inference_server.api.openapi import RESULT_HEADERS, Answer, Operation, common_errors
from inference_server.api.responses import answer
from inference_server.auth import Tenant, Work
from inference_server.errors import ImageTooLargeError, InferenceServerError
from inference_server.masks import clip, encode_png, outline, outside
from inference_server.segmentation.types import (
    ConceptOptions,
    EncodedImage,
    ImageRef,
    Instance,
    SegmentationResult,
    VisualOptions,
)
from inference_server.settings import MiB
from schemas.huggingface import (
    SpaceError,
    SpaceInputs,
    SpacePredictRequest,
    SpacePredictResponse,
    SpaceRequest,
    SpaceResponse,
)

_SAM_VERSION = "3.0"
_PREDICT = "/api/predict"
_PART = 8
"""Masks that one thread writes before it looks for other work."""


def wording(error: InferenceServerError) -> dict[str, Any]:
    """An answer without an object, that says why."""
    return {
        "success": False,
        "error": error.message,
        "masks": [],
        "scores": [],
        "num_objects": 0,
    }


def _image(text: str) -> ImageRef:
    """Base64 has no colons, so that an address cannot be mistaken for it."""
    if text.lstrip()[:8].lower().startswith(("http://", "https://")):
        return ImageRef(url=text.strip())
    return ImageRef(base64=text)


async def sam2_compatible(request: Request) -> Response:
    """PCS and PVS."""
    tenant, body = await read(request, SpaceRequest, lambda body: _work(body.inputs))
    image, found = await _found(request, tenant, body.inputs)
    return await answer(request, image, lambda: found)


async def predict(request: Request) -> Response:
    """PCS in the envelope of Gradio."""
    begin = time.perf_counter()
    tenant, body = await read(request, SpacePredictRequest, lambda body: ["concept"])
    sent, text, threshold = body.data
    inputs = SpaceInputs.model_construct(
        image=sent, text_prompts=[text], confidence_threshold=threshold
    )
    image, found = await _found(request, tenant, inputs)

    def render() -> dict[str, Any]:
        seconds = time.perf_counter() - begin
        return {
            "data": [found],
            "is_generating": False,
            "duration": seconds,
            "average_duration": _average(request, seconds),
        }

    return await answer(request, image, render)


def _work(inputs: SpaceInputs) -> Sequence[Work]:
    work: list[Work] = ["concept"] if inputs.text_prompts else []
    if inputs.boxes or inputs.points:
        work.append("visual")
    return work


def _average(request: Request, latest: float) -> float:
    """Seconds of this request and all earlier ones to the endpoint, on average."""
    histogram = state_of(request).metrics.duration.labels(_PREDICT)
    total, count = latest, 1.0
    for sample in (sample for metric in histogram.collect() for sample in metric.samples):
        total += sample.value if sample.name.endswith("_sum") else 0
        count += sample.value if sample.name.endswith("_count") else 0
    return total / count


async def _found(
    request: Request, tenant: Tenant, inputs: SpaceInputs
) -> tuple[EncodedImage, dict[str, Any]]:
    """Answer a request: the image, and the contract's object."""
    prompts = Prompts.of(inputs)
    result = await _segmentation(request, tenant, _image(inputs.image), prompts, inputs)
    size = result.image.embedding.size
    in_thread = state_of(request).segmenter.in_thread
    limit = state_of(request).settings.max_binary_mb * MiB
    with timings_of(request).measure("masks"):
        instances = await in_thread(lambda: _kept(result, prompts, limit))
        parts = [instances[start : start + _PART] for start in range(0, len(instances), _PART)]
        epsilon = inputs.simplify_epsilon if inputs.vectorize else None
        written = await asyncio.gather(
            *(in_thread(partial(_written, part, epsilon)) for part in parts)
        )
    found: dict[str, Any] = {
        "masks": [png for part in written for png, _ in part],
        "scores": [instance.score for instance in instances],
        "num_objects": len(instances),
        "sam_version": _SAM_VERSION,
        "prompt_types": prompts.kinds,
        "success": True,
    }
    if inputs.vectorize:
        found["polygons"] = [polygon for part in written for _, polygon in part]
        found["polygon_format"] = "pixel_coordinates"
        found["original_image_size"] = [size[1], size[0]]
    return result.image, found


async def _segmentation(
    request: Request, tenant: Tenant, image: ImageRef, prompts: Prompts, inputs: SpaceInputs
) -> SegmentationResult:
    """What the engines say to the prompts: that of words first."""
    state, timings = state_of(request), timings_of(request)
    segmenter = state.segmenter
    if prompts.concepts and prompts.objects:
        # Fetched and read once for both engines.
        image = ImageRef(file=await segmenter.read(tenant.name, image, timings))
    results = []
    if prompts.concepts:
        by_words = segmenter.concept(
            tenant.name, image, prompts.concepts, ConceptOptions(), timings=timings
        )
        results.append(await by_words)
    if prompts.objects:
        by_pointing = segmenter.visual(
            tenant.name,
            None,
            image,
            prompts.objects,
            VisualOptions(
                multimask=inputs.multimask_output,
                best=not inputs.multimask_output,
                within=True,
            ),
            timings=timings,
        )
        results.append(await by_pointing)
    return SegmentationResult(
        EncodedImage.joined([result.image for result in results]),
        [instance for result in results for instance in result.instances],
    )


def _kept(result: SegmentationResult, prompts: Prompts, limit: int) -> list[Instance]:
    """The instances without what is excluded; for worker threads.

    Raises:
        ImageTooLargeError: their PNGs would be more work than the server's limit.
    """
    size, instances = result.image.embedding.size, result.instances
    if len(prompts.excluded):
        valid = outside(prompts.excluded, size)
        instances = [replace(each, mask=clip(each.mask, valid)) for each in instances]
    instances = [each for each in instances if not each.mask.is_empty]
    boxes = [each.mask.box for each in instances]
    if sum(y1 - y0 for _, y0, _, y1 in boxes) * size[1] > limit:
        raise ImageTooLargeError(
            f"The rows of pixels that the {len(instances)} masks reach are more than "
            f"{limit // MiB} MiB. Send a smaller image or fewer prompts at a time, or raise "
            "confidence_threshold, or INFERENCE_MAX_BINARY_MB on the server."
        )
    return instances


def _written(instances: Sequence[Instance], epsilon: float | None) -> list[tuple[str, Any]]:
    """Each mask as a PNG in base64, and as a polygon unless epsilon is None; for worker threads."""
    return [
        (
            base64.b64encode(encode_png(each.mask)).decode(),
            None if epsilon is None else outline(each.mask, epsilon),
        )
        for each in instances
    ]


def _errors() -> Mapping[int, Answer]:
    errors = dict(common_errors(SpaceError, "Space"))
    for other in (404, 422):
        del errors[other]
    told = "The request is not valid, or the image could not be fetched or decoded."
    return {**errors, 400: replace(errors[400], description=told)}


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "post",
        "/api/sam2_compatible",
        "spaceSegment",
        "Segment by words, points and boxes",
        "Each text finds every instance of a concept (SAM 3). Each positive box, with the points "
        "in it, selects one object, and so do the points in no such box together (SAM 2). Pixels "
        "in a negative box belong to no mask.",
        ("Space",),
        sam2_compatible,
        {
            200: Answer("The objects.", SpaceResponse, headers=RESULT_HEADERS),
            **_errors(),
        },
        request=SpaceRequest,
    ),
    Operation(
        "post",
        _PREDICT,
        "spacePredict",
        "Segment by words, in Gradio's form",
        "Finds every instance of a concept. SAM 3.",
        ("Space",),
        predict,
        {
            200: Answer("The objects.", SpacePredictResponse, headers=RESULT_HEADERS),
            **_errors(),
        },
        request=SpacePredictRequest,
    ),
)
