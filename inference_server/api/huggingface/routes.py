"""The Hugging Face Space's endpoints: JSON in; masks as PNGs in base64 and polygons out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.dependencies import read, state_of, timings_of
from inference_server.api.headers import RESULT_HEADERS
from inference_server.api.huggingface.errors import ERRORS
from inference_server.api.huggingface.prompts import SpacePrompts, image_ref
from inference_server.api.huggingface.results import SpaceResult
from inference_server.api.openapi import Answer, Operation
from inference_server.api.responses import respond
from inference_server.auth import Tenant, Work
from inference_server.segmentation.types import (
    ConceptOptions,
    EncodedImage,
    ImageRef,
    SegmentationResult,
    VisualOptions,
)
from inference_server.settings import MiB
from schemas.huggingface import (
    SpaceInputs,
    SpacePredictRequest,
    SpacePredictResponse,
    SpaceRequest,
    SpaceResponse,
)

_PREDICT = "/api/predict"


async def sam2_compatible(request: Request) -> Response:
    """Segment by text (PCS), points and boxes (PVS)."""
    tenant, body = await read(request, SpaceRequest, lambda body: _work(body.inputs))
    image, render = await _segment(request, tenant, body.inputs)
    return await respond(request, image, render)


async def predict(request: Request) -> Response:
    """Segment by text (PCS), in the envelope of Gradio's API."""
    begin = time.perf_counter()
    tenant, body = await read(request, SpacePredictRequest, lambda body: ["concept"])
    sent, text, threshold = body.data
    inputs = SpaceInputs.model_construct(
        image=sent, text_prompts=[text], confidence_threshold=threshold
    )
    image, render = await _segment(request, tenant, inputs)

    def envelope() -> dict[str, Any]:
        data = render()
        seconds = time.perf_counter() - begin
        return {
            "data": [data],
            "is_generating": False,
            "duration": seconds,
            "average_duration": _average_duration(request, seconds),
        }

    return await respond(request, image, envelope)


def _work(inputs: SpaceInputs) -> Sequence[Work]:
    work: list[Work] = ["concept"] if inputs.text_prompts else []
    # Negative boxes and points alone select no object.
    if any(inputs.box_labels) or any(inputs.point_labels):
        work.append("visual")
    return work


def _average_duration(request: Request, latest: float) -> float:
    """Return the mean duration of all requests to the endpoint, this one included, in seconds."""
    histogram = state_of(request).metrics.duration.labels(_PREDICT)
    total, count = latest, 1.0
    for sample in (sample for metric in histogram.collect() for sample in metric.samples):
        total += sample.value if sample.name.endswith("_sum") else 0
        count += sample.value if sample.name.endswith("_count") else 0
    return total / count


async def _segment(
    request: Request, tenant: Tenant, inputs: SpaceInputs
) -> tuple[EncodedImage, Callable[[], dict[str, Any]]]:
    """Segment the image of a request.

    Returns:
        (the image, a function that renders the result in a worker thread).
    """
    state = state_of(request)
    prompts = SpacePrompts.of(inputs)
    result = await _run_models(request, tenant, prompts, inputs)
    rendering = SpaceResult(
        state.segmenter,
        result,
        prompts,
        inputs.simplify_epsilon if inputs.vectorize else None,
        state.settings.max_binary_mb * MiB,
        timings_of(request),
    )
    return result.image, await rendering.prepare()


async def _run_models(
    request: Request, tenant: Tenant, prompts: SpacePrompts, inputs: SpaceInputs
) -> SegmentationResult:
    """Find the concepts, then segment the objects of points and boxes."""
    segmenter, timings = state_of(request).segmenter, timings_of(request)
    image = image_ref(inputs.image)
    if prompts.concepts and prompts.objects:
        # Load the file once for both models.
        image = ImageRef(file=await segmenter.read(tenant.name, image, timings))
    results = []
    if prompts.concepts:
        results.append(
            await segmenter.concept(
                tenant.name, image, prompts.concepts, ConceptOptions(), timings=timings
            )
        )
    if prompts.objects:
        options = VisualOptions(
            multimask=inputs.multimask_output, best=not inputs.multimask_output, within=True
        )
        results.append(
            await segmenter.visual(tenant.name, image, prompts.objects, options, timings=timings)
        )
    return SegmentationResult(
        EncodedImage.joined([result.image for result in results]),
        [instance for result in results for instance in result.instances],
    )


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "post",
        "/api/sam2_compatible",
        "spaceSegment",
        "Segment by text, points and boxes",
        "Each text finds every instance of a concept (SAM 3). Each positive box, together with "
        "the points inside it, selects one object; all points outside these boxes select one "
        "more object (SAM 3's visual head, or SAM 2). Pixels in a negative box are removed from "
        "all masks.",
        ("Space",),
        sam2_compatible,
        {
            200: Answer("The objects found.", SpaceResponse, headers=RESULT_HEADERS),
            **ERRORS,
        },
        request=SpaceRequest,
    ),
    Operation(
        "post",
        _PREDICT,
        "spacePredict",
        "Segment by text, in the envelope of Gradio's API",
        "Finds every instance of a concept. Uses SAM 3.",
        ("Space",),
        predict,
        {
            200: Answer("The objects found.", SpacePredictResponse, headers=RESULT_HEADERS),
            **ERRORS,
        },
        request=SpacePredictRequest,
    ),
)
