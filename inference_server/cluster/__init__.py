"""The server on a Ray cluster: engines as Serve deployments, each image where its embedding is.

    client ── Serve's proxy ── ingress ──┬── concept: SAM 3, one replica a GPU or a part of one
                               (HTTP,    └── visual: SAM 2
                                keys,        each with a `Segmenter` of its own:
                                jobs)        files, embeddings, lanes, masks

The ingress is the same application as everywhere, with a `ClusterSegmenter` in it. All requests of
a tenant about an image go to one replica of each engine, the same while it lives. What crosses the
wire is small: a file once, then its digest; prompts; run lengths of masks. An embedding stays.

Ray is imported where it is needed, and is there with the extra `cluster`.
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
    from inference_server.cluster.running import check
    from inference_server.settings import Settings

    settings = Settings(**(args or {}))
    if ray.is_initialized():  # not where a configuration is only looked at
        check(settings)
    return build(settings)
