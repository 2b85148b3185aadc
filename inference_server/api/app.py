"""The application: routes, middleware, lifespan. Reads top to bottom as a table of contents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from inference_server import __version__
from inference_server.api import jobs, playground, system
from inference_server.api.dependencies import limits_of
from inference_server.api.endpoint import Contract, endpoint, message_wording, unknown
from inference_server.api.huggingface import errors as huggingface_errors
from inference_server.api.huggingface import routes as huggingface
from inference_server.api.lifecycle import ServerContext
from inference_server.api.middleware.access_log import AccessLog
from inference_server.api.middleware.admission import Admission
from inference_server.api.middleware.body_budget import BodyBudget
from inference_server.api.openapi import HEADERS, build_document
from inference_server.api.roboflow import routes as roboflow
from inference_server.api.samgeo import errors as samgeo_errors
from inference_server.api.samgeo import routes as samgeo
from inference_server.api.segmind import errors as segmind_errors
from inference_server.api.segmind import routes as segmind
from inference_server.auth import AuthService
from inference_server.engines.registry import ModelRegistry
from inference_server.jobs import Jobs
from inference_server.observability.logging import configure_logging, warn_of_keys
from inference_server.observability.metrics import Metrics
from inference_server.observability.tracing import start_traces
from inference_server.segmentation.image_loader import fetcher_of
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.segmentation.service import SegmentationService
from inference_server.settings import MiB, Settings

CONTRACTS = (
    Contract(roboflow.OPERATIONS, message_wording),
    Contract(samgeo.OPERATIONS, samgeo_errors.wording),
    Contract(
        segmind.OPERATIONS,
        segmind_errors.wording,
        invalid=400,
        statuses=segmind_errors.STATUSES,
    ),
    Contract(huggingface.OPERATIONS, huggingface_errors.wording, invalid=400),
    Contract(
        jobs.OPERATIONS, segmind_errors.wording, invalid=400, statuses=segmind_errors.STATUSES
    ),
    Contract(jobs.ROBOFLOW_OPERATIONS, message_wording),
    Contract(system.OPERATIONS, message_wording),
)
"""What the server does, contract by contract."""

OPERATIONS = tuple(operation for contract in CONTRACTS for operation in contract.operations)
"""Everything that the server does; routes and the OpenAPI document are made of it."""


Registry = Callable[[Settings], ModelRegistry]
"""Makes the models of a server."""

MakeSegmenter = Callable[[Settings, Metrics], SegmentationService]
"""Makes what answers the requests of a server."""


def in_this_process(registry: Registry) -> MakeSegmenter:
    """The engines are in the server's own process."""

    def make(settings: Settings, metrics: Metrics) -> LocalSegmentationService:
        return LocalSegmentationService(settings, registry(settings), fetcher_of(settings), metrics)

    return make


def build_state(settings: Settings, segmenter: MakeSegmenter) -> ServerContext:
    """Put a server together; loads nothing yet.

    Args:
        settings: of the server.
        segmenter: see `create_app`.

    Raises:
        ModelUnavailableError: a setting names weights or a device that do not exist.
        ValueError: a setting is malformed.
    """
    metrics = Metrics()
    return ServerContext(
        settings=settings,
        limits=limits_of(settings),
        gate=AuthService(settings),
        segmenter=segmenter(settings, metrics),
        metrics=metrics,
        traces=start_traces(),
        uploads=BodyBudget(
            settings.upload_storage_mb * MiB,
            settings.body_timeout,
            "INFERENCE_UPLOAD_STORAGE_MB",
        ),
        bodies=BodyBudget(
            settings.body_memory_mb * MiB, settings.body_timeout, "INFERENCE_BODY_MEMORY_MB"
        ),
        jobs=Jobs(settings, jobs.TASKS),
        admission=Admission(settings.max_requests),
    )


def create_app(
    settings: Settings | None = None,
    registry: Registry = ModelRegistry,
    segmenter: MakeSegmenter | None = None,
) -> Starlette:
    """Make the application.

    Args:
        settings: of the server; read from the environment when absent.
        registry: a subclass of `ModelRegistry`, for an engine that is not in this package.
        segmenter: makes what answers requests, where that is not this process with that registry.
    """
    settings = settings or Settings()
    document = build_document(OPERATIONS, __version__)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        configure_logging(settings)
        warn_of_keys(settings)
        app.state.server = build_state(settings, segmenter or in_this_process(registry))
        await app.state.server.start()
        yield
        await app.state.server.stop()

    async def openapi(request: Request) -> Response:
        del request
        return JSONResponse(document)

    routes = [
        Route(
            operation.path,
            endpoint(operation, contract),
            methods=[operation.method.upper()],
            name=operation.operation_id,
        )
        for contract in CONTRACTS
        for operation in contract.operations
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
        exception_handlers={HTTPException: unknown(CONTRACTS)},
        lifespan=lifespan,
    )
    # A redirect would name this server as the client did, in its header `Host`.
    app.router.redirect_slashes = False
    return app


def __getattr__(name: str) -> Starlette:
    """`uvicorn inference_server.api.app:app`, without making an application for every import."""
    if name == "app":
        return create_app()
    raise AttributeError(name)
