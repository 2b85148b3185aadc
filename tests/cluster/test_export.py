"""Metrics of the replicas, as Prometheus scrapes them from each node."""

from __future__ import annotations

import httpx
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from tests.api.pictures import noise
from tests.api.serving import ALICE, VISUAL, until
from tests.cluster.servers import ClusterServer

pytestmark = pytest.mark.cluster

CACHE = "ray_inference_embedding_cache_"


def samples(deployment: str) -> dict[str, dict[str, float]]:
    """Return the values of a deployment's metrics on all nodes, by name and replica."""
    found: dict[str, dict[str, float]] = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if not node["Alive"]:
            continue
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for family in text_string_to_metric_families(httpx.get(url, timeout=120).text):
            for sample in family.samples:
                if "_inference_" in sample.name and sample.labels["deployment"] == deployment:
                    found.setdefault(sample.name, {})[sample.labels["replica"]] = sample.value
    return found


def test_rays_metrics_include_the_caches_of_all_replicas(two: ClusterServer) -> None:
    two.http.request("DELETE", "/models", headers={"x-api-key": ALICE})
    names = [f"measured-{number}" for number in range(8)]
    for _ in range(2):
        for number, name in enumerate(names):
            body = {"image": noise(number), "image_id": name, "prompts": {"prompts": []}}
            assert two.post(VISUAL, body).status_code == 200
    owners = [two.owner("visual", name).name for name in names]
    kept = {each.name: owners.count(each.name) for each in two.replicas("visual")}
    until(lambda: samples("visual").get(f"{CACHE}entries") == kept)
    # Counters include the requests of earlier tests, and may be exported a moment later.

    def told(name: str) -> bool:
        return sum(samples("visual").get(CACHE + name, {}).values()) >= len(names)

    until(lambda: told("hits_total") and told("misses_total"))
    until(lambda: f"{CACHE}entries" in samples("concept"))
    read = samples("visual")
    assert read[f"{CACHE}max_bytes"].keys() == kept.keys()
    assert min(read[f"{CACHE}max_bytes"].values()) > 0
    assert "ray_inference_queue_depth" in read
    assert samples("concept")[f"{CACHE}entries"].keys().isdisjoint(kept)
