"""A server on a Ray cluster of several nodes, all on this machine, and ways to make it fail."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# By default replicas have the least priority, and starve beside any other work on the machine.
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.context import _get_global_client
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.schema import ServeDeploySchema

from inference_server.auth.keys import KeyRing
from inference_server.cluster.client import session_of
from inference_server.cluster.deployments import NAME
from tests.api.serving import ALICE, BOB, KEPT, Running, until

NO_AFFINITY = {
    "request_router_class": "ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter"
}
"""Serve's default router: the less busy of two random replicas."""

_PLACES = [
    {"name": name, "ray_actor_options": {"num_cpus": 1, "resources": {place: 0.001}}}
    for name, place in (("ingress", "front"), ("concept", "engines"), ("visual", "engines"))
]
"""Ingresses on the first node, engines on the others, which tests may remove."""

DEADLINE = 600.0
"""Seconds to wait for deployments and responses."""


@dataclass(frozen=True)
class Replica:
    """A replica of a deployment."""

    name: str
    pid: int
    node: str
    actor: str

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def ongoing(self) -> int:
        """Return the number of requests that it is processing."""
        deployment = self.actor.split("#")[1]
        handle: Any = serve.get_deployment_handle(deployment, NAME)
        answers = handle.broadcast("ongoing").results(timeout_s=DEADLINE, return_exceptions=True)
        counts: dict[str, int] = dict(each for each in answers if isinstance(each, tuple))
        return counts.get(self.name, 0)


@dataclass
class ClusterServer(Running):
    """A server on a cluster.

    Attributes:
        cluster: Ray's cluster; its head has Serve's controller and the ingresses.
        settings: settings of every deployment, by name.
        nodes: the nodes besides the head, for engines.
    """

    cluster: Cluster
    settings: Mapping[str, Any]
    nodes: list[Any] = field(default_factory=list)

    def deploy(self, *deployments: Mapping[str, Any], **settings: Any) -> None:
        """Deploy from a Serve config, as in production.

        Args:
            deployments: options of deployments that override those from the settings. A change
                of these keeps the running replicas.
            settings: settings that override `self.settings`. A change of these replaces all
                replicas.
        """
        config = {
            "proxy_location": "Disabled",
            "applications": [
                {
                    "name": NAME,
                    "route_prefix": "/",
                    "import_path": "inference_server.cluster:application",
                    "args": {**self.settings, **settings},
                    "deployments": [
                        {**each, **next((d for d in deployments if d["name"] == each["name"]), {})}
                        for each in _PLACES
                    ],
                }
            ],
        }
        _client().deploy_apps(ServeDeploySchema.model_validate(config))

    def add_node(self) -> None:
        """Add a node for engines."""
        self.nodes.append(
            self.cluster.add_node(
                num_cpus=4, resources={"engines": 1}, object_store_memory=200 << 20
            )
        )

    def lose_node(self, name: str) -> None:
        """Kill a node by its id."""
        (node,) = (node for node in self.nodes if node.node_id == name)
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def until_deployed(self, *, without: Iterable[Replica] = (), **counts: int) -> None:
        """Wait until each deployment has a number of running replicas.

        Args:
            without: replicas that must have been replaced; Serve takes a while to notice a loss.
            counts: number of replicas, by deployment.
        """
        gone = {replica.name for replica in without}

        def settled() -> bool:
            # One snapshot: between two, Serve may notice that a replica is dead.
            app = _client().get_serve_details()["applications"][NAME]
            assert app["status"] != "DEPLOY_FAILED", app
            return app["status"] == "RUNNING" and all(
                app["deployments"][name]["status"] == "HEALTHY"
                and [r["state"] for r in app["deployments"][name]["replicas"]]
                == ["RUNNING"] * count
                and not gone & {r["replica_id"] for r in app["deployments"][name]["replicas"]}
                for name, count in counts.items()
            )

        until(settled, DEADLINE, 0.5)
        self.until_ready(DEADLINE)

    def replicas(self, deployment: str) -> list[Replica]:
        """Return the running replicas of a deployment."""
        app = _client().get_serve_details()["applications"][NAME]
        found = app["deployments"].get(deployment, {}).get("replicas", [])  # none while it is built
        return [
            Replica(each["replica_id"], each["pid"], each["node_id"], each["actor_name"])
            for each in found
            if each["state"] == "RUNNING"
        ]

    def owner(self, deployment: str, image: str, key: str = ALICE) -> Replica:
        """Return the replica that owns a tenant's image, computed with Ray's own hash ring."""
        replicas = self.replicas(deployment)
        router = ConsistentHashRouter.__new__(ConsistentHashRouter)
        router._num_virtual_nodes, router._num_fallback_replicas = 100, 0
        router._deployment_id = deployment  # type: ignore[assignment]  # only logged
        where = DeploymentID(deployment, NAME)
        router._rebuild_ring(frozenset(ReplicaID(replica.name, where) for replica in replicas))
        known = KeyRing([key]).find(key)
        assert known is not None
        (owner,) = router._lookup_ranked_replicas(session_of(known.tenant.name, image))
        return next(replica for replica in replicas if replica.name == owner.unique_id)


def _client() -> Any:
    return _get_global_client()


@contextmanager
def cluster_server(**settings: Any) -> Iterator[ClusterServer]:
    """Start Ray on three nodes, and Serve, without deploying anything."""
    # While this socket is open no other process is given the port. It does not listen, so the first
    # ingress can.
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port = held.getsockname()[1]
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 3,
            "resources": {"front": 1},
            "include_dashboard": False,
            "include_log_monitor": False,
            "object_store_memory": 200 << 20,
        },
    )
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        serve.start(
            proxy_location="Disabled",
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        url = f"http://127.0.0.1:{port}"
        used = {
            "host": "127.0.0.1",
            "port": port,
            # Two deployments, also where the demo of SAM 3 has a visual head.
            "visual_model": "sam2",
            "api_keys": f"{ALICE},{BOB}",
            "log_level": "warning",
            "fetch_networks": "127.0.0.0/8",
            "cluster_patience": 100,
            "shutdown_timeout": 120,
            # Ray spreads replicas over nodes by these numbers; the machine may have fewer cores.
            "cluster_ingress_cpus": 1,
            "cluster_visual_cpus": 1,
            "cluster_concept_cpus": 1,
            "cluster_ingress_replicas": "2",
            "cluster_visual_replicas": "2",
            **settings,
        }
        with httpx.Client(base_url=url, timeout=DEADLINE, limits=KEPT) as http:
            server = ClusterServer(url, http, cluster, used)
            for _ in range(2):
                server.add_node()
            yield server
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]
        held.close()
