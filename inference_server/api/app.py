"""The application: vendors' APIs, routes, middleware, lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from inference_server import __version__
from inference_server.api import playground, system
from inference_server.api.dependencies import limits_of
from inference_server.api.endpoint import VendorApi, endpoint, message_wording, not_found_handler
from inference_server.api.headers import HEADERS
from inference_server.api.huggingface import errors as huggingface_errors
from inference_server.api.huggingface import routes as huggingface
from inference_server.api.jobs import routes as jobs
from inference_server.api.jobs.submission import TASKS
from inference_server.api.label_studio import errors as label_studio_errors
from inference_server.api.label_studio import routes as label_studio
from inference_server.api.lifecycle import LOAD_PAUSE, ServerContext
from inference_server.api.middleware.access_log import AccessLog
from inference_server.api.middleware.admission import Admission
from inference_server.api.middleware.body_budget import BodyBudget, BodyPace
from inference_server.api.openapi import build_document
from inference_server.api.raster_slots import RasterSlots
from inference_server.api.roboflow import management
from inference_server.api.roboflow import routes as roboflow
from inference_server.api.samgeo import errors as samgeo_errors
from inference_server.api.samgeo import routes as samgeo
from inference_server.api.segmind import errors as segmind_errors
from inference_server.api.segmind import routes as segmind
from inference_server.api.x_anylabeling import errors as x_anylabeling_errors
from inference_server.api.x_anylabeling import routes as x_anylabeling
from inference_server.auth import AuthService
from inference_server.engines.registry import ModelRegistry
from inference_server.jobs import JobQueue
from inference_server.observability.logging import configure_logging, warn_of_keys
from inference_server.observability.metrics import Metrics
from inference_server.observability.tracing import start_traces
from inference_server.segmentation.image_loader import fetcher_of
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.segmentation.raster_files import RasterFiles
from inference_server.segmentation.service import SegmentationService
from inference_server.settings import Settings

VENDOR_APIS = (
    VendorApi(roboflow.OPERATIONS, message_wording),
    VendorApi(management.OPERATIONS, message_wording),
    VendorApi(samgeo.OPERATIONS, samgeo_errors.wording),
    VendorApi(
        segmind.OPERATIONS,
        segmind_errors.wording,
        invalid=400,
        statuses=segmind_errors.STATUSES,
    ),
    VendorApi(huggingface.OPERATIONS, huggingface_errors.wording, invalid=400),
    VendorApi(x_anylabeling.OPERATIONS, x_anylabeling_errors.wording),
    VendorApi(label_studio.OPERATIONS, label_studio_errors.wording, invalid=400),
    VendorApi(
        jobs.OPERATIONS, segmind_errors.wording, invalid=400, statuses=segmind_errors.STATUSES
    ),
    VendorApi(jobs.ROBOFLOW_OPERATIONS, message_wording),
    VendorApi(system.OPERATIONS, message_wording),
)
"""All APIs that the server implements."""

OPERATIONS = tuple(operation for api in VENDOR_APIS for operation in api.operations)
"""All operations; routes and the OpenAPI document are made from them."""

Registry = Callable[[Settings], ModelRegistry]
"""Makes the registry of models from settings."""

MakeSegmenter = Callable[[Settings, Metrics], SegmentationService]
"""Makes the segmentation service from settings and metrics."""


def in_this_process(registry: Registry) -> MakeSegmenter:
    """Make a segmentation service that runs the engines in this process.

    Args:
        registry: makes the registry of models from settings.
    """

    def make(settings: Settings, metrics: Metrics) -> LocalSegmentationService:
        return LocalSegmentationService(settings, registry(settings), fetcher_of(settings), metrics)

    return make


def build_state(
    settings: Settings, segmenter: MakeSegmenter, load_pause: float = LOAD_PAUSE
) -> ServerContext:
    """Make the parts of a server without loading models.

    Args:
        settings: the server's settings.
        segmenter: makes the segmentation service.
        load_pause: seconds before the second attempt to load models. Default: 10.

    Raises:
        ModelUnavailableError: If a setting names weights or a device that do not exist.
        ValueError: If a setting is malformed.
    """
    metrics = Metrics()
    share, pace = settings.keyless_body_percent / 100, BodyPace.of(settings)
    return ServerContext(
        settings=settings,
        limits=limits_of(settings),
        auth=AuthService(settings),
        segmenter=segmenter(settings, metrics),
        metrics=metrics,
        traces=start_traces(),
        uploads=BodyBudget(
            settings.upload_storage_mb,
            share,
            pace,
            "INFERENCE_UPLOAD_STORAGE_MB",
            settings.upload_tenant_storage_mb,
            "INFERENCE_UPLOAD_TENANT_STORAGE_MB",
        ),
        bodies=BodyBudget(settings.body_memory_mb, share, pace, "INFERENCE_BODY_MEMORY_MB"),
        jobs=JobQueue(settings, TASKS),
        admission=Admission(settings.max_requests),
        rasters=RasterFiles(settings, metrics),
        raster_slots=RasterSlots(
            settings.max_raster_requests, settings.max_raster_requests_per_key
        ),
        load_pause=load_pause,
    )


@cache
def _document() -> dict[str, Any]:
    """Make the OpenAPI document when it is first requested."""
    return build_document(OPERATIONS, __version__)


def create_app(
    settings: Settings | None = None,
    registry: Registry = ModelRegistry,
    segmenter: MakeSegmenter | None = None,
    load_pause: float = LOAD_PAUSE,
) -> Starlette:
    """Make the application.

    Args:
        settings: the server's settings. Default: read from the environment.
        registry: makes the registry of models; pass a subclass of `ModelRegistry` to add an engine.
        segmenter: makes the segmentation service. Default: engines of `registry` in this process.
        load_pause: seconds before the second attempt to load models. Default: 10.
    """
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        configure_logging(settings)
        warn_of_keys(settings)
        app.state.server = build_state(settings, segmenter or in_this_process(registry), load_pause)
        app.state.label_studio = label_studio.Backend.of(settings)
        await app.state.server.start()
        yield
        await app.state.server.stop()

    # Not asynchronous: Starlette calls it in a thread, because making the document takes a while.
    def openapi(request: Request) -> Response:
        del request
        return JSONResponse(_document())

    routes = [
        Route(
            operation.route or operation.path,
            endpoint(operation, api),
            methods=[operation.method.upper()],
            name=operation.operation_id,
        )
        for api in VENDOR_APIS
        for operation in api.operations
    ]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=list(HEADERS),
    )
    app = Starlette(
        routes=[*routes, Route("/openapi.json", openapi), *playground.ROUTES],
        middleware=[Middleware(AccessLog), cors],
        exception_handlers={HTTPException: not_found_handler(VENDOR_APIS)},
        lifespan=lifespan,
    )
    # A redirect would contain the client's `Host` header, which may be forged.
    app.router.redirect_slashes = False
    return app


def __getattr__(name: str) -> Starlette:
    """Make the application for `uvicorn inference_server.api.app:app`, and not on every import."""
    if name == "app":
        return create_app()
    raise AttributeError(name)
