"""Runs the server on Ray from the command line: starts Ray or joins it, and cleans up at exit."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from math import ceil
from typing import Any

# Ray reads these when it is imported. By default it sends usage statistics, deduplicates log lines
# and puts a prefix before each JSON line.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_DISABLE_WORKER_LOG_PREFIX", "1")
# By default replicas have the least priority, and starve beside other work on the machine.
os.environ.setdefault("RAY_worker_niceness", "0")
# Serve's own handles pass over a replica that does not report its queue in time, by default 0.1 s.
os.environ.setdefault("RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S", "2")
os.environ.setdefault("RAY_SERVE_MAX_QUEUE_LENGTH_RESPONSE_DEADLINE_S", "10")

import ray
from ray import serve
from ray._private.worker import global_worker
from ray.serve.config import ProxyLocation
from ray.serve.schema import LoggingConfig

from inference_server.cluster.deployments import NAME, build, resources_of
from inference_server.cluster.loopback import ADDRESS, loopback_address
from inference_server.settings import Settings

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for a connection to an existing cluster."""

_QUIET = LoggingConfig(log_level="ERROR", enable_access_log=False)
"""The application has its own access log, which omits API keys in queries. Serve's warnings are
about slow starts, which loading models causes."""


class ClusterError(Exception):
    """The cluster cannot run the server; the message says what to change."""


@contextmanager
def on_cluster(settings: Settings, connect_timeout: float = CONNECT_TIMEOUT) -> Iterator[None]:
    """Run the application on a cluster while the block runs; all engines are ready at its start.

    Args:
        settings: the server's settings. Every node with an ingress listens on the port.
        connect_timeout: seconds to wait for a connection to `cluster_address`. Default: 5.

    Raises:
        ClusterError: Ray is unreachable, fails to start the application, or the cluster lacks
            resources or a shared database.
    """
    joined = bool(settings.cluster_address)
    if not joined:
        # By default Ray stores its token in the home directory, which service users may lack.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        if joined:
            _check_address(settings.cluster_address, connect_timeout)
        with nullcontext() if joined else loopback_address():
            _connect(settings, joined=joined)
    except Exception as error:  # Ray raises no class of its own if its processes start slowly
        if not joined:
            raise ClusterError(
                f"Ray did not start on this machine: {error} Start the server again when the "
                "machine is less busy. Ray's logs are in /tmp/ray/session_latest/logs."
            ) from None
        raise ClusterError(
            f"INFERENCE_CLUSTER_ADDRESS={settings.cluster_address}: {error}. Start Ray there with "
            "`ray start --head`, or leave the setting empty to start Ray on this machine."
        ) from None
    # Ray's own signal handler leaves processes behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        check(settings, alone=not joined)
        # The ingresses listen themselves.
        serve.start(proxy_location=ProxyLocation.Disabled, logging_config=_QUIET)
        try:
            serve.run(build(settings), name=NAME, route_prefix="/", logging_config=_QUIET)
        except RuntimeError as error:
            raise ClusterError(
                f"Ray failed to start the server: {error} Check with `ray status` that the CPUs "
                "and GPUs that the replicas request are available."
            ) from None
        yield
    finally:
        if joined:
            serve.delete(NAME)
        else:
            _stop_serve()
        ray.shutdown()


def _connect(settings: Settings, *, joined: bool) -> None:
    """Join a cluster, or start Ray on this machine, reachable from this machine only."""
    ray.init(
        address=settings.cluster_address or "local",
        # A Ray started here schedules nothing else, so it may count more CPUs than there are: a
        # laptop with two cores runs an ingress and both engines.
        num_cpus=None if joined else max(os.cpu_count() or 1, ceil(resources_of(settings)["CPU"])),
        include_dashboard=None if joined else False,
        logging_level=logging.ERROR,
        log_to_driver=not joined,
        _node_ip_address=None if joined else ADDRESS,
    )


def _stop_serve() -> None:
    """Stop Serve, without a report that its controller has ended.

    The controller ends itself before it answers, which Ray prints as a failed task.
    """
    reports = getattr(global_worker, "gcs_error_subscriber", None)
    if reports is not None:
        reports.close()
    serve.shutdown()  # type: ignore[no-untyped-call]


def _check_address(address: str, timeout: float) -> None:
    """Check that a cluster's address accepts connections; Ray itself would retry for minutes.

    Raises:
        OSError: the connection failed.
        ValueError: the address is malformed.
    """
    if address == "auto":
        return  # Ray finds processes of this machine without retries
    host, _, port = address.rpartition(":")
    if "/" in host or not port.isdecimal():
        raise ValueError("invalid address; write it like 10.0.0.5:6379, or auto")
    socket.create_connection((host.strip("[]"), int(port)), timeout).close()


def _nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


def check(settings: Settings, *, alone: bool = False) -> None:
    """Check that a running cluster can satisfy the settings; log what it cannot satisfy yet.

    Args:
        settings: the server's settings.
        alone: True if the cluster is this machine only, and no other will join. Default: False.

    Raises:
        ClusterError: several machines would have separate keys and jobs, or this machine lacks
            CPUs or GPUs.
    """
    machines = {node["NodeManagerAddress"] for node in _nodes() if node["Alive"]}
    if len(machines) > 1 and not settings.database_url:
        raise ClusterError(
            f"The cluster has {len(machines)} machines, but keys and jobs would be in a file on "
            "one of them. Set INFERENCE_DATABASE_URL to a PostgreSQL that all machines can reach."
        )
    if settings.cluster_patience >= settings.shutdown_timeout:
        logger.warning(
            "INFERENCE_CLUSTER_PATIENCE=%g is not less than INFERENCE_SHUTDOWN_TIMEOUT=%g: an "
            "ingress that stops drops requests that still wait for a replica. Lower the first, or "
            "raise the second",
            settings.cluster_patience,
            settings.shutdown_timeout,
        )
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for kind, count in resources_of(settings).items():
        available = resources.get(kind, 0.0)
        if count <= available:
            continue
        if alone:
            raise ClusterError(
                f"The replicas request {count:g} {kind}s, but this machine has {available:g}. "
                f"Lower INFERENCE_CLUSTER_*_REPLICAS or INFERENCE_CLUSTER_*_{kind}S."
            )
        logger.warning(
            "The replicas request %g %ss, but the cluster has %g: some replicas wait. Add "
            "machines, or lower INFERENCE_CLUSTER_*_REPLICAS or INFERENCE_CLUSTER_*_%sS",
            count,
            kind,
            available,
            kind,
        )
