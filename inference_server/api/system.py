"""The endpoints about the server itself."""

from __future__ import annotations

from dataclasses import asdict

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from inference_server import __version__
from inference_server.api.dependencies import authenticate, state_of
from inference_server.api.metrics import Readings, backlog_of
from inference_server.api.openapi import KEY_ERRORS, SCOPE_ERRORS, Answer, Operation
from inference_server.api.playground import playground, wants_page
from inference_server.engines.weights import SAM2_IDS, SAM3_ID
from schemas.system import Health, ModelsCleared, ModelsResponse, ServerInfo

_LINKS = {
    "openapi": "/openapi.json",
    "docs": "/docs",
    "models": "/models",
    "ready": "/readyz",
    "live": "/livez",
}
_IDS = {version: name for name, version in SAM2_IDS.items()}


async def root(request: Request) -> Response:
    """Name, version, links; the playground for browsers."""
    if wants_page(request):
        return await playground(request)
    return JSONResponse(
        {"name": "inference-server", "version": __version__, "links": _LINKS},
        headers={"vary": "accept"},
    )


async def livez(request: Request) -> Response:
    """The event loop turns."""
    del request
    return JSONResponse({"status": "ok", "version": __version__})


async def readyz(request: Request) -> Response:
    """The configured models were loaded."""
    state = state_of(request)
    if state.admission.leaving:
        return JSONResponse({"status": "stopping", "message": "The server is stopping."}, 503)
    if state.ready:
        return JSONResponse({"status": "ok", "version": __version__})
    if state.failure:
        return JSONResponse({"status": "failed", "message": state.failure}, 503)
    return JSONResponse({"status": "loading", "message": "The models are being loaded."}, 503)


async def models(request: Request) -> Response:
    """Which models there are, and which are in memory."""
    authenticate(request, scope=None)
    checkpoints = [asdict(each) for each in await state_of(request).segmenter.checkpoints()]
    versions = [each["name"] for each in checkpoints if each["family"] == "sam2"]
    ids = {"sam2": [_IDS[version] for version in versions], "sam3": [SAM3_ID]}
    in_memory = [
        [entry["family"], _IDS.get(entry["name"], SAM3_ID)]
        for entry in checkpoints
        if entry["loaded"]
    ]
    return JSONResponse({"models": ids, "loaded": in_memory, "checkpoints": checkpoints})


async def clear(request: Request) -> Response:
    """Unload the models and empty the caches."""
    authenticate(request, scope="admin")
    await state_of(request).clear()
    return JSONResponse({"status": "cleared"})


async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    state = state_of(request)
    if state.settings.metrics_access == "admin":
        authenticate(request, scope="admin")
    readings = Readings(state, await state.segmenter.checkpoints(), await backlog_of(state))
    return Response(generate_latest(readings), media_type=CONTENT_TYPE_LATEST)


_UNAVAILABLE = Answer("Not now; the body says why.", Health)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "get",
        "/",
        "serverInfo",
        "Name, version and links",
        "Where to go next. Browsers, which ask for HTML by name, get the playground.",
        ("System",),
        root,
        {200: Answer("What this server is.", ServerInfo, raw={"text/html": "text"})},
        secured=False,
    ),
    Operation(
        "get",
        "/livez",
        "livez",
        "Whether the server runs",
        "Answers as long as the process is well, also while models are loaded or busy.",
        ("System",),
        livez,
        {200: Answer("It runs.", Health)},
        secured=False,
    ),
    Operation(
        "get",
        "/health",
        "health",
        "Whether the server runs, by the name that samgeo's clients know",
        "The same as `/livez`.",
        ("System",),
        livez,
        {200: Answer("It runs.", Health)},
        secured=False,
    ),
    Operation(
        "get",
        "/readyz",
        "readyz",
        "Whether the server may be sent work",
        "Ready once the models that are to be preloaded were loaded, until the server is told to "
        "stop. A load that fails is tried again now and then.",
        ("System",),
        readyz,
        {200: Answer("Send work.", Health), 503: _UNAVAILABLE},
        secured=False,
    ),
    Operation(
        "get",
        "/models",
        "listModels",
        "The models of this server",
        "Which models there are, what they are made of, and which are in memory.",
        ("System",),
        models,
        {200: Answer("The models.", ModelsResponse), **KEY_ERRORS},
    ),
    Operation(
        "delete",
        "/models",
        "clearModels",
        "Unload the models, empty the caches",
        "Frees the memory that models, embeddings and images take, of every API key. Requests that "
        "have begun are answered as if nothing had happened, and free their part when they are "
        "done; later ones load what they need again. The server stays ready. For keys of the scope "
        "`admin`.",
        ("System",),
        clear,
        {200: Answer("They are gone.", ModelsCleared), **SCOPE_ERRORS},
    ),
    Operation(
        "get",
        "/metrics",
        "metrics",
        "Prometheus metrics",
        "Requests, failures, durations of every step, batch sizes, the embedding cache. For keys "
        "of the scope `admin`, unless the server's settings open it to all.",
        ("System",),
        metrics,
        {200: Answer("The metrics.", raw={"text/plain": "text"}), **SCOPE_ERRORS},
    ),
)
