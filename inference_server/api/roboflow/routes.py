"""Roboflow's SAM 3 and SAM 2 endpoints: concept and visual segmentation, image embedding."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from inference_server.api.dependencies import authenticate, state_of, timings_of
from inference_server.api.headers import RESULT_HEADERS
from inference_server.api.model_ids import concept_model_of
from inference_server.api.openapi import COMMON_ERRORS, SCOPE_ERRORS, Answer, Operation
from inference_server.api.responses import respond
from inference_server.api.roboflow.forms import read_image_request
from inference_server.api.roboflow.prompts import (
    concept_prompts,
    id_alone,
    image_ref,
    sam2_key,
    visual_options,
    visual_prompts,
)
from inference_server.api.roboflow.results import concept_results, npz_archive, visual_results
from inference_server.auth import Tenant
from inference_server.jobs.task import ResultFile, Task, TaskContext, TaskResult
from inference_server.observability.metrics import Timings
from inference_server.segmentation.types import ConceptOptions, EmbeddingTarget
from inference_server.settings import MiB
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

_OCTETS = "application/octet-stream"


async def run_concept_segment(
    context: TaskContext, tenant: Tenant, body: Sam3SegmentationFields, timings: Timings
) -> TaskResult:
    """Find every instance of each concept (PCS)."""
    begin = time.perf_counter()
    key = concept_model_of(context.segmenter.catalog, body.model_id)
    result = await context.segmenter.concept(
        tenant.name,
        image_ref(body, context.image, context.upload),
        concept_prompts(body),
        ConceptOptions(nms_iou_threshold=body.nms_iou_threshold),
        timings=timings,
        model=key,
    )

    def render() -> dict[str, Any]:
        results = concept_results(body.prompts, result.instances, body)
        return {"prompt_results": results, "time": time.perf_counter() - begin}

    return TaskResult(result.image, render)


async def run_visual_segment(
    context: TaskContext, tenant: Tenant, body: VisualSegmentationFields, timings: Timings
) -> TaskResult:
    """Segment one object per prompt (PVS)."""
    begin = time.perf_counter()
    result = await context.segmenter.visual(
        tenant.name,
        image_ref(body, context.image, context.upload),
        visual_prompts(body),
        visual_options(body),
        timings=timings,
        model=sam2_key(body.sam2_version_id),
    )

    def render() -> dict[str, Any]:
        results = visual_results(result.instances, body)
        return {**results, "time": time.perf_counter() - begin}

    most = context.settings.max_binary_mb * MiB

    def archive() -> tuple[ResultFile, ...]:
        content = npz_archive(result, most, boxes=body.include_boxes)
        return (ResultFile("masks.npz", _OCTETS, content),)

    if body.mask_format == "binary":
        return TaskResult(result.image, files=archive)
    return TaskResult(result.image, render)


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "sam3/concept_segment": Task(
            Sam3SegmentationRequest,
            run_concept_segment,
            lambda body: ["concept"],
            id_alone,
            lambda catalog, body: concept_model_of(catalog, body.model_id),
        ),
        "sam3/visual_segment": Task(
            VisualSegmentationRequest,
            run_visual_segment,
            lambda body: ["visual"],
            id_alone,
            lambda catalog, body: catalog.checkpoint(
                catalog.visual(sam2_key(body.sam2_version_id))
            ),
        ),
    }
)
"""Tasks that can also run as jobs, by the path below `/v2/`."""

_SAM2_TASK = replace(TASKS["sam3/visual_segment"], request=Sam2SegmentationRequest)


async def _run(request: Request, task: Task, fields: type[ImageFields]) -> Response:
    """Run a task and respond with its result.

    Args:
        request: the request, with JSON or a form.
        task: the task.
        fields: schema of the form's fields without the image.
    """
    sent = await read_image_request(request, task.request, fields, task.work)
    context = state_of(request).task_context
    if sent.file is not None:
        context = replace(context, upload=sent.file)
    result = await task.run(context, sent.tenant, sent.body, timings_of(request))
    if result.body is not None:
        return await respond(request, result.image, result.body)
    files = result.files
    assert files is not None  # noqa: S101 - a result has a body or files
    return await respond(request, result.image, lambda: files()[0].content, _OCTETS)


async def concept_segment(request: Request) -> Response:
    """Find every instance of each concept (PCS)."""
    return await _run(request, TASKS["sam3/concept_segment"], Sam3SegmentationFields)


async def visual_segment(request: Request) -> Response:
    """Segment one object per prompt (PVS)."""
    return await _run(request, TASKS["sam3/visual_segment"], VisualSegmentationFields)


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
        raw={_OCTETS: "binary"},
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
