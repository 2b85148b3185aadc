"""Roboflow's endpoints about the server and the models in memory."""

from __future__ import annotations

from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from inference_server import __version__
from inference_server.api.dependencies import authenticate, read_with, state_of
from inference_server.api.model_ids import id_of, model_of
from inference_server.api.openapi import COMMON_ERRORS, KEY_ERRORS, SCOPE_ERRORS, Answer, Operation
from schemas.roboflow import (
    AddModelRequest,
    ClearModelRequest,
    ModelsDescriptions,
    ServerVersionInfo,
)

_TASK = "unsupervised-segmentation"
"""What Roboflow's server calls the task of SAM."""


async def info(request: Request) -> Response:
    """Return name, version and identity of the server."""
    identity = state_of(request).identity
    return JSONResponse({"name": "inference-server", "version": __version__, "uuid": identity})


async def list_loaded(request: Request) -> Response:
    """List the models in memory."""
    if request.method == "POST":
        await read_with(request, lambda body: None, scope=None, optional=True)
    else:
        authenticate(request, scope=None)
    return await _loaded(request)


async def load(request: Request) -> Response:
    """Load a model."""
    limits, segmenter = state_of(request).limits, state_of(request).segmenter
    _, body = await read_with(
        request,
        lambda data: AddModelRequest.model_validate(data, context=limits),
        scope="admin",
    )
    await segmenter.load_model(model_of(segmenter.catalog, body.model_id))
    return await _loaded(request)


async def unload(request: Request) -> Response:
    """Unload a model."""
    limits, segmenter = state_of(request).limits, state_of(request).segmenter
    _, body = await read_with(
        request,
        lambda data: ClearModelRequest.model_validate(data, context=limits),
        scope="admin",
    )
    await segmenter.unload_model(model_of(segmenter.catalog, body.model_id))
    return await _loaded(request)


async def unload_all(request: Request) -> Response:
    """Unload all models and clear the caches."""
    await read_with(request, lambda body: None, scope="admin", optional=True)
    await state_of(request).clear()
    return await _loaded(request)


async def _loaded(request: Request) -> Response:
    checkpoints = await state_of(request).segmenter.checkpoints()
    found = [
        {
            "model_id": id_of(each.key),
            "task_type": _TASK,
            "batch_size": each.encode_batch,
            "input_height": each.side,
            "input_width": each.side,
        }
        for each in checkpoints
        if each.loaded
    ]
    return JSONResponse({"models": found})


_OF_BODY = MappingProxyType({status: COMMON_ERRORS[status] for status in (400, 408, 413, 415, 422)})
"""Errors of an operation that reads a body."""

_OF_MODELS = MappingProxyType(
    {**_OF_BODY, **SCOPE_ERRORS, **{status: COMMON_ERRORS[status] for status in (429, 500, 504)}}
)

_LISTED = Answer("The models in memory.", ModelsDescriptions)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "get",
        "/info",
        "serverVersion",
        "Name and version, for inference-sdk",
        "Name and version of the server, and a random id of the process that answered.",
        ("Models",),
        info,
        {200: Answer("Name, version and id.", ServerVersionInfo)},
        secured=False,
    ),
    Operation(
        "get",
        "/model/registry",
        "listLoadedModels",
        "List the models in memory",
        "The models that answer without being loaded first. `GET /models` lists all models.",
        ("Models",),
        list_loaded,
        {200: _LISTED, **KEY_ERRORS},
    ),
    Operation(
        "post",
        "/model/registry",
        "listLoadedModelsByPost",
        "List the models in memory",
        "The same as `GET /model/registry`.",
        ("Models",),
        list_loaded,
        {200: _LISTED, **_OF_MODELS},
    ),
    Operation(
        "post",
        "/model/add",
        "loadModel",
        "Load a model",
        "Loads a model's weights, so that the first request does not wait for them. If that takes "
        "longer than the request timeout, the response is 504 and the load goes on; a second "
        "request waits for it. Needs a key with scope `admin`.",
        ("Models",),
        load,
        {200: _LISTED, **_OF_MODELS},
        request=AddModelRequest,
    ),
    Operation(
        "post",
        "/model/remove",
        "unloadModel",
        "Unload a model",
        "Frees the memory of a model's weights. Requests in progress are still answered; the next "
        "one loads the weights again. Embeddings stay cached. Models that share weights are "
        "unloaded together, as the sizes of the SAM 2 demo. Needs a key with scope `admin`.",
        ("Models",),
        unload,
        {200: _LISTED, **_OF_MODELS},
        request=ClearModelRequest,
    ),
    Operation(
        "post",
        "/model/clear",
        "unloadAllModels",
        "Unload all models and clear the caches",
        "The same as `DELETE /models`. Needs a key with scope `admin`.",
        ("Models",),
        unload_all,
        {200: _LISTED, **_OF_MODELS},
    ),
)
