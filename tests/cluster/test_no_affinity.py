"""Without the hash ring images are encoded repeatedly.

Runs after `test_faults`, whose last settings it keeps: others would replace every replica.
"""

from __future__ import annotations

import pytest

from tests.api.serving import ALICE
from tests.cluster.servers import NO_AFFINITY, ClusterServer
from tests.cluster.test_affinity import IMAGES, missed, shuffled
from tests.cluster.test_faults import UPDATED

pytestmark = pytest.mark.cluster


def test_images_are_encoded_by_several_replicas(bare: ClusterServer) -> None:
    """With Serve's default router, more replicas mean more encodings per image."""
    counts = []
    for count in (2, 4):
        plain = {"name": "visual", "num_replicas": count, "request_router_config": NO_AFFINITY}
        bare.deploy(plain, **UPDATED)
        bare.until_deployed(ingress=2, visual=count, concept=1)
        bare.http.request("DELETE", "/models", headers={"x-api-key": ALICE})
        counts.append(len(missed(bare, shuffled())))
    assert len(IMAGES) < counts[0] < counts[1]
