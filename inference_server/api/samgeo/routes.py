"""samgeo's endpoints: uploads in; GeoJSON, boxes or rasters of ids out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic

from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.dependencies import ModelT, state_of, timings_of
from inference_server.api.headers import RESULT_HEADERS
from inference_server.api.openapi import Answer, Operation, common_errors
from inference_server.api.responses import respond
from inference_server.api.samgeo.errors import check_form
from inference_server.api.samgeo.models import automatic_version, model_of
from inference_server.api.samgeo.prompts import SamgeoPrompts, automatic_options, concept_prompt
from inference_server.api.samgeo.results import (
    GEOJSON_FORMATS,
    RenderOptions,
    SamgeoObjects,
    headers,
    map_coordinates,
    media_type,
)
from inference_server.api.uploads import Upload, uploaded
from inference_server.auth import Work
from inference_server.engines.catalog import ModelKey
from inference_server.errors import NothingFoundError, RequestError
from inference_server.geo import GeoRaster
from inference_server.segmentation.types import (
    ConceptOptions,
    ConceptPrompt,
    EncodedImage,
    ImageRef,
    SegmentationResult,
    VisualOptions,
    VisualPrompt,
)
from schemas import samgeo as forms
from schemas.samgeo import AutomaticRequest, ErrorDetail, PredictRequest, TextRequest

_EVERYTHING = "everything"
"""Text prompt of automatic segmentation with SAM 3."""


class _ImageTask(Generic[ModelT]):
    """Runs prompts on an uploaded image, and responds with the objects.

    Args:
        request: the request.
        upload: its form.

    Attributes:
        form: the form's fields.
        file: the image file; its georeference and valid mask are read once.
    """

    def __init__(self, request: Request, upload: Upload[ModelT]) -> None:
        self._request = request
        self._timings = timings_of(request)
        self._segmenter = state_of(request).segmenter
        self._tenant = upload.tenant.name
        self._image = ImageRef(file=upload.image)
        self.form: Any = upload.body
        settings = state_of(request).settings
        self.file = GeoRaster(
            upload.image.data,
            max_metadata_items=settings.max_tiff_metadata_items,
            max_calls=settings.max_transformations,
        )

    def _model(self, version: str) -> ModelKey | None:
        """The model that `model_id` selects; None for the server's choice of SAM 3."""
        return model_of(self._segmenter.catalog, version, self.form.model_id)

    async def check_crs(self) -> None:
        """Check the CRS of the response before the expensive work.

        Raises:
            RequestError: it is unknown, or the image has none.
        """
        if crs := self._crs:
            await self._segmenter.in_slow_thread(lambda: map_coordinates(self.file.reference, crs))

    @property
    def _crs(self) -> str | None:
        form = self.form
        return form.geojson_crs if form.output_format in GEOJSON_FORMATS else None

    async def prompts(self) -> SamgeoPrompts:
        """Parse the form's points and boxes, and convert them to pixels.

        Raises:
            RequestError: they are missing or invalid.
        """
        form, limits = self.form, state_of(self._request).limits
        if form.point_coords is None and form.boxes is None:
            raise RequestError("At least one of point_coords or boxes must be provided.")

        prompts = await self._segmenter.in_thread(lambda: SamgeoPrompts.of(form, limits))
        if form.point_crs is None:
            return prompts
        crs = form.point_crs
        return await self._segmenter.in_slow_thread(
            lambda: prompts.in_pixels(crs, self.file.reference)
        )

    async def concept(self, prompt: ConceptPrompt) -> SegmentationResult:
        """Find every instance of a concept."""
        options = ConceptOptions(within=True)
        return await self._segmenter.concept(
            self._tenant,
            self._image,
            [prompt],
            options,
            timings=self._timings,
            model=self._model("sam3"),
        )

    async def visual(self, prompts: Sequence[VisualPrompt]) -> SegmentationResult:
        """Segment one object per prompt, or return three candidates per prompt."""
        multimask = self.form.multimask_output
        return await self._segmenter.visual(
            self._tenant,
            self._image,
            prompts,
            VisualOptions(multimask=multimask, best=not multimask, within=True),
            timings=self._timings,
            model=self._model(self.form.model_version),
        )

    async def automatic(self) -> SegmentationResult:
        """Segment every object."""
        options = automatic_options(self.form)
        return await self._segmenter.automatic(
            self._tenant,
            self._image,
            options,
            timings=self._timings,
            model=self._model(self.form.model_version),
        )

    async def respond(
        self, result: SegmentationResult, options: RenderOptions, nothing: str | None = None
    ) -> Response:
        """Respond with the objects in the form's output format.

        Args:
            result: the instances found.
            options: how the objects are rendered.
            nothing: error message if no object remains; default None, for an empty response.

        Raises:
            NothingFoundError: no object remains, and `nothing` is given.
        """
        form = self.form

        def render() -> object:
            with self._timings.measure("masks"):
                objects = SamgeoObjects.of(
                    result,
                    self.file,
                    options,
                    min_size=form.min_size,
                    max_size=form.max_size,
                    crs=self._crs,
                )
            if nothing is not None and not objects.instances:
                raise NothingFoundError(nothing)
            return objects.render(form.output_format)

        await self._segmenter.in_slow_thread(self.file.read)
        name = form.output_format
        return await respond(self._request, result.image, render, media_type(name), headers(name))


def _work_of_predict(body: PredictRequest) -> Sequence[Work]:
    if body.model_version != "sam3":
        return ["visual"]
    work: list[Work] = [] if body.boxes is None else ["concept"]
    if body.point_coords is not None:
        work.append("visual")
    return work


async def segment_text(request: Request) -> Response:
    """Find every instance of a concept given by text (PCS)."""
    async with uploaded(request, TextRequest, lambda body: ["concept"]) as upload:
        form = upload.body
        check_form(form, "sam3", state_of(request).segmenter.catalog, form.backend)
        task = _ImageTask(request, upload)
        await task.check_crs()
        prompt = concept_prompt(form.prompt, threshold=form.confidence_threshold)
        nothing = (
            "No objects found for the given prompt. "
            "Please try a different prompt or adjust parameters."
        )
        return await task.respond(
            await task.concept(prompt), RenderOptions(own_boxes=True), nothing
        )


async def segment_automatic(request: Request) -> Response:
    """Segment every object: with a grid of points, or the text `everything` (SAM 3)."""
    followed = state_of(request).settings.samgeo_version

    def work(body: AutomaticRequest) -> Sequence[Work]:
        return ["concept" if automatic_version(body, followed) == "sam3" else "automatic"]

    async with uploaded(request, AutomaticRequest, work) as upload:
        version = automatic_version(upload.body, followed)
        form = upload.body.model_copy(update={"model_version": version})
        upload = replace(upload, body=form)
        check_form(form, version, state_of(request).segmenter.catalog)
        task = _ImageTask(request, upload)
        await task.check_crs()
        if form.model_version == "sam3":
            result = await task.concept(concept_prompt(_EVERYTHING))
            nothing = "No objects found for automatic segmentation."
            return await task.respond(result, RenderOptions(unique=form.unique), nothing)
        options = RenderOptions(unique=form.unique, foreground=form.foreground, by_area=True)
        return await task.respond(await task.automatic(), options)


async def segment_predict(request: Request) -> Response:
    """Segment by points and boxes: PVS, but boxes with SAM 3 are exemplars (PCS)."""
    async with uploaded(request, PredictRequest, _work_of_predict) as upload:
        form = upload.body
        check_form(form, form.model_version, state_of(request).segmenter.catalog)
        task = _ImageTask(request, upload)
        await task.check_crs()
        prompts = await task.prompts()
        results = []
        if form.model_version != "sam3":
            results.append(await task.visual(prompts.objects()))
        else:
            if len(prompts.boxes):
                results.append(await task.concept(concept_prompt(boxes=prompts.boxes)))
            if len(prompts.points):
                results.append(await task.visual([prompts.object_of_points]))
        joined = SegmentationResult(
            EncodedImage.joined([result.image for result in results]),
            [each for result in results for each in result.instances],
        )
        nothing = "No objects found for the given prompts."
        return await task.respond(joined, RenderOptions(), nothing)


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
