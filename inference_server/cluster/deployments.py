"""The Serve application: an ingress deployment and one deployment per engine behind it."""

from __future__ import annotations

from functools import partial
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from inference_server.api.app import Registry
from inference_server.cluster.ingress import IDLE_SECONDS, Ingress, leave_seconds
from inference_server.cluster.messages import Family
from inference_server.cluster.replica import EngineReplica
from inference_server.engines.catalog import Catalog
from inference_server.engines.registry import ModelRegistry
from inference_server.settings import Settings
from inference_server.settings.types import replica_bounds

NAME = "inference-server"
"""Name of the Serve application."""

ROUTER = "inference_server.cluster.router.ImageRouter"
"""Router class that maps a session to its replica by consistent hashing."""

_SCALING = "inference_server.cluster.scaling:by_ongoing"

_STOP_SECONDS = 5.0
"""Seconds that Serve needs to stop a replica, in addition to its own shutdown."""

_VIRTUAL_NODES = 100
"""Positions of a replica on the hash ring: with 100, the largest share of many replicas is about a
quarter above the mean."""


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
        ray_actor_options={"num_cpus": settings.cluster_ingress_cpus},
        graceful_shutdown_timeout_s=settings.shutdown_timeout
        + leave_seconds(settings)
        + IDLE_SECONDS
        + _STOP_SECONDS,
        **_count(settings.cluster_ingress_replicas, settings),
    )(Ingress)
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
        graceful_shutdown_timeout_s=settings.shutdown_timeout + _STOP_SECONDS,
        **_count(replicas, settings),
    )(EngineReplica)
    return deployment.bind(settings, family, cpus, registry)


def _count(replicas: str, settings: Settings) -> dict[str, Any]:
    """Return the options for a fixed number of replicas, or for autoscaling between two bounds."""
    least, most = replica_bounds(replicas)
    if least == most:
        return {"num_replicas": least}
    scaling = AutoscalingConfig(
        min_replicas=least,
        max_replicas=most,
        target_ongoing_requests=settings.cluster_target,
        policy=AutoscalingPolicy(policy_function=_SCALING),  # type: ignore[no-untyped-call]
    )
    return {"autoscaling_config": scaling}
