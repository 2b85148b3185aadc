"""samgeo's endpoints: uploads in; GeoJSON, boxes or rasters of ids out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.dependencies import allow_raster_time, state_of
from inference_server.api.headers import RESULT_HEADERS
from inference_server.api.openapi import Answer, Operation, common_errors
from inference_server.api.samgeo.errors import check_form
from inference_server.api.samgeo.models import automatic_version
from inference_server.api.samgeo.prompts import SamgeoPrompts, concept_prompt
from inference_server.api.samgeo.results import GEOJSON_FORMATS, RenderOptions, map_coordinates
from inference_server.api.samgeo.searches import Searches
from inference_server.api.samgeo.whole import WholeImage, stored_image
from inference_server.api.samgeo.windows import RasterByWindows
from inference_server.api.uploads import RasterUpload, uploaded_raster
from inference_server.api.window_choice import WindowChoice
from inference_server.auth import Work
from inference_server.errors import RequestError
from inference_server.geo import GeoRaster
from inference_server.images.raster import parse_bands
from schemas import samgeo as forms
from schemas.samgeo import (
    AutomaticRequest,
    ErrorDetail,
    PredictRequest,
    TextRequest,
    UploadRequest,
)

_EVERYTHING = "everything"
"""Text prompt of automatic segmentation with SAM 3."""


@asynccontextmanager
async def _begin(
    request: Request, upload: RasterUpload[Any], form: UploadRequest
) -> AsyncIterator[tuple[WholeImage | RasterByWindows, Searches, GeoRaster]]:
    """Decide whether the image is encoded as a whole or by windows, before the expensive work.

    Args:
        request: the request.
        upload: its form.
        form: the form's fields, with defaults.

    Yields:
        What runs prompts on the image; what sends them to the models; and the image's file.

    Raises:
        RequestError: the CRS of the response, or a band, is unknown.
        ImageError: the image cannot be read.
        ImageTooLargeError: it is too large.
        CapacityError: too many rasters are segmented by windows.
    """
    state = state_of(request)
    settings, source = state.settings, upload.source
    searches = Searches(request, upload.tenant, form)
    crs = form.geojson_crs if form.output_format in GEOJSON_FORMATS else None
    bands = None if form.bands is None else parse_bands(form.bands)
    file = GeoRaster(
        source.data,
        max_metadata_items=settings.max_tiff_metadata_items,
        max_calls=settings.max_transformations,
        bands=bands,
    )

    def look() -> bool:
        """Check the CRS of the response; return whether to use windows."""
        if crs is not None:
            map_coordinates(file.reference, crs)
        choice = WindowChoice.of_uploads()
        return choice.uses_windows(source, form.tiles, form.tile_size, settings)

    if not await state.segmenter.in_slow_thread(look):
        image = await state.segmenter.in_slow_thread(lambda: stored_image(source, bands))
        yield WholeImage(request, form, image, file, searches, crs), searches, file
        return
    allow_raster_time(request)
    with state.raster_slots.enter(upload.tenant.name):
        reader, reference = await state.segmenter.in_slow_thread(
            lambda: (source.reader(bands), file.reference)
        )
        with reader:
            task = RasterByWindows(request, form, reader, reference, searches, crs)
            yield task, searches, file


async def _prompts(request: Request, form: PredictRequest, file: GeoRaster) -> SamgeoPrompts:
    """Parse the form's points and boxes, and convert them to pixels.

    Raises:
        RequestError: they are missing or invalid.
    """
    state = state_of(request)
    if form.point_coords is None and form.boxes is None:
        raise RequestError("At least one of point_coords or boxes must be provided.")

    prompts = await state.segmenter.in_thread(lambda: SamgeoPrompts.of(form, state.limits))
    if form.point_crs is None:
        return prompts
    crs = form.point_crs
    return await state.segmenter.in_slow_thread(lambda: prompts.in_pixels(crs, file.reference))


def _work_of_predict(body: PredictRequest) -> Sequence[Work]:
    if body.model_version != "sam3":
        return ["visual"]
    work: list[Work] = [] if body.boxes is None else ["concept"]
    if body.point_coords is not None:
        work.append("visual")
    return work


async def segment_text(request: Request) -> Response:
    """Find every instance of a concept given by text (PCS)."""
    async with uploaded_raster(request, TextRequest, lambda body: ["concept"]) as upload:
        form = upload.body
        check_form(form, "sam3", state_of(request).segmenter.catalog, form.backend)
        async with _begin(request, upload, form) as (task, searches, _):
            prompt = concept_prompt(form.prompt, threshold=form.confidence_threshold)
            nothing = (
                "No objects found for the given prompt. "
                "Please try a different prompt or adjust parameters."
            )
            return await task.answer(
                lambda image: searches.concept(image, prompt, form.nms_iou_threshold),
                RenderOptions(own_boxes=True),
                nothing,
            )


async def segment_automatic(request: Request) -> Response:
    """Segment every object: with a grid of points, or the text `everything` (SAM 3)."""
    followed = state_of(request).settings.samgeo_version

    def work(body: AutomaticRequest) -> Sequence[Work]:
        return ["concept" if automatic_version(body, followed) == "sam3" else "automatic"]

    async with uploaded_raster(request, AutomaticRequest, work) as upload:
        version = automatic_version(upload.body, followed)
        form = upload.body.model_copy(update={"model_version": version})
        check_form(form, version, state_of(request).segmenter.catalog)
        async with _begin(request, upload, form) as (task, searches, _):
            if version != "sam3":
                options = RenderOptions(
                    unique=form.unique, foreground=form.foreground, by_area=True
                )
                return await task.answer(searches.automatic, options)
            prompt = concept_prompt(_EVERYTHING)
            return await task.answer(
                lambda image: searches.concept(image, prompt, form.nms_iou_threshold),
                RenderOptions(unique=form.unique),
                "No objects found for automatic segmentation.",
            )


async def segment_predict(request: Request) -> Response:
    """Segment by points and boxes: PVS, but boxes with SAM 3 are exemplars (PCS)."""
    async with uploaded_raster(request, PredictRequest, _work_of_predict) as upload:
        form = upload.body
        check_form(form, form.model_version, state_of(request).segmenter.catalog)
        async with _begin(request, upload, form) as (task, _, file):
            prompts = await _prompts(request, form, file)
            nothing = "No objects found for the given prompts."
            return await task.predict(prompts, RenderOptions(), nothing)


_ANSWERS = {
    200: Answer(
        "The objects in the requested `output_format`: JSON, a GeoTIFF or a PNG.",
        forms.SegmentationResult,
        raw={"image/tiff": "binary", "image/png": "binary"},
        headers=RESULT_HEADERS,
    ),
    **common_errors(ErrorDetail, "Detail"),
}
_FORM = "multipart/form-data"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "post",
        "/segment/automatic",
        "segmentAutomatic",
        "Segment everything",
        "Finds every object in the image, without a prompt.",
        ("Rasters",),
        segment_automatic,
        _ANSWERS,
        request=AutomaticRequest,
        request_type=_FORM,
    ),
    Operation(
        "post",
        "/segment/predict",
        "segmentPredict",
        "Segment by points or boxes",
        "Points and boxes are in pixels, or in the CRS `point_crs` if the image is georeferenced.",
        ("Rasters",),
        segment_predict,
        _ANSWERS,
        request=PredictRequest,
        request_type=_FORM,
    ),
    Operation(
        "post",
        "/segment/text",
        "segmentText",
        "Segment by text",
        "Finds every instance of a concept given by text.",
        ("Rasters",),
        segment_text,
        _ANSWERS,
        request=TextRequest,
        request_type=_FORM,
    ),
)
