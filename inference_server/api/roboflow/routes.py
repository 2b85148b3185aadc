"""Roboflow's SAM 3 and SAM 2 endpoints: concept and visual segmentation, image embedding."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from inference_server.api.dependencies import (
    allow_raster_time,
    authenticate,
    state_of,
    timings_of,
)
from inference_server.api.headers import RESULT_HEADERS
from inference_server.api.openapi import COMMON_ERRORS, SCOPE_ERRORS, Answer, Operation
from inference_server.api.responses import respond
from inference_server.api.roboflow.forms import read_image_request
from inference_server.api.roboflow.prompts import image_ref, sam2_key
from inference_server.api.roboflow.tasks import OCTETS, TASKS
from inference_server.jobs.task import Task
from inference_server.segmentation.types import EmbeddingTarget
from schemas.roboflow import (
    EmbeddingFields,
    EmbeddingForm,
    EmbeddingRequest,
    EmbeddingResponse,
    ImageFields,
    ImageForgotten,
    Sam2EmbeddingFields,
    Sam2EmbeddingForm,
    Sam2EmbeddingRequest,
    Sam2SegmentationFields,
    Sam2SegmentationForm,
    Sam2SegmentationRequest,
    Sam2SegmentationResponse,
    Sam3SegmentationFields,
    Sam3SegmentationForm,
    Sam3SegmentationRequest,
    Sam3SegmentationResponse,
    VisualSegmentationFields,
    VisualSegmentationForm,
    VisualSegmentationRequest,
)

_CONCEPT_TASK = replace(TASKS["sam3/concept_segment"], request=Sam3SegmentationRequest)
_VISUAL_TASK = replace(TASKS["sam3/visual_segment"], request=VisualSegmentationRequest)
_SAM2_TASK = replace(_VISUAL_TASK, request=Sam2SegmentationRequest)


async def _run(request: Request, task: Task, fields: type[ImageFields]) -> Response:
    """Run a task and respond with its result.

    Args:
        request: the request, with JSON or a form.
        task: the task.
        fields: schema of the form's fields without the image.
    """
    sent = await read_image_request(request, task.request, fields, task.work, rasters=True)
    context = replace(
        state_of(request).task_context,
        upload=sent.file,
        raster=sent.source,
        by_windows=partial(_by_windows, request, sent.tenant.name),
    )
    result = await task.run(context, sent.tenant, sent.body, timings_of(request))
    if result.body is not None:
        return await respond(request, result.image, result.body)
    files = result.files
    assert files is not None  # noqa: S101 - a result has a body or files
    return await respond(request, result.image, lambda: files()[0].content, OCTETS)


@contextmanager
def _by_windows(request: Request, tenant: str) -> Iterator[None]:
    """Give a request the time of a raster, and a slot; see `TaskContext.by_windows`."""
    allow_raster_time(request)
    with state_of(request).raster_slots.enter(tenant):
        yield


async def concept_segment(request: Request) -> Response:
    """Find every instance of each concept (PCS)."""
    return await _run(request, _CONCEPT_TASK, Sam3SegmentationFields)


async def visual_segment(request: Request) -> Response:
    """Segment one object per prompt (PVS)."""
    return await _run(request, _VISUAL_TASK, VisualSegmentationFields)


async def segment_image(request: Request) -> Response:
    """Segment one object per prompt with SAM 2 (PVS)."""
    return await _run(request, _SAM2_TASK, Sam2SegmentationFields)


async def _embed(
    request: Request,
    schema: type[EmbeddingRequest],
    fields: type[EmbeddingFields],
    *,
    with_concepts: bool,
) -> Response:
    begin = time.perf_counter()
    sent = await read_image_request(request, schema, fields, lambda body: ["embed"])
    body: EmbeddingFields = sent.body
    segmenter, model = state_of(request).segmenter, sam2_key(body.sam2_version_id)
    targets = []
    if not with_concepts or model is not None or segmenter.catalog.answers_points:
        targets.append(EmbeddingTarget("visual", model))
    if with_concepts:
        targets.append(EmbeddingTarget("concept"))
    encoded = await segmenter.embed(
        sent.tenant.name,
        image_ref(body, upload=sent.file),
        targets,
        timings_of(request),
        overwrite=body.replace,
    )
    name = body.image_id or encoded.digest
    return await respond(
        request, encoded, lambda: {"image_id": name, "time": time.perf_counter() - begin}
    )


async def embed_sam3(request: Request) -> Response:
    """Encode an image for concepts, and for points and boxes."""
    return await _embed(request, EmbeddingRequest, EmbeddingFields, with_concepts=True)


async def embed_sam2(request: Request) -> Response:
    """Encode an image for SAM 2."""
    return await _embed(request, Sam2EmbeddingRequest, Sam2EmbeddingFields, with_concepts=False)


async def forget_image(request: Request) -> Response:
    """Remove an image from the caches."""
    tenant = authenticate(request).tenant
    image_id = request.path_params["image_id"]
    found = await state_of(request).segmenter.forget_image(tenant.name, image_id)
    return JSONResponse({"image_id": image_id, "forgotten": found})


_VISUAL_ANSWERS = {
    200: Answer(
        "One mask per prompt.",
        Sam2SegmentationResponse,
        raw={OCTETS: "binary"},
        headers=RESULT_HEADERS,
    ),
    **COMMON_ERRORS,
}

_EMBEDDING_ANSWERS = {
    200: Answer("The image is encoded and cached.", EmbeddingResponse, headers=RESULT_HEADERS),
    **COMMON_ERRORS,
}

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "post",
        "/sam3/concept_segment",
        "conceptSegment",
        "Promptable concept segmentation (PCS)",
        "Finds every instance of each concept, given by text, exemplar boxes or both. Uses SAM 3.",
        ("Segmentation",),
        concept_segment,
        {
            200: Answer(
                "The instances of each prompt.", Sam3SegmentationResponse, headers=RESULT_HEADERS
            ),
            **COMMON_ERRORS,
        },
        request=Sam3SegmentationRequest,
        form=Sam3SegmentationForm,
    ),
    Operation(
        "post",
        "/sam3/visual_segment",
        "visualSegment",
        "Promptable visual segmentation (PVS)",
        "Segments one object per prompt, given by points, a box or both. Uses SAM 3 if its "
        "checkpoint has the visual head, and SAM 2 otherwise or if `sam2_version_id` is given.",
        ("Segmentation",),
        visual_segment,
        _VISUAL_ANSWERS,
        request=VisualSegmentationRequest,
        form=VisualSegmentationForm,
    ),
    Operation(
        "post",
        "/sam2/segment_image",
        "segmentImage",
        "Promptable visual segmentation with SAM 2",
        "The same as `/sam3/visual_segment`, but always with SAM 2.",
        ("Segmentation",),
        segment_image,
        _VISUAL_ANSWERS,
        request=Sam2SegmentationRequest,
        form=Sam2SegmentationForm,
    ),
    Operation(
        "post",
        "/sam3/embed_image",
        "embedImageSam3",
        "Encode an image ahead of time for all prompts",
        "Encodes the image for concepts, and for points and boxes; once if SAM 3 answers both. "
        "Later requests with the returned `image_id` reuse the embedding.",
        ("Segmentation",),
        embed_sam3,
        _EMBEDDING_ANSWERS,
        request=EmbeddingRequest,
        form=EmbeddingForm,
    ),
    Operation(
        "post",
        "/sam2/embed_image",
        "embedImageSam2",
        "Encode an image ahead of time for SAM 2",
        "Later requests with the returned `image_id` reuse the embedding.",
        ("Segmentation",),
        embed_sam2,
        _EMBEDDING_ANSWERS,
        request=Sam2EmbeddingRequest,
        form=Sam2EmbeddingForm,
    ),
    Operation(
        "delete",
        "/images/{image_id}",
        "forgetImage",
        "Remove a cached image",
        "Removes the file, the embeddings and the saved clicks that are cached under an "
        "`image_id`, which can then name another image. Jobs that were accepted keep their image. "
        "Percent-encode the id.",
        ("Segmentation",),
        forget_image,
        {
            200: Answer("The image is not cached any more.", ImageForgotten),
            **SCOPE_ERRORS,
            500: COMMON_ERRORS[500],
            504: COMMON_ERRORS[504],
        },
        parameters=(
            MappingProxyType(
                {
                    "name": "image_id",
                    "in": "path",
                    "required": True,
                    "description": "The `image_id` of the requests, or the id that embedding the "
                    "image returned.",
                    "schema": {"type": "string"},
                }
            ),
        ),
        # An id may contain slashes.
        route="/images/{image_id:path}",
    ),
)
