"""Roboflow's SAM 3 and SAM 2 endpoints: PCS, PVS, and embedding an image ahead of time."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.dependencies import read, state_of, timings_of
from inference_server.api.openapi import COMMON_ERRORS, RESULT_HEADERS, Answer, Operation
from inference_server.api.responses import answer
from inference_server.auth import Tenant
from inference_server.engines.base import ConceptPrompt, VisualPrompt
from inference_server.engines.weights import SAM3_NAME
from inference_server.errors import ImageTooLargeError, PromptError
from inference_server.jobs.task import ResultFile, Task, TaskContext, TaskResult
from inference_server.masks import Mask, encode_rle, polygons
from inference_server.observability.metrics import Timings
from inference_server.segmentation.types import (
    ConceptOptions,
    ImageRef,
    Instance,
    SegmentationResult,
    VisualOptions,
)
from inference_server.settings import MiB
from schemas.roboflow import (
    EmbeddingRequest,
    EmbeddingResponse,
    ImageRequest,
    Sam2Prompt,
    Sam2SegmentationRequest,
    Sam2SegmentationResponse,
    Sam3Prompt,
    Sam3SegmentationRequest,
    Sam3SegmentationResponse,
)

T = TypeVar("T")

_MODEL_IDS = ("sam3/sam3_final",)
_OCTETS = "application/octet-stream"


def _image(request: ImageRequest) -> ImageRef:
    image = request.image
    return ImageRef(
        url=image.value if image is not None and image.type == "url" else None,
        base64=image.value if image is not None and image.type == "base64" else None,
        image_id=request.image_id,
    )


def _floats(rows: Sequence[Sequence[float]], columns: int) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, columns)


def _concept_prompt(prompt: Sam3Prompt, threshold: float) -> ConceptPrompt:
    return ConceptPrompt(
        text=prompt.text,
        boxes=_floats([box.corners for box in prompt.boxes], 4),
        labels=np.array(prompt.labels, np.int64),
        threshold=threshold,
    )


def _visual_prompt(prompt: Sam2Prompt) -> VisualPrompt:
    return VisualPrompt(
        points=_floats([(point.x, point.y) for point in prompt.points], 2),
        labels=np.array([point.positive for point in prompt.points], np.int64),
        box=None if prompt.box is None else np.array(prompt.box.corners, np.float32),
    )


def _masks(mask: Mask, mask_format: str) -> Any:
    if mask_format == "rle":
        return encode_rle(mask)
    return polygons(mask)


def _prediction(instance: Instance, mask_format: str) -> dict[str, Any]:
    return {
        "format": mask_format,
        "confidence": instance.score,
        "masks": _masks(instance.mask, mask_format),
    }


async def run_concept_segment(
    context: TaskContext, tenant: Tenant, body: Sam3SegmentationRequest, timings: Timings
) -> TaskResult:
    """PCS."""
    begin = time.perf_counter()
    if body.model_id not in _MODEL_IDS:
        raise PromptError(
            f"Unknown model_id. This server has {', '.join(_MODEL_IDS)}.", ("body", "model_id")
        )
    result = await context.segmenter.concept(
        tenant.name,
        _image(body),
        [
            _concept_prompt(prompt, threshold)
            for prompt, threshold in zip(body.prompts, body.thresholds, strict=True)
        ],
        ConceptOptions(nms_iou_threshold=body.nms_iou_threshold),
        timings=timings,
    )

    def render() -> dict[str, Any]:
        results = []
        for index, prompt in enumerate(body.prompts):
            echo: dict[str, Any] = {
                "prompt_index": index,
                "type": prompt.kind,
                "num_boxes": len(prompt.boxes),
            }
            if prompt.text is not None:
                echo["text"] = prompt.text
            found = [
                _prediction(instance, body.mask_format)
                for instance in result.instances
                if instance.prompt == index and not instance.mask.is_empty
            ]
            results.append({"prompt_index": index, "echo": echo, "predictions": found})
        return {"prompt_results": results, "time": time.perf_counter() - begin}

    return TaskResult(result.image, await _rendered(context, render, timings))


async def run_visual_segment(
    context: TaskContext, tenant: Tenant, body: Sam2SegmentationRequest, timings: Timings
) -> TaskResult:
    """PVS."""
    begin = time.perf_counter()
    result = await context.segmenter.visual(
        tenant.name,
        body.sam2_version_id,
        _image(body),
        [_visual_prompt(prompt) for prompt in body.prompts],
        VisualOptions(
            multimask=body.multimask_output,
            save_logits=body.save_logits_to_cache,
            load_logits=body.load_logits_from_cache,
            logits=body.mask_format == "binary",
        ),
        timings=timings,
    )
    if body.mask_format == "binary":
        limit = context.settings.max_binary_mb * MiB
        content = await _rendered(context, lambda: _npz(result, limit), timings)
        return TaskResult(result.image, files=(ResultFile("masks.npz", _OCTETS, content),))

    def render() -> dict[str, Any]:
        found = [_prediction(instance, body.mask_format) for instance in result.instances]
        return {
            "prompt_results": [
                {"prompt_index": index, "predictions": [prediction]}
                for index, prediction in enumerate(found)
            ],
            "predictions": found,
            "time": time.perf_counter() - begin,
        }

    return TaskResult(result.image, await _rendered(context, render, timings))


async def _rendered(context: TaskContext, work: Callable[[], T], timings: Timings) -> T:
    """Make an answer of masks, in a worker thread."""

    def render() -> T:
        with timings.measure("serialise"):
            return work()

    return await context.segmenter.in_thread(render)


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "sam3/concept_segment": Task(
            Sam3SegmentationRequest, run_concept_segment, lambda body: ["concept"]
        ),
        "sam3/visual_segment": Task(
            Sam2SegmentationRequest, run_visual_segment, lambda body: ["visual"]
        ),
    }
)
"""What can be a job too."""


async def _answered(request: Request, task: Task) -> Response:
    """Do a task at once."""
    tenant, body = await read(request, task.request, task.work)
    result = await task.run(state_of(request).task_context, tenant, body, timings_of(request))
    if result.files:
        (file,) = result.files
        return await answer(request, result.image, lambda: file.content, file.media_type)
    return await answer(request, result.image, lambda: result.body)


async def concept_segment(request: Request) -> Response:
    """PCS."""
    return await _answered(request, TASKS["sam3/concept_segment"])


async def visual_segment(request: Request) -> Response:
    """PVS."""
    return await _answered(request, TASKS["sam3/visual_segment"])


def _npz(result: SegmentationResult, limit: int) -> bytes:
    """`masks` as `bool[N, H, W]` and `low_res_masks` as `float32[N, h, w]`, compressed."""
    height, width = result.image.embedding.size
    if len(result.instances) * height * width > limit:
        raise ImageTooLargeError(
            f"{len(result.instances)} full-size masks are more than {limit // MiB} MiB. Ask for "
            "format rle, or for fewer prompts at a time, or raise INFERENCE_MAX_BINARY_MB."
        )
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        masks=np.stack([instance.mask.to_plane() for instance in result.instances]),
        low_res_masks=np.stack(
            [instance.logits for instance in result.instances if instance.logits is not None]
        ),
    )
    return buffer.getvalue()


async def _embed(request: Request, *, both: bool) -> Response:
    begin = time.perf_counter()
    tenant, body = await read(request, EmbeddingRequest, lambda body: ["embed"])
    models = [("sam2", body.sam2_version_id), *([("sam3", SAM3_NAME)] if both else [])]
    encoded = await state_of(request).segmenter.embed(
        tenant.name, _image(body), models, timings_of(request)
    )
    name = body.image_id or encoded.digest
    return await answer(
        request, encoded, lambda: {"image_id": name, "time": time.perf_counter() - begin}
    )


async def embed_sam3(request: Request) -> Response:
    """Warm both engines."""
    return await _embed(request, both=True)


async def embed_sam2(request: Request) -> Response:
    """Warm the PVS engine."""
    return await _embed(request, both=False)


_VISUAL_ANSWERS = {
    200: Answer(
        "One mask a prompt.",
        Sam2SegmentationResponse,
        raw={_OCTETS: "binary"},
        headers=RESULT_HEADERS,
    ),
    **COMMON_ERRORS,
}

_EMBEDDING_ANSWERS = {
    200: Answer("The image is cached.", EmbeddingResponse, headers=RESULT_HEADERS),
    **COMMON_ERRORS,
}

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "post",
        "/sam3/concept_segment",
        "conceptSegment",
        "Promptable concept segmentation (PCS)",
        "Finds every instance of each concept, by words, by exemplar boxes, or by both. SAM 3.",
        ("Segmentation",),
        concept_segment,
        {
            200: Answer(
                "The instances of each prompt.", Sam3SegmentationResponse, headers=RESULT_HEADERS
            ),
            **COMMON_ERRORS,
        },
        request=Sam3SegmentationRequest,
    ),
    Operation(
        "post",
        "/sam3/visual_segment",
        "visualSegment",
        "Promptable visual segmentation (PVS)",
        "Segments one object a prompt, by clicks, by a box, or by both. SAM 2.",
        ("Segmentation",),
        visual_segment,
        _VISUAL_ANSWERS,
        request=Sam2SegmentationRequest,
    ),
    Operation(
        "post",
        "/sam2/segment_image",
        "segmentImage",
        "Promptable visual segmentation, under its SAM 2 name",
        "The same as `/sam3/visual_segment`.",
        ("Segmentation",),
        visual_segment,
        _VISUAL_ANSWERS,
        request=Sam2SegmentationRequest,
    ),
    Operation(
        "post",
        "/sam3/embed_image",
        "embedImageSam3",
        "Encode an image ahead of time, for both engines",
        "The answer's `image_id` names the image in later requests that use the same id.",
        ("Segmentation",),
        embed_sam3,
        _EMBEDDING_ANSWERS,
        request=EmbeddingRequest,
    ),
    Operation(
        "post",
        "/sam2/embed_image",
        "embedImageSam2",
        "Encode an image ahead of time, for clicks and boxes",
        "The answer's `image_id` names the image in later requests that use the same id.",
        ("Segmentation",),
        embed_sam2,
        _EMBEDDING_ANSWERS,
        request=EmbeddingRequest,
    ),
)
