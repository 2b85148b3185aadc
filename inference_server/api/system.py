"""Operations about the server itself: probes, models, metrics."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from inference_server import __version__
from inference_server.api.dependencies import authenticate, state_of
from inference_server.api.metrics import ServerCollector, backlog_of
from inference_server.api.openapi import KEY_ERRORS, SCOPE_ERRORS, Answer, Operation
from inference_server.api.playground import playground, wants_page
from inference_server.api.samgeo.models import id_of
from inference_server.segmentation.types import Checkpoint
from schemas.system import Health, ModelsCleared, ModelsResponse, ServerInfo

_LINKS = {
    "openapi": "/openapi.json",
    "docs": "/docs",
    "models": "/models",
    "ready": "/readyz",
    "live": "/livez",
}


async def root(request: Request) -> Response:
    """Return name, version and links; the playground for browsers."""
    if wants_page(request):
        return await playground(request)
    return JSONResponse(
        {"name": "inference-server", "version": __version__, "links": _LINKS},
        headers={"vary": "accept"},
    )


async def livez(request: Request) -> Response:
    """Return 200 while the event loop runs."""
    del request
    return JSONResponse({"status": "ok", "version": __version__})


async def readyz(request: Request) -> Response:
    """Return 200 once the configured models were loaded, and 503 before that or while stopping.

    A background task that fails does not change the status code: requests are answered all the
    same, and with a database that all servers share, none of them would be ready.
    """
    state = state_of(request)
    if state.admission.leaving:
        return JSONResponse({"status": "stopping", "message": "The server is stopping."}, 503)
    if state.ready and (troubles := state.troubles):
        told = f"Background tasks do not work: {'; '.join(troubles)}. The log has the reason."
        return JSONResponse({"status": "degraded", "message": told, "version": __version__})
    if state.ready:
        return JSONResponse({"status": "ok", "version": __version__})
    if state.failure:
        return JSONResponse({"status": "failed", "message": state.failure}, 503)
    return JSONResponse({"status": "loading", "message": "The models are loading."}, 503)


async def models(request: Request) -> Response:
    """Return the available models and which are loaded."""
    is_admin = "admin" in authenticate(request, scope=None).scopes
    checkpoints = await state_of(request).segmenter.checkpoints()
    if not is_admin:  # the time of the last use tells what others do
        checkpoints = [replace(each, last_used=None) for each in checkpoints]
    ids: dict[str, list[str]] = {}
    for each in checkpoints:
        version, name = id_of(each.key, each.source)
        ids.setdefault(version, []).append(name)
    return JSONResponse(
        {
            "models": ids,
            "loaded": [id_of(each.key, each.source) for each in checkpoints if each.loaded],
            "checkpoints": [_known(each) for each in checkpoints],
        }
    )


def _known(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what is known and may be told about a checkpoint."""
    return {name: value for name, value in asdict(checkpoint).items() if value is not None}


async def clear(request: Request) -> Response:
    """Unload all models and clear the caches."""
    authenticate(request, scope="admin")
    await state_of(request).clear()
    return JSONResponse({"status": "cleared"})


async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus text format."""
    state = state_of(request)
    if state.settings.metrics_access == "admin":
        authenticate(request, scope="admin")
    collector = ServerCollector(state, await state.segmenter.checkpoints(), await backlog_of(state))
    return Response(generate_latest(collector), media_type=CONTENT_TYPE_LATEST)


_UNAVAILABLE = Answer("Not ready; the body contains the reason.", Health)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "get",
        "/",
        "serverInfo",
        "Name, version and links",
        "Name, version and links of the server. Browsers, which accept `text/html`, get the "
        "playground.",
        ("System",),
        root,
        {200: Answer("Name, version and links.", ServerInfo, raw={"text/html": "text"})},
        secured=False,
    ),
    Operation(
        "get",
        "/livez",
        "livez",
        "Liveness probe",
        "Returns 200 while the process runs, also while models are loading or busy.",
        ("System",),
        livez,
        {200: Answer("The server runs.", Health)},
        secured=False,
    ),
    Operation(
        "get",
        "/health",
        "health",
        "Liveness probe for samgeo's clients",
        "The same as `/livez`.",
        ("System",),
        livez,
        {200: Answer("The server runs.", Health)},
        secured=False,
    ),
    Operation(
        "get",
        "/readyz",
        "readyz",
        "Readiness probe",
        "Returns 200 from when the preloaded models are loaded until the server begins to stop. A "
        "failed load is retried. The status is `degraded` while a background task does not work, "
        "such as the workers of jobs; requests are answered all the same.",
        ("System",),
        readyz,
        {200: Answer("Ready for requests.", Health), 503: _UNAVAILABLE},
        secured=False,
    ),
    Operation(
        "get",
        "/models",
        "listModels",
        "List the models",
        "The available models, their checkpoints, and which are loaded. The time of the last use "
        "is told to keys with scope `admin` only.",
        ("System",),
        models,
        {200: Answer("The models.", ModelsResponse), **KEY_ERRORS},
    ),
    Operation(
        "delete",
        "/models",
        "clearModels",
        "Unload the models and clear the caches",
        "Frees the memory of models, embeddings and images of all API keys. Requests in progress "
        "are still answered; later ones load the models again. The server stays ready. Needs a key "
        "with scope `admin`.",
        ("System",),
        clear,
        {200: Answer("Models unloaded and caches cleared.", ModelsCleared), **SCOPE_ERRORS},
    ),
    Operation(
        "get",
        "/metrics",
        "metrics",
        "Prometheus metrics",
        "Requests, failures, durations of each stage, batch sizes, caches, queues and jobs. Needs "
        "a key with scope `admin`, unless INFERENCE_METRICS_ACCESS is `open`.",
        ("System",),
        metrics,
        {200: Answer("The metrics.", raw={"text/plain": "text"}), **SCOPE_ERRORS},
    ),
)
