"""Concept and visual segmentation, run by an endpoint at once or by a job worker later."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from inference_server.api.model_ids import concept_model_of
from inference_server.api.roboflow.prompts import (
    concept_prompts,
    id_alone,
    image_ref,
    sam2_key,
    visual_options,
    visual_prompts,
)
from inference_server.api.roboflow.raster_files import result_files
from inference_server.api.roboflow.rasters import (
    concept_windows,
    in_memory,
    name_of,
    opened,
    visual_windows,
    wants_source,
    whole_image,
)
from inference_server.api.roboflow.results import concept_results, npz_archive, visual_results
from inference_server.api.window_choice import WindowChoice
from inference_server.auth import Tenant
from inference_server.errors import ImageTooLargeError
from inference_server.images.raster_source import RasterSource
from inference_server.jobs.task import ResultFile, Task, TaskContext, TaskResult
from inference_server.observability.metrics import Timings
from inference_server.segmentation.tiling import TiledObjects
from inference_server.segmentation.types import (
    ConceptOptions,
    EncodedImage,
    ImageRef,
    Instance,
    SegmentationResult,
)
from inference_server.settings import MiB
from schemas.roboflow import (
    ConceptJobRequest,
    ImageFields,
    ImageRequest,
    Sam3SegmentationFields,
    VisualJobRequest,
    VisualSegmentationFields,
    WindowOptions,
)

T = TypeVar("T")

OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request on an image that may be too large to be encoded as a whole.

    Attributes:
        context: what the task needs from the process.
        tenant: owner of the image.
        body: the request.
        windows: how it may be segmented by windows.
        timings: receives the duration of each step.
        open: open the file in any case, because the result needs it.
    """

    context: TaskContext
    tenant: Tenant
    body: ImageFields
    windows: WindowOptions
    timings: Timings
    open: bool = False

    async def answered(
        self,
        whole: Callable[[ImageRef, RasterSource | None], Awaitable[T]],
        by_windows: Callable[[RasterSource], Awaitable[T]],
    ) -> T:
        """Answer the request, with the whole image if that is possible.

        Args:
            whole: answers with the whole image; with its file if that was opened.
            by_windows: answers with windows of the file.

        Raises:
            InferenceServerError: the image cannot be loaded, or the request is not possible.
        """
        context, body, windows = self.context, self.body, self.windows
        too_large: ImageTooLargeError | None = None
        named = name_of(body) is not None
        if not (self.open or named or wants_source(context, windows)):
            try:
                return await whole(image_ref(body, context.image, context.upload), None)
            except ImageTooLargeError as error:
                if windows.tiles == "never":
                    raise
                too_large = error
        async with AsyncExitStack() as stack:
            image = body.image if isinstance(body, ImageRequest) else None
            is_slow = (
                named or context.raster is not None or (image is not None and image.type == "url")
            )
            if is_slow:
                stack.enter_context(context.by_windows())
            source = await stack.enter_async_context(
                opened(context, self.tenant, body, self.timings)
            )
            if too_large is not None and not source.is_tiff:
                raise too_large
            run, settings = context.segmenter.in_slow_thread, context.settings
            choice = WindowChoice.of_images(settings)
            asked = windows.tiles, windows.tile_size
            if await run(partial(choice.uses_windows, source, *asked, settings)):
                if not is_slow:
                    stack.enter_context(context.by_windows())
                return await by_windows(source)
            stored = await run(partial(whole_image, source, windows, settings))
            name = body.image_id if windows.bands is None and not named else None
            return await whole(ImageRef(file=stored, image_id=name), source)


async def run_concept_segment(
    context: TaskContext, tenant: Tenant, body: Sam3SegmentationFields, timings: Timings
) -> TaskResult:
    """Find every instance of each concept (PCS)."""
    begin = time.perf_counter()
    key = concept_model_of(context.segmenter.catalog, body.model_id)
    prompts = concept_prompts(body)
    segmenter, settings = context.segmenter, context.settings
    job = body if isinstance(body, ConceptJobRequest) and body.files else None

    def answer(image: EncodedImage | None, instances: Sequence[Instance]) -> TaskResult:
        def render() -> dict[str, Any]:
            results = concept_results(body.prompts, instances, body)
            return {"prompt_results": results, "time": time.perf_counter() - begin}

        return TaskResult(image, render)

    def store(size: tuple[int, int]) -> TiledObjects:
        return TiledObjects(size, max_bytes=settings.tile_objects_mb * MiB)

    async def written(
        source: RasterSource, image: EncodedImage | None, objects: TiledObjects
    ) -> TaskResult:
        assert job is not None  # noqa: S101 - called for jobs with files
        model = "" if image is None else image.model
        write = partial(result_files, source, objects, job, model, settings)
        files = await segmenter.in_slow_thread(write)
        return TaskResult(image, files=lambda: files)

    async def whole(image: ImageRef, source: RasterSource | None) -> TaskResult:
        options = ConceptOptions(nms_iou_threshold=body.nms_iou_threshold)
        result = await segmenter.concept(
            tenant.name, image, prompts, options, timings=timings, model=key
        )
        if job is None or source is None:
            return answer(result.image, result.instances)
        with store(result.image.embedding.size) as objects:

            def add() -> None:
                for each in result.instances:
                    if not each.mask.is_empty:
                        objects.add(each)

            await segmenter.in_thread(add)
            return await written(source, result.image, objects)

    async def by_windows(source: RasterSource) -> TaskResult:
        with store(source.size) as objects:
            found = await concept_windows(
                context, tenant, source, body, prompts, key, objects, timings
            )
            if job is not None:
                return await written(source, found.image, objects)
            load = partial(in_memory, objects, settings)
            return answer(found.image, await segmenter.in_slow_thread(load))

    sent = _Sent(context, tenant, body, body, timings, open=job is not None)
    return await sent.answered(whole, by_windows)


async def run_visual_segment(
    context: TaskContext, tenant: Tenant, body: VisualSegmentationFields, timings: Timings
) -> TaskResult:
    """Segment one object per prompt (PVS)."""
    begin = time.perf_counter()
    key = sam2_key(body.sam2_version_id)

    async def whole(image: ImageRef, _: RasterSource | None) -> SegmentationResult:
        return await context.segmenter.visual(
            *(tenant.name, image, visual_prompts(body), visual_options(body)),
            timings=timings,
            model=key,
        )

    async def by_windows(source: RasterSource) -> SegmentationResult:
        return await visual_windows(context, tenant, source, body, key, timings)

    sent = _Sent(context, tenant, body, WindowOptions(), timings)
    result = await sent.answered(whole, by_windows)

    def render() -> dict[str, Any]:
        results = visual_results(result.instances, body)
        return {**results, "time": time.perf_counter() - begin}

    most = context.settings.max_binary_mb * MiB

    def archive() -> tuple[ResultFile, ...]:
        content = npz_archive(result, most, boxes=body.include_boxes)
        return (ResultFile("masks.npz", OCTETS, content),)

    if body.mask_format == "binary":
        return TaskResult(result.image, files=archive)
    return TaskResult(result.image, render)


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "sam3/concept_segment": Task(
            ConceptJobRequest,
            run_concept_segment,
            lambda body: ["concept"],
            id_alone,
            lambda catalog, body: concept_model_of(catalog, body.model_id),
        ),
        "sam3/visual_segment": Task(
            VisualJobRequest,
            run_visual_segment,
            lambda body: ["visual"],
            id_alone,
            lambda catalog, body: catalog.checkpoint(
                catalog.visual(sam2_key(body.sam2_version_id))
            ),
        ),
    }
)
"""Tasks that can also run as jobs, by the path below `/v2/`, with the requests of jobs."""
