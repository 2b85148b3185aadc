"""Images that are segmented by windows: opened from wherever they are, and searched."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import cv2
from pydantic import BaseModel

from inference_server.api.roboflow.prompts import image_ref, visual_options, visual_prompts
from inference_server.auth import Tenant
from inference_server.engines.base import ConceptPrompt
from inference_server.engines.catalog import ModelKey
from inference_server.errors import ImageTooLargeError, PromptError
from inference_server.images.raster import parse_bands
from inference_server.images.raster_source import RasterSource
from inference_server.images.window import Window
from inference_server.images.window_reader import RasterLimits
from inference_server.jobs.progress import JobProgress
from inference_server.jobs.task import TaskContext
from inference_server.observability.metrics import Timings
from inference_server.segmentation.tiling import (
    Progress,
    SeamOptions,
    TiledObjects,
    TiledResult,
    checked_tile_size,
    plan_grid,
    segment_tiled,
    tile_size_of,
    with_exemplars,
)
from inference_server.segmentation.tiling.around import segment_prompts
from inference_server.segmentation.types import (
    ConceptOptions,
    ImageRef,
    Instance,
    SegmentationResult,
    StoredImage,
    TilingOptions,
)
from inference_server.settings import MiB, Settings
from schemas.roboflow import (
    ImageFields,
    ImageRequest,
    JobSource,
    Sam3SegmentationFields,
    VisualSegmentationFields,
    WindowOptions,
)


def name_of(body: BaseModel) -> str | None:
    """Name of a request's file in the server's directory of rasters; None if it sends another."""
    image = body.image if isinstance(body, ImageRequest) else None
    return image.value if isinstance(image, JobSource) and image.type == "file" else None


def wants_source(context: TaskContext, body: WindowOptions) -> bool:
    """Whether the file of a request must be opened before it is known how to segment it.

    Args:
        context: the form's file, if it is too large to be read as a whole.
        body: the request.
    """
    if context.raster is not None or body.bands is not None or body.tiles == "always":
        return True
    return body.tile_size is not None and body.tiles == "auto"


@asynccontextmanager
async def opened(
    context: TaskContext, tenant: Tenant, body: ImageFields, timings: Timings
) -> AsyncIterator[RasterSource]:
    """Open the file of a request while the block runs.

    Args:
        context: where the file may come from.
        tenant: owner of the image.
        body: the request.
        timings: receives the duration of each step.

    Yields:
        The file: a form's, one of the server's directory, a download, or that of an id.

    Raises:
        InferenceServerError: there is no such file, or it exceeds a limit.
    """
    if context.raster is not None:
        yield context.raster
        return
    image = body.image if isinstance(body, ImageRequest) else None
    if image is not None and image.type != "base64":
        found = (
            context.rasters.in_directory(image.value)
            if name_of(body) is not None
            else context.rasters.by_url(tenant.name, image.value, timings)
        )
        async with found as source:
            yield source
        return
    reference = image_ref(body, context.image, context.upload)
    stored = await context.segmenter.read(tenant.name, reference, timings)
    with RasterSource(stored.data, RasterLimits.of(context.settings)) as source:
        yield source


def whole_image(source: RasterSource, body: WindowOptions, settings: Settings) -> StoredImage:
    """Read a file that is not segmented by windows; call it in a worker thread.

    Args:
        source: the file.
        body: the request; its bands are shown.
        settings: limits of an image.
    """
    if body.bands is None:
        return StoredImage(source.content(), source.digest)
    with source.reader(parse_bands(body.bands)) as reader:
        height, width = reader.size
        pixels = reader.read(Window(0, 0, width, height)).pixels
    colours = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return StoredImage.of(cv2.imencode(".bmp", colours)[1].tobytes())


async def concept_windows(
    context: TaskContext,
    tenant: Tenant,
    source: RasterSource,
    body: Sam3SegmentationFields,
    prompts: Sequence[ConceptPrompt],
    model: ModelKey | None,
    objects: TiledObjects,
    timings: Timings,
) -> TiledResult:
    """Find every instance of each concept in a raster.

    Args:
        context: the segmentation service; a job's progress is reported.
        tenant: owner of the raster.
        source: the raster.
        body: size and overlap of windows, and NMS.
        prompts: the concepts.
        model: the SAM 3 that answers.
        objects: receives the objects.
        timings: receives the duration of each step.

    Raises:
        InferenceServerError: a window cannot be read or searched, or a limit is exceeded.
    """
    segmenter, settings = context.segmenter, context.settings
    bands = None if body.bands is None else parse_bands(body.bands)
    side = await tile_size_of(segmenter, "concept", model)
    tiling = TilingOptions(body.tile_size, body.tile_overlap)
    reader = await segmenter.in_slow_thread(partial(source.reader, bands))
    with reader:
        grid = plan_grid(settings, reader.size, tiling, side)
        usable = await with_exemplars(
            *(segmenter, tenant.name, reader, prompts, max(grid.tile)),
            timings=timings,
            model=model,
        )

        async def search(image: ImageRef, window: Window) -> SegmentationResult:
            return await segmenter.concept(
                tenant.name, image, usable, ConceptOptions(), timings=timings, model=model
            )

        return await segment_tiled(
            *(segmenter, reader, search, grid),
            SeamOptions(
                nms_iou_threshold=body.nms_iou_threshold,
                max_bytes=settings.tile_memory_mb * MiB,
            ),
            objects=objects,
            settings=settings,
            progress=partial(_report, context),
        )


def _report(context: TaskContext, progress: Progress) -> None:
    """Report the progress of a job."""
    if context.attempt is not None:
        done = (progress.done, progress.total, progress.skipped, progress.objects)
        context.attempt.report(JobProgress(*done))


async def visual_windows(
    context: TaskContext,
    tenant: Tenant,
    source: RasterSource,
    body: VisualSegmentationFields,
    model: ModelKey | None,
    timings: Timings,
) -> SegmentationResult:
    """Segment one object per prompt in a raster, in windows around the prompts.

    Args:
        context: the segmentation service.
        tenant: owner of the raster.
        source: the raster.
        body: the request.
        model: the model that answers.
        timings: receives the duration of each step.

    Raises:
        InferenceServerError: a window cannot be read or searched, or the request is not possible.
    """
    if body.mask_format == "binary":
        raise PromptError(
            "format binary holds whole planes, which are too large for this raster; send format "
            "rle or polygon.",
            ("body", "format"),
        )
    segmenter = context.segmenter
    side = await tile_size_of(segmenter, "visual", model)
    side = checked_tile_size(context.settings, None, side)
    with ExitStack() as stack:
        reader = stack.enter_context(await segmenter.in_slow_thread(source.reader))
        options = replace(visual_options(body), within=True)
        return await segment_prompts(
            *(segmenter, tenant.name, reader, visual_prompts(body), options, side),
            timings=timings,
            model=model,
        )


def in_memory(objects: TiledObjects, settings: Settings) -> list[Instance]:
    """Load the objects of a raster for a response in JSON, best first within a prompt.

    Args:
        objects: the objects.
        settings: how many they may be, and how large.

    Raises:
        ImageTooLargeError: they are too many, or too large.
    """
    count, most = len(objects), settings.max_json_objects
    megabytes = math.ceil(objects.nbytes / MiB)
    remedy = (
        "Submit a job with files, such as geojson, which has no such limit, use `inference-server "
        "segment`, raise output_prob_thresh, or send a part of the raster; the limit is"
    )
    if count > most:
        raise ImageTooLargeError(
            f"The raster has {count} objects; at most {most} are returned as JSON. {remedy} "
            "INFERENCE_MAX_JSON_OBJECTS."
        )
    if objects.nbytes > settings.max_json_objects_mb * MiB:
        raise ImageTooLargeError(
            f"The raster's objects have {megabytes} MiB; at most {settings.max_json_objects_mb} "
            f"MiB are returned as JSON. {remedy} INFERENCE_MAX_JSON_OBJECTS_MB."
        )
    return sorted(objects, key=lambda each: (each.prompt, -each.score))
