"""Deployments built from settings, without starting Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.config import AutoscalingConfig

from inference_server.cluster import application
from inference_server.cluster import launcher as running
from inference_server.cluster.deployments import build, resources_of
from inference_server.cluster.launcher import ClusterError, check, on_cluster
from inference_server.cluster.scaling import ONGOING, by_ongoing
from inference_server.settings import Settings
from inference_server.settings.types import SettingsError


def deployments(**settings: Any) -> dict[str, Any]:
    """Return the deployments of an application, by name."""
    ingress: Any = build(Settings(**settings))._bound_deployment
    bound = [engine._bound_deployment for engine in ingress.init_kwargs.values()]
    return {each.name: each for each in (ingress, *bound)}


def test_engines_scale_independently() -> None:
    made = deployments(
        cluster_ingress_replicas="3",
        cluster_concept_replicas="2",
        cluster_concept_gpus=1,
        cluster_visual_replicas="1-8",
        cluster_visual_cpus=2,
        cluster_visual_gpus=0.5,
        cluster_target=7,
    )
    assert {name: each.num_replicas for name, each in made.items() if name != "visual"} == {
        "ingress": 3,
        "concept": 2,
    }
    scaling = made["visual"]._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 8)
    assert scaling.target_ongoing_requests == 7
    assert scaling.policy.policy_function == "inference_server.cluster.scaling:by_ongoing"
    asked = {name: each.ray_actor_options for name, each in made.items()}
    assert asked == {
        "ingress": {"num_cpus": 1},
        "concept": {"num_cpus": 1, "num_gpus": 1},
        "visual": {"num_cpus": 2, "num_gpus": 0.5},
    }


def test_replicas_scale_by_requests_that_bypass_serve() -> None:
    def needed(ongoing: dict[str, float] | None, running: int = 2, of_serve: float = 0.0) -> float:
        context: Any = SimpleNamespace(
            current_num_replicas=running,
            target_num_replicas=1,
            config=AutoscalingConfig(target_ongoing_requests=4),
            aggregated_metrics=ongoing and {ONGOING: ongoing},
            total_num_requests=of_serve,
        )
        return by_ongoing(context)[0]

    assert needed({"a": 10.0, "b": 6.0}) == 4
    assert needed({"a": 2.0, "b": 0.0}) == 0.5
    assert needed({"a": 2.0}, of_serve=2.0) == 1, "requests through Serve's handles count as well"
    assert needed(None) == 0
    assert needed({}, running=0) == 1


def test_sam3_alone_is_one_deployment() -> None:
    """It serves both sides of SAM 3; the settings of `visual` reserve nothing."""
    alone: dict[str, Any] = {"sam1_weights": "none", "sam2_weights": "none"}
    alone |= {"cluster_visual_replicas": "4", "cluster_visual_gpus": 1}
    assert set(deployments(**alone)) == {"ingress", "concept"}
    resources = resources_of(Settings(**alone))
    assert resources == {"CPU": 2, "GPU": 0}
    assert set(deployments(sam2_weights="demo")) == {"ingress", "concept", "visual"}


def test_limits_come_from_the_settings() -> None:
    made = deployments(
        cluster_ongoing=5, cluster_spill=3, queue_size=9, max_requests=100, shutdown_timeout=11
    )
    for name in ("concept", "visual"):
        config = made[name]._deployment_config
        assert (config.max_ongoing_requests, config.max_queued_requests) == (5, 9)
        routing = config.request_router_config
        assert routing.request_router_class == "inference_server.cluster.router.ImageRouter"
        assert routing.request_router_kwargs["num_fallback_replicas"] == 3
    # Serve waits longer than a replica's own shutdown takes.
    waits = {each._deployment_config.graceful_shutdown_timeout_s for each in made.values()}
    assert min(waits) > 11


def test_total_resources() -> None:
    settings = Settings(
        cluster_ingress_replicas="1-2",
        cluster_concept_replicas="2",
        cluster_concept_gpus=1,
        cluster_visual_replicas="1-4",
        cluster_visual_cpus=0.5,
        cluster_visual_gpus=0.25,
    )
    assert resources_of(settings) == {"CPU": 2 + 2 + 2, "GPU": 2 + 1}


def test_an_application_takes_settings_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_QUEUE_SIZE", "3")
    made = application({"cluster_visual_replicas": "4"})._bound_deployment
    assert (made.init_args[0].cluster_visual_replicas, made.init_args[0].queue_size) == ("4", 3)
    with pytest.raises(SettingsError, match="INFERENCE_CLUSTER_VISUAL_REPLICAS=none"):
        application({"cluster_visual_replicas": "none"})


def test_several_machines_need_a_shared_database(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [{"NodeManagerAddress": f"10.0.0.{n}", "Alive": n != 3} for n in (1, 2, 3)]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    with pytest.raises(ClusterError, match=r"2 machines.*INFERENCE_DATABASE_URL"):
        check(Settings())
    check(Settings(database_url="postgresql://db/jobs"))
    # Servers of other tests may log at the same time.
    assert not [record for record in caplog.records if record.name == running.__name__]
    check(Settings(database_url="postgresql://db/jobs", cluster_visual_gpus=1))
    assert "request 1 GPUs, but the cluster has 0" in caplog.text
    with pytest.raises(ClusterError, match="this machine has 0"):
        check(Settings(database_url="postgresql://db/jobs", cluster_visual_gpus=1), alone=True)


def test_a_ray_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: object) -> None:
        del options
        raise Exception("The current node timed out during startup.")

    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    monkeypatch.setattr("ray.init", init)
    with (
        pytest.raises(ClusterError, match=r"did not start.*timed out.*less busy"),
        on_cluster(Settings()),
    ):
        pass


def test_requests_should_not_wait_longer_than_an_ingress_stops(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ray.nodes", lambda: [{"NodeManagerAddress": "10.0.0.1", "Alive": True}])
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    check(Settings(cluster_patience=24.9, shutdown_timeout=25))
    assert not [record for record in caplog.records if record.name == running.__name__]
    check(Settings(cluster_patience=25, shutdown_timeout=25))
    assert "INFERENCE_CLUSTER_PATIENCE=25 is not less than INFERENCE_SHUTDOWN_TIMEOUT=25" in (
        caplog.text
    )
