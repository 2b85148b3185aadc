"""samgeo's endpoints: uploads in; GeoJSON, boxes, or rasters of ids out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.dependencies import state_of, timings_of
from inference_server.api.endpoint import message_wording
from inference_server.api.openapi import RESULT_HEADERS, Answer, Operation, common_errors
from inference_server.api.responses import answer
from inference_server.api.samgeo.prompts import Prompts
from inference_server.api.samgeo.results import Objects
from inference_server.api.uploads import Upload, uploaded
from inference_server.auth import Work
from inference_server.engines.base import ConceptPrompt, VisualPrompt
from inference_server.engines.weights import SAM2_IDS, SAM3_ID
from inference_server.errors import (
    InferenceServerError,
    InvalidRequestError,
    ModelUnavailableError,
    NothingFoundError,
    PromptError,
    RequestError,
)
from inference_server.geo import GeoReference
from inference_server.segmentation.types import (
    AutomaticOptions,
    ConceptOptions,
    EncodedImage,
    ImageRef,
    SegmentationResult,
    VisualOptions,
)
from schemas import samgeo as forms
from schemas.samgeo import (
    BACKENDS,
    MODEL_VERSIONS,
    OUTPUT_FORMATS,
    AutomaticRequest,
    ErrorDetail,
    PredictRequest,
    TextRequest,
    UploadRequest,
)

_MODEL_IDS = {
    "sam": ["vit_h", "vit_l", "vit_b"],
    "sam2": list(SAM2_IDS),
    "sam3": [SAM3_ID],
}
_EVERYTHING = "everything"
"""What SAM 3 is asked for when there is no prompt."""


def wording(error: InferenceServerError) -> dict[str, Any]:
    """`{"detail": ...}`: a text, or a list for a form that is not of the type."""
    if isinstance(error, InvalidRequestError | PromptError):
        return message_wording(error)
    return {"detail": error.message}


def _check(noun: str, value: str, known: Sequence[str], after: str = "") -> None:
    if value not in known:
        raise RequestError(f"Invalid {noun} {value!r}{after}. Must be one of: {list(known)}")


def _check_form(body: UploadRequest, version: str, backend: str = BACKENDS[0]) -> None:
    """What the contract wants to be told about a form, in its order.

    Raises:
        RequestError: a value that there is not.
        ModelUnavailableError: a model that this server has not.
    """
    if body.output_format not in OUTPUT_FORMATS:
        raise RequestError(
            f"Invalid output_format {body.output_format!r}. "
            f"Must be one of: {', '.join(OUTPUT_FORMATS)}"
        )
    if body.max_size is not None and 0 < body.max_size < body.min_size:
        raise RequestError(
            f"min_size ({body.min_size}) is larger than max_size ({body.max_size}): no object can "
            "be both. Send 0 for max_size, or nothing, for no limit."
        )
    _check("backend", backend, BACKENDS)
    _check("model_version", version, MODEL_VERSIONS)
    if body.model_id is not None:
        _check("model_id", body.model_id, _MODEL_IDS[version], f" for {version}")
    if version == "sam":
        raise ModelUnavailableError(
            "This server has no weights of the first SAM. Use model_version=sam2 for points, boxes "
            "and automatic segmentation, or model_version=sam3."
        )


class _Asked:
    """A request that was read and checked, and the ways in which it may be answered."""

    def __init__(self, request: Request, upload: Upload[Any]) -> None:
        self._timings = timings_of(request)
        self._state = state_of(request)
        self._tenant = upload.tenant.name
        self._image = ImageRef(file=upload.image)
        self._model_id: str | None = upload.body.model_id

    @property
    def version(self) -> str | None:
        """The SAM 2 that is asked; None is the largest that there is."""
        return SAM2_IDS.get(self._model_id or "")

    async def concept(
        self,
        text: str | None = None,
        boxes: NDArray[np.float32] | None = None,
        threshold: float = 0.5,
    ) -> SegmentationResult:
        """Everything like a word or like the contents of boxes."""
        boxes = np.zeros((0, 4), np.float32) if boxes is None else boxes
        prompt = ConceptPrompt(text, boxes, np.ones(len(boxes), np.int64), threshold)
        return await self._state.segmenter.concept(
            self._tenant,
            self._image,
            [prompt],
            ConceptOptions(within=True),
            timings=self._timings,
        )

    async def visual(
        self, prompts: Sequence[VisualPrompt], *, multimask: bool
    ) -> SegmentationResult:
        """One object a prompt, or its three candidates."""
        return await self._state.segmenter.visual(
            self._tenant,
            self.version,
            self._image,
            prompts,
            VisualOptions(multimask=multimask, best=not multimask, within=True),
            timings=self._timings,
        )

    async def automatic(self, options: AutomaticOptions) -> SegmentationResult:
        """Everything."""
        return await self._state.segmenter.automatic(
            self._tenant, self.version, self._image, options, timings=self._timings
        )


def _work_of_automatic(body: AutomaticRequest) -> Sequence[Work]:
    return ["concept" if body.model_version == "sam3" else "automatic"]


def _work_of_predict(body: PredictRequest) -> Sequence[Work]:
    if body.model_version != "sam3":
        return ["visual"]
    work: list[Work] = [] if body.boxes is None else ["concept"]
    if body.point_coords is not None:
        work.append("visual")
    return work


async def segment_text(request: Request) -> Response:
    """PCS by words."""
    async with uploaded(request, TextRequest, lambda body: ["concept"]) as upload:
        body = upload.body
        _check_form(body, "sam3", body.backend)
        result = await _Asked(request, upload).concept(
            body.prompt, threshold=body.confidence_threshold
        )
        nothing = (
            "No objects found for the given prompt. "
            "Please try a different prompt or adjust parameters."
        )
        return await _answer(request, upload, result, nothing, in_words=True)


async def segment_automatic(request: Request) -> Response:
    """Everything."""
    async with uploaded(request, AutomaticRequest, _work_of_automatic) as upload:
        body = upload.body
        _check_form(body, body.model_version)
        asked = _Asked(request, upload)
        if body.model_version == "sam3":
            result = await asked.concept(_EVERYTHING)
            nothing = "No objects found for automatic segmentation."
            return await _answer(request, upload, result, nothing, unique=body.unique)
        options = AutomaticOptions(
            points_per_side=body.points_per_side,
            pred_iou_threshold=body.pred_iou_thresh,
            stability_threshold=body.stability_score_thresh,
        )
        return await _answer(
            request,
            upload,
            await asked.automatic(options),
            unique=body.unique,
            foreground=body.foreground,
            by_area=True,
        )


async def segment_predict(request: Request) -> Response:
    """Points and boxes: PVS, but PCS for boxes with SAM 3."""
    async with uploaded(request, PredictRequest, _work_of_predict) as upload:
        body = upload.body
        _check_form(body, body.model_version)
        prompts = await _prompts(request, upload)
        asked, multimask = _Asked(request, upload), body.multimask_output
        found = []
        if body.model_version == "sam2":
            found.append(await asked.visual(prompts.objects(), multimask=multimask))
        else:
            if len(prompts.boxes):
                found.append(await asked.concept(boxes=prompts.boxes.astype(np.float32)))
            if len(prompts.points):
                points = [prompts.object_of_points]
                found.append(await asked.visual(points, multimask=multimask))
        nothing = "No objects found for the given prompts."
        return await _answer(request, upload, _joined(found), nothing)


async def _prompts(request: Request, upload: Upload[PredictRequest]) -> Prompts:
    """The prompts of a form, in pixels."""
    body, state = upload.body, state_of(request)
    if body.point_coords is None and body.boxes is None:
        raise RequestError("At least one of point_coords or boxes must be provided.")

    def read() -> Prompts:
        prompts = Prompts.of(body, state.limits)
        if body.point_crs is None:
            return prompts
        return prompts.in_pixels(body.point_crs, GeoReference.read(upload.image.data))

    return await state.segmenter.in_thread(read)


def _joined(results: Sequence[SegmentationResult]) -> SegmentationResult:
    """The answers of two engines about one image as one."""
    image = EncodedImage.joined([result.image for result in results])
    return SegmentationResult(image, [each for result in results for each in result.instances])


async def _answer(
    request: Request,
    upload: Upload[Any],
    result: SegmentationResult,
    nothing: str | None = None,
    *,
    unique: bool = True,
    foreground: bool = True,
    by_area: bool = False,
    in_words: bool = False,
) -> Response:
    """What was found, in the form that was asked for.

    Args:
        request: that is answered.
        upload: what was asked.
        result: what was found.
        nothing: the error if that is nothing; None if an empty answer is none.
        unique: an id for each object.
        foreground: see `label_plane`.
        by_area: the largest object has the highest id, and smaller ones lie on top of it.
        in_words: boxes are those of the objects themselves, also where others cover them.
    """
    body, timings = upload.body, timings_of(request)

    def objects() -> Objects:
        with timings.measure("masks"):
            return Objects.of(
                result, upload.image.data, least=body.min_size, most=body.max_size, by_area=by_area
            )

    found = await state_of(request).segmenter.in_thread(objects)
    if nothing is not None and not found.instances:
        raise NothingFoundError(nothing)
    render, media_type, headers = found.in_form(
        body.output_format, unique=unique, foreground=foreground, in_words=in_words
    )
    return await answer(request, result.image, render, media_type, headers)


_ANSWERS = {
    200: Answer(
        "The objects, in the form of `output_format`: JSON, a GeoTIFF or a PNG.",
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
        "Finds all objects without a prompt.",
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
        "Points and boxes in pixels, or in any CRS where the image has one.",
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
        "Segment by words",
        "Finds every instance of a concept.",
        ("Rasters",),
        segment_text,
        _ANSWERS,
        request=TextRequest,
        request_type=_FORM,
    ),
)
