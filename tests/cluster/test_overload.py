"""More requests than replicas may have.

Runs last of the tests on the cluster, because its settings replace every replica.
"""

from __future__ import annotations

import threading

import httpx
import pytest

from tests.api.pictures import noise
from tests.api.serving import VISUAL
from tests.cluster.servers import DEADLINE, ClusterServer

pytestmark = pytest.mark.cluster


def test_overload_is_429_in_the_apis_error_format(bare: ClusterServer) -> None:
    """INFERENCE_QUEUE_SIZE bounds the requests that wait for replicas, per ingress."""
    bare.deploy(cluster_visual_replicas="1", cluster_ongoing=1, queue_size=1)
    bare.until_deployed(ingress=2, visual=1, concept=1)
    answers: list[httpx.Response] = []

    bodies = [{"image": noise(n, (480, 640)), "prompts": {"prompts": []}} for n in range(24)]

    def ask(number: int) -> None:
        answers.append(bare.post(VISUAL, bodies[number]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    statuses = [answer.status_code for answer in answers]
    assert sorted(set(statuses)) == [200, 429], statuses
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert "wait for visual replicas" in answer.json()["message"]
