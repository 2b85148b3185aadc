"""X-AnyLabeling's endpoints: its menu of models; an image with words or marks in, shapes out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from inference_server.api.dependencies import authenticate, read, state_of, timings_of
from inference_server.api.headers import RESULT_HEADERS
from inference_server.api.openapi import Answer, Operation
from inference_server.api.responses import respond
from inference_server.api.x_anylabeling.errors import ERRORS
from inference_server.api.x_anylabeling.models import menu_of, model_of
from inference_server.api.x_anylabeling.prompts import (
    concept_options,
    concept_prompts,
    image_ref,
    visual_options,
    visual_prompts,
)
from inference_server.api.x_anylabeling.results import PREVIEW, response_body
from inference_server.auth import Work
from inference_server.engines.catalog import Catalog
from inference_server.segmentation.types import SegmentationResult
from schemas.x_anylabeling import (
    XAnyLabelingModelInfo,
    XAnyLabelingModels,
    XAnyLabelingRequest,
    XAnyLabelingResponse,
)


async def list_models(request: Request) -> Response:
    """Return the models and their controls."""
    authenticate(request, scope=None)
    menu = menu_of(state_of(request).segmenter.catalog)
    return JSONResponse({"success": True, "data": {id_: each.info() for id_, each in menu.items()}})


async def model_info(request: Request) -> Response:
    """Return one model and its controls."""
    authenticate(request, scope=None)
    model = model_of(state_of(request).segmenter.catalog, request.path_params["model_id"])
    return JSONResponse({"success": True, "data": {"model_id": model.id, **model.info()}})


def _work(catalog: Catalog, body: XAnyLabelingRequest) -> Sequence[Work]:
    kind = model_of(catalog, body.model).prompts
    prompts = concept_prompts if kind == "concept" else visual_prompts
    return [kind] if prompts(body.params) else []


async def predict(request: Request) -> Response:
    """Find the instances of words or exemplars (PCS), or segment objects by marks (PVS)."""
    catalog = state_of(request).segmenter.catalog
    tenant, body = await read(request, XAnyLabelingRequest, partial(_work, catalog))
    found, labels = await _segment(request, tenant.name, body)
    instances = [] if found is None else found.instances
    return await respond(
        request,
        None if found is None else found.image,
        lambda: response_body(instances, labels, body.params.epsilon_factor),
    )


async def _segment(
    request: Request, tenant: str, body: XAnyLabelingRequest
) -> tuple[SegmentationResult | None, list[str]]:
    """Run the model of a request.

    Returns:
        (the result, or None without prompts; the label of each prompt).
    """
    segmenter, timings = state_of(request).segmenter, timings_of(request)
    model, image = model_of(segmenter.catalog, body.model), image_ref(body)
    if model.prompts == "concept":
        concepts = concept_prompts(body.params)
        labels = [prompt.text or PREVIEW for prompt in concepts]
        if not concepts:
            return None, labels
        options = concept_options(body.params)
        return await segmenter.concept(
            tenant, image, concepts, options, timings=timings, model=model.key
        ), labels
    objects = visual_prompts(body.params)
    labels = [PREVIEW] * len(objects)
    if not objects:
        return None, labels
    return await segmenter.visual(
        tenant, image, objects, visual_options(objects), timings=timings, model=model.key
    ), labels


_ERRORS_OF_MODELS = {status: ERRORS[status] for status in (401, 503)}

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "get",
        "/x-anylabeling/v1/models",
        "listXAnyLabelingModels",
        "List the models for X-AnyLabeling",
        "The models of the program's menu, with the controls that it shows for each.",
        ("X-AnyLabeling",),
        list_models,
        {200: Answer("The models by id.", XAnyLabelingModels), **_ERRORS_OF_MODELS},
    ),
    Operation(
        "get",
        "/x-anylabeling/v1/models/{model_id}/info",
        "getXAnyLabelingModel",
        "Get a model for X-AnyLabeling",
        "One model, with its controls.",
        ("X-AnyLabeling",),
        model_info,
        {
            200: Answer("The model.", XAnyLabelingModelInfo),
            404: ERRORS[404],
            **_ERRORS_OF_MODELS,
        },
        parameters=(
            MappingProxyType(
                {
                    "name": "model_id",
                    "in": "path",
                    "required": True,
                    "description": "Id of the model.",
                    "schema": {"type": "string"},
                }
            ),
        ),
        # An id may contain slashes.
        route="/x-anylabeling/v1/models/{model_id:path}/info",
    ),
    Operation(
        "post",
        "/x-anylabeling/v1/predict",
        "predictXAnyLabeling",
        "Find shapes for X-AnyLabeling",
        "`segment_anything_3` finds every instance of words or of exemplars (SAM 3). "
        "`segment_anything_2` segments the object at points or in each rectangle (SAM 3's visual "
        "head, or SAM 2).",
        ("X-AnyLabeling",),
        predict,
        {200: Answer("The shapes.", XAnyLabelingResponse, headers=RESULT_HEADERS), **ERRORS},
        request=XAnyLabelingRequest,
    ),
)
