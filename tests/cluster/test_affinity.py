"""All requests about an image go where its embedding is, however many replicas there are."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.cluster.servers import NO_AFFINITY, ClusterServer
from tests.http.pictures import noise
from tests.http.serving import VISUAL

pytestmark = pytest.mark.cluster

IMAGES = [f"image-{number}" for number in range(24)]
CLICKS = 5


def missed(server: ClusterServer, images: Sequence[str]) -> list[str]:
    """Asks about images, in this order: those that had to be encoded."""
    found = []
    for image in images:
        body = {
            "image": noise(int(image.rpartition("-")[2])),
            "image_id": image,
            "prompts": {"prompts": []},
        }
        response = server.post(VISUAL, body)
        assert response.status_code == 200, response.text
        if response.headers["x-embedding-cache"] == "miss":
            found.append(image)
    return found


def shuffled() -> list[str]:
    """Every image several times, in an order that is always the same."""
    order = IMAGES * CLICKS
    random.Random(5).shuffle(order)
    return order


def test_each_image_is_encoded_once_and_few_move_when_replicas_come_and_go(
    bare: ClusterServer,
) -> None:
    """The hit rate is its ceiling; what moves is what the ring says, and nothing else."""
    for count in (2, 4, 2):
        before = {}
        if count != 2 or "visual" in _deployed(bare):
            before = {image: bare.owner("visual", image).name for image in IMAGES}
        bare.deploy([{"name": "visual", "num_replicas": count}])
        bare.until_deployed(ingress=1, visual=count, concept=1)
        after = {image: bare.owner("visual", image).name for image in IMAGES}
        moved = [image for image in IMAGES if before.get(image) != after[image]]
        if before:
            assert 0 < len(moved) < len(IMAGES)
            if count == 4:
                alive = set(before.values())
                assert all(after[image] not in alive for image in moved), "moves go to new ones"
        missing = missed(bare, shuffled())
        assert sorted(missing) == sorted(moved), "each of them once"


def _deployed(server: ClusterServer) -> set[str]:
    try:
        return {"visual"} if server.replicas("visual") else set()
    except KeyError:
        return set()


@pytest.mark.parametrize(("count", "least"), [(2, 36), (4, 55)])
def test_without_affinity_images_are_encoded_wherever_they_come(
    bare: ClusterServer, count: int, least: int
) -> None:
    """What the ring is for: by Serve's own router, images are encoded by most of the replicas."""
    plain = {"name": "visual", "num_replicas": count, "request_router_config": NO_AFFINITY}
    bare.deploy([plain], max_prompts=16 + count)  # replicas that have seen nothing
    bare.until_deployed(ingress=1, visual=count, concept=1)
    assert len(missed(bare, shuffled())) >= least
