"""The Serve application: an ingress, and the deployments of the engines behind it."""

from __future__ import annotations

from functools import partial
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_server.api.app import Registry, create_app
from inference_server.cluster.messages import Family
from inference_server.cluster.replica import EngineReplica
from inference_server.cluster.service import ClusterSegmentationService
from inference_server.engines.registry import ModelRegistry
from inference_server.settings import Settings
from inference_server.settings.types import replica_bounds

NAME = "inference-server"
"""Of the application."""

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""Finds the replica of a session."""

_VIRTUAL_NODES = 100
"""Places of a replica on the ring: with a hundred, the busiest of many replicas has about a quarter
more of the ring than its share."""

_PROBES = 64
"""Requests that an ingress takes besides work: probes, metrics, and what is asked about jobs."""


class Ingress:
    """Takes HTTP: the whole application, without the engines.

    Args:
        settings: of the server.
        concept: handle of SAM 3's deployment.
        visual: handle of SAM 2's.
    """

    def __init__(
        self,
        settings: Settings,
        concept: DeploymentHandle[Any],
        visual: DeploymentHandle[Any],
    ) -> None:
        self._settings = settings
        self._handles: dict[Family, DeploymentHandle[Any]] = {"sam2": visual, "sam3": concept}

    def __serve_build_asgi_app__(self) -> Starlette:
        """The application, made where it runs: it has sockets and threads, and is not sent."""
        app = create_app(
            self._settings, segmenter=partial(ClusterSegmentationService, handles=self._handles)
        )
        app.add_middleware(_WithoutIdentity)
        return app


class _WithoutIdentity:
    """Leaves the header `x-request-id` to Serve's proxy, which gives answers the same one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def passed(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]
            await send(message)

        await self._app(scope, receive, passed)


def build(
    settings: Settings, registry: Registry = ModelRegistry, router: str = ROUTER
) -> Application:
    """Bind the deployments to their settings; starts nothing yet.

    Args:
        settings: of the server. They travel to the replicas by way of Ray's own store.
        registry: a subclass of `ModelRegistry`, for an engine that is not in this package.
        router: class of Ray Serve that chooses an engine's replica, where it is to be another.
    """
    engine = partial(_engine, settings, registry, router)
    visual = engine(
        "visual",
        "sam2",
        settings.cluster_visual_replicas,
        settings.cluster_visual_cpus,
        settings.cluster_visual_gpus,
    )
    concept = engine(
        "concept",
        "sam3",
        settings.cluster_concept_replicas,
        settings.cluster_concept_cpus,
        settings.cluster_concept_gpus,
    )
    ingress = serve.deployment(
        name="ingress",
        # The application bounds its work itself, and answers 429 in its contracts' words.
        max_ongoing_requests=settings.max_requests + _PROBES,
        ray_actor_options={"num_cpus": settings.cluster_ingress_cpus},
        **_common(settings),
        **_count(settings.cluster_ingress_replicas, settings),
    )(serve.ingress()(Ingress))
    return ingress.bind(settings, concept, visual)


def resources_of(settings: Settings) -> dict[str, float]:
    """The CPUs and GPUs that the replicas ask Ray for, where there are as many as there may be."""
    _, ingress = replica_bounds(settings.cluster_ingress_replicas)
    _, concept = replica_bounds(settings.cluster_concept_replicas)
    _, visual = replica_bounds(settings.cluster_visual_replicas)
    return {
        "CPU": ingress * settings.cluster_ingress_cpus
        + concept * settings.cluster_concept_cpus
        + visual * settings.cluster_visual_cpus,
        "GPU": concept * settings.cluster_concept_gpus + visual * settings.cluster_visual_gpus,
    }


def _engine(
    settings: Settings,
    registry: Registry,
    router: str,
    name: str,
    family: Family,
    replicas: str,
    cpus: float,
    gpus: float,
) -> Application:
    routing = RequestRouterConfig(
        request_router_class=router,  # type: ignore[arg-type]  # its validator makes it one
        request_router_kwargs={
            "num_virtual_nodes": _VIRTUAL_NODES,
            "num_fallback_replicas": settings.cluster_spill,
        },
    )
    deployment = serve.deployment(
        name=name,
        max_ongoing_requests=settings.cluster_ongoing,
        max_queued_requests=settings.queue_size,
        request_router_config=routing,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        **_common(settings),
        **_count(replicas, settings),
    )(EngineReplica)
    return deployment.bind(settings, family, cpus, registry)


def _common(settings: Settings) -> dict[str, Any]:
    """What holds for all deployments."""
    return {"graceful_shutdown_timeout_s": settings.shutdown_timeout}


def _count(replicas: str, settings: Settings) -> dict[str, Any]:
    """As many replicas as a setting says, or as the load needs between two bounds."""
    least, most = replica_bounds(replicas)
    if least == most:
        return {"num_replicas": least}
    scaling = AutoscalingConfig(
        min_replicas=least,
        max_replicas=most,
        target_ongoing_requests=settings.cluster_target,
    )
    return {"autoscaling_config": scaling}
