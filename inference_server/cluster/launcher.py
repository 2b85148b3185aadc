"""A server on a cluster, from the command line: Ray is started or joined, and left as it was."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

# Read by Ray when it is imported. It would tell its makers that it runs, leave out of the log what
# repeats, and put something before each line of JSON.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_DISABLE_WORKER_LOG_PREFIX", "1")

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import LoggingConfig

from inference_server.cluster.deployments import NAME, build, resources_of
from inference_server.settings import Settings

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0

_QUIET = LoggingConfig(log_level="ERROR", enable_access_log=False)
"""The application has an access log of its own, without the keys that travel in queries; and what
Serve warns of is that models take their time to load."""


class ClusterError(Exception):
    """The cluster cannot be used as it stands; the message says what to do."""


@contextmanager
def on_cluster(settings: Settings) -> Iterator[None]:
    """Serve on a cluster for as long as the block lasts; all engines are up when it begins.

    Args:
        settings: of the server. Its port is listened on by every node that has a replica.

    Raises:
        ClusterError: Ray cannot be reached, does not start the application, or the cluster needs
            settings that are not there.
    """
    joined = bool(settings.cluster_address)
    if not joined:
        # Ray would keep a token of its own choice in the home directory, which services have not.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        if joined:
            _look_for(settings.cluster_address)
        ray.init(
            address=settings.cluster_address or "local",
            # On a machine of its own, what Ray counts CPUs for is nobody else's: a laptop with two
            # cores runs an ingress and both engines.
            num_cpus=None
            if joined
            else max(os.cpu_count() or 1, ceil(resources_of(settings)["CPU"])),
            include_dashboard=None if joined else False,
            logging_level=logging.ERROR,
            log_to_driver=not joined,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"INFERENCE_CLUSTER_ADDRESS={settings.cluster_address}: {error}. Start Ray there with "
            "`ray start --head`, or leave the setting empty to start it here."
        ) from None
    # Ray's own way to end by a signal leaves processes behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        check(settings, alone=not joined)
        serve.start(
            proxy_location=ProxyLocation.EveryNode,
            http_options=HTTPOptions(host=settings.host, port=settings.port),
            logging_config=_QUIET,
        )
        try:
            serve.run(build(settings), name=NAME, route_prefix="/", logging_config=_QUIET)
        except RuntimeError as error:
            raise ClusterError(
                f"Ray could not start the server: {error} Are there the CPUs and GPUs that the "
                "replicas ask for? `ray status` tells."
            ) from None
        yield
    finally:
        if joined:
            serve.delete(NAME)
        else:
            serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def _look_for(address: str) -> None:
    """See that somebody listens; Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
        ValueError: it is no address of a cluster.
    """
    if address == "auto":
        return  # Ray looks for processes of this machine, at once
    host, _, port = address.rpartition(":")
    if "/" in host or not port.isdecimal():
        raise ValueError("it should be like 10.0.0.5:6379, or auto")
    socket.create_connection((host.strip("[]"), int(port)), _LOOK_SECONDS).close()


def _nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


def check(settings: Settings, *, alone: bool = False) -> None:
    """Hold settings against the cluster that there is, and tell what would wait for ever.

    Args:
        settings: of the server.
        alone: the cluster is this machine, and no other will come.

    Raises:
        ClusterError: keys and jobs would be lost, or this machine has not what is asked for.
    """
    machines = {node["NodeManagerAddress"] for node in _nodes() if node["Alive"]}
    if len(machines) > 1 and not settings.database_url:
        raise ClusterError(
            f"The cluster has {len(machines)} machines, and keys and jobs would be in a file on "
            "one of them. Set INFERENCE_DATABASE_URL to a PostgreSQL that all of them reach."
        )
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for kind, count in resources_of(settings).items():
        if count <= there.get(kind, 0.0):
            continue
        if alone:
            raise ClusterError(
                f"The replicas ask for {count:g} {kind}s, and this machine has "
                f"{there.get(kind, 0.0):g}. Lower INFERENCE_CLUSTER_*_REPLICAS or _{kind}S."
            )
        else:
            logger.warning(
                "The replicas ask for %g %ss, and the cluster has %g: some wait until it has more. "
                "Add machines, or lower INFERENCE_CLUSTER_*_REPLICAS or _%sS",
                count,
                kind,
                there.get(kind, 0.0),
                kind,
            )
