"""The server on a Ray cluster: engines as Serve deployments, requests routed to cached embeddings.

    client -- ingress --+-- concept: SAM 3, one replica per GPU or GPU share
              (HTTP,    +-- visual: SAM 2
               keys,        each with its own `LocalSegmentationService`:
               jobs)        files, embeddings, queues, masks

The ingress runs the same application as a single process, with a `ClusterSegmentationService`. All
requests of a tenant about one image go to the same replica of each engine, as long as that replica
is running. Serve places, scales and replaces the replicas; requests reach them on connections of
their own. Messages are small: an image file once and its digest afterwards, prompts, run-length
masks. Embeddings never leave their replica.

Ray is imported lazily; the extra `cluster` installs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve import Application


def application(args: dict[str, Any] | None = None) -> Application:
    """Build the Serve application: `serve run inference_server.cluster:application`.

    Args:
        args: settings by name, such as `{"cluster_visual_replicas": "1-8"}`. All other settings
            come from the environment. Default: none.

    Returns:
        The application, bound to its deployments; nothing is started.

    Raises:
        SettingsError: a value is invalid.
        ClusterError: the cluster has several machines but no shared database is configured.
    """
    import ray

    from inference_server.cluster.deployments import build
    from inference_server.cluster.launcher import check
    from inference_server.settings import Settings

    settings = Settings(**(args or {}))
    if ray.is_initialized():  # false when a configuration is only validated
        check(settings)
    return build(settings)
