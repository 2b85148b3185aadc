"""The Serve application: an ingress deployment and one deployment per engine behind it."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

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
from inference_server.engines.catalog import Catalog
from inference_server.engines.registry import ModelRegistry
from inference_server.settings import Settings
from inference_server.settings.types import replica_bounds

NAME = "inference-server"
"""Name of the Serve application."""

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""Router class that maps a session to its replica by consistent hashing."""

_VIRTUAL_NODES = 100
"""Positions of a replica on the hash ring: with 100, the largest share of many replicas is about a
quarter above the mean."""

_PROBES = 64
"""Concurrent requests of an ingress in addition to segmentation: probes, metrics, job polling."""


class Ingress:
    """Serves HTTP: the whole application except the engines.

    Args:
        settings: the server's settings.
        engines: handle of each engine deployment.
    """

    def __init__(
        self,
        settings: Settings,
        **engines: DeploymentHandle[Any],
    ) -> None:
        self._settings = settings
        self._handles: dict[Family, DeploymentHandle[Any]] = {
            family: engines[family] for family in get_args(Family) if family in engines
        }
        self._app: Starlette | None = None

    def __serve_build_asgi_app__(self) -> Starlette:
        """Create the application in the replica: its sockets and threads cannot be pickled."""
        segmenter = partial(
            ClusterSegmentationService, handles=self._handles, ingresses=_handle_of_ingresses
        )
        self._app = app = create_app(self._settings, segmenter=segmenter)
        app.add_middleware(_WithoutIdentity)
        return app

    async def forget_image(self, tenant: str, image_id: str, keep: str | None) -> bool:
        """Remove an image's file from this ingress, for another one that was asked to."""
        state = None if self._app is None else getattr(self._app.state, "server", None)
        segmenter = None if state is None else state.segmenter
        if not isinstance(segmenter, ClusterSegmentationService):  # it is starting: it has none
            return False
        return segmenter.forget_file(tenant, image_id, keep)


def _handle_of_ingresses() -> DeploymentHandle[Any]:
    """The handle of the deployment that this replica belongs to."""
    context = serve.get_replica_context()
    return serve.get_deployment_handle(context.deployment, context.app_name)


class _WithoutIdentity:
    """Removes `x-request-id` from responses, because Serve's proxy adds the same header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]
            await send(message)

        await self._app(scope, receive, send_without_id)


def build(
    settings: Settings, registry: Registry = ModelRegistry, router: str = ROUTER
) -> Application:
    """Build the application from the settings, without starting anything.

    Args:
        settings: the server's settings; Ray's control store distributes them to the replicas.
        registry: factory of each replica's `ModelRegistry`, such as a subclass with a custom
            engine. Default: `ModelRegistry`.
        router: import path of the Ray Serve class that chooses an engine's replica. Default:
            `ROUTER`.

    Returns:
        The application.
    """
    engine = partial(_engine, settings, registry, router)
    engines = {
        "sam3": engine(
            "concept",
            "sam3",
            settings.cluster_concept_replicas,
            settings.cluster_concept_cpus,
            settings.cluster_concept_gpus,
        )
    }
    if _needs_visual(settings):
        engines["sam2"] = engine(
            "visual",
            "sam2",
            settings.cluster_visual_replicas,
            settings.cluster_visual_cpus,
            settings.cluster_visual_gpus,
        )
    ingress = serve.deployment(
        name="ingress",
        # The application limits its own work and returns 429 in each vendor's error format.
        max_ongoing_requests=settings.max_requests + _PROBES,
        ray_actor_options={"num_cpus": settings.cluster_ingress_cpus},
        **_common(settings),
        **_count(settings.cluster_ingress_replicas, settings),
    )(serve.ingress()(Ingress))
    return ingress.bind(settings, **engines)


def _needs_visual(settings: Settings) -> bool:
    """Whether any model is configured beside SAM 3."""
    return Catalog(settings).families > {"sam3"}


def resources_of(settings: Settings) -> dict[str, float]:
    """Return the CPUs and GPUs that all replicas request when scaled to their maximum.

    Args:
        settings: the server's settings.

    Returns:
        Number of CPUs and GPUs, by the keys `CPU` and `GPU`; fractions are possible.
    """
    _, ingress = replica_bounds(settings.cluster_ingress_replicas)
    _, concept = replica_bounds(settings.cluster_concept_replicas)
    _, visual = replica_bounds(settings.cluster_visual_replicas)
    visual = visual if _needs_visual(settings) else 0
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
        request_router_class=router,  # type: ignore[arg-type]  # its validator imports the path
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
    """Return the options that all deployments share."""
    return {"graceful_shutdown_timeout_s": settings.shutdown_timeout}


def _count(replicas: str, settings: Settings) -> dict[str, Any]:
    """Return the options for a fixed number of replicas, or for autoscaling between two bounds."""
    least, most = replica_bounds(replicas)
    if least == most:
        return {"num_replicas": least}
    scaling = AutoscalingConfig(
        min_replicas=least,
        max_replicas=most,
        target_ongoing_requests=settings.cluster_target,
    )
    return {"autoscaling_config": scaling}
