"""Ray Serve's autoscaling by requests that do not pass through its handles."""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext

ONGOING = "inference_ongoing"
"""Name of the metric that replicas report: requests in progress and, at an engine, waiting."""


def by_ongoing(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Return how many replicas a deployment needs; Serve applies its bounds and delays.

    Args:
        context: the deployment and the metrics of its replicas.

    Returns:
        Number of replicas at which each has `target_ongoing_requests`, and no state.
    """
    running = context.current_num_replicas
    if not running or context.config is None:
        return context.target_num_replicas, {}
    measured = (context.aggregated_metrics or {}).get(ONGOING, {})
    total = sum(measured.values()) + context.total_num_requests
    return total / context.config.get_target_ongoing_requests(), {}
