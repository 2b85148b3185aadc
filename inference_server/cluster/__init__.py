"""The server on a Ray cluster: engines as Serve deployments, requests routed to cached embeddings.

    client -- Serve's proxy -- ingress --+-- concept: SAM 3, one replica per GPU or GPU share
                               (HTTP,    +-- visual: SAM 2
                                keys,        each with its own `LocalSegmentationService`:
                                jobs)        files, embeddings, queues, masks

The ingress runs the same application as a single process, with a `ClusterSegmentationService`. All
requests of a tenant about one image go to the same replica of each engine while that replica lives.
Messages are small: an image file once, then its digest; prompts; run-length masks. Embeddings stay
in their replica.

Ray is imported lazily; the extra `cluster` installs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve import Application


def application(args: dict[str, Any] | None = None) -> Application:
    """Make the Serve application: `serve run inference_server.cluster:application`.

    Args:
        args: settings by name, such as `{"cluster_visual_replicas": "1-8"}`; what is not given is
            read from the environment, as everywhere.

    Raises:
        SettingsError: a value that cannot be.
        ClusterError: the cluster has several machines, and no database for all of them is named.
    """
    import ray

    from inference_server.cluster.deployments import build
    from inference_server.cluster.launcher import check
    from inference_server.settings import Settings

    settings = Settings(**(args or {}))
    if ray.is_initialized():  # not where a configuration is only looked at
        check(settings)
    return build(settings)
