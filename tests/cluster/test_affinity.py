"""All requests about an image go where its embedding is, however many replicas there are."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tests.cluster.servers import ClusterServer
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
    two: ClusterServer,
) -> None:
    """The hit rate is its ceiling; what moves is what the ring says, and nothing else."""
    before: dict[str, str] = {}
    held: set[tuple[str, str]] = set()
    for count in (2, 4, 2):
        two.deploy({"name": "visual", "num_replicas": count})
        two.until_deployed(ingress=2, visual=count, concept=1)
        after = {image: two.owner("visual", image).name for image in IMAGES}
        moved = {image for image in before if before[image] != after[image]}
        if before:
            assert 0 < len(moved) < len(IMAGES)
        if count == 4:
            known = set(before.values())
            assert all(after[image] not in known for image in moved), "they go to the new ones"
        # What comes back to a replica that has lived on finds its embedding there.
        new = [image for image in IMAGES if (after[image], image) not in held]
        assert sorted(missed(two, shuffled())) == sorted(new), "each of them once"
        held |= {(owner, image) for image, owner in after.items()}
        before = after


def test_half_of_the_images_go_to_each_of_two(two: ClusterServer) -> None:
    """As far as a hundred places of each replica on the ring make it so."""
    two.deploy()
    two.until_deployed(ingress=2, visual=2, concept=1)
    owners = [two.owner("visual", f"many-{number}").name for number in range(200)]
    assert 50 <= owners.count(owners[0]) <= 150
