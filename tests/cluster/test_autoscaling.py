"""Autoscaling: replicas start and stop with the load. Takes a minute or two."""

from __future__ import annotations

import pytest

from tests.api.pictures import Picture
from tests.api.serving import until
from tests.cluster.servers import DEADLINE, ClusterServer
from tests.cluster.test_deployments import deployments
from tests.cluster.test_faults import Load

pytestmark = pytest.mark.slow

QUICK = {"upscale_delay_s": 1, "downscale_delay_s": 2, "look_back_period_s": 2}
"""Ray's defaults wait 30 s before scaling up and 10 minutes before scaling down."""


def test_replicas_scale_with_the_load(two: ClusterServer, picture: Picture) -> None:
    """`MIN-MAX` from the settings scales a deployment without failed requests."""
    made = deployments(cluster_visual_replicas="1-2", cluster_target=0.1)
    scaling = made["visual"]._deployment_config.autoscaling_config.model_dump(exclude_unset=True)
    two.deploy({"name": "visual", "autoscaling_config": {**scaling, **QUICK}})
    two.until_deployed(ingress=2, visual=1, concept=1)
    load = Load(two, picture)
    with load.running():
        until(lambda: len(two.replicas("visual")) == 2, DEADLINE)
        load.until_more(20)
    until(lambda: len(two.replicas("visual")) == 1, DEADLINE)
    assert load.failed() == []
