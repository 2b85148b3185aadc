"""All requests about an image go to the replica with its embedding, at any number of replicas."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from inference_server.segmentation.types import StoredImage
from tests.api.pictures import Picture, click, iou, noise, plane
from tests.api.serving import ALICE, TIMEOUT, VISUAL, sending, until
from tests.cluster.servers import ClusterServer

pytestmark = pytest.mark.cluster

IMAGES = [f"image-{number}" for number in range(24)]
CLICKS = 5


def missed(server: ClusterServer, images: Sequence[str]) -> list[str]:
    """Send a request about each image in order; return the images that had to be encoded."""
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
    """Return every image several times, in a shuffled order that is the same in each run."""
    order = IMAGES * CLICKS
    random.Random(5).shuffle(order)
    return order


def test_images_are_encoded_once_and_few_move_when_scaling(
    two: ClusterServer,
) -> None:
    """The hit rate is the maximum possible; only images whose owner changed are encoded again."""
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
            assert all(after[image] not in known for image in moved), "moved to the new replicas"
        # An image that returns to a replica that kept running finds its embedding there.
        new = [image for image in IMAGES if (after[image], image) not in held]
        assert sorted(missed(two, shuffled())) == sorted(new), "each one is encoded once"
        held |= {(owner, image) for image, owner in after.items()}
        before = after


def test_images_are_spread_evenly(two: ClusterServer) -> None:
    """Approximately: each replica has a hundred positions on the ring."""
    two.deploy()
    two.until_deployed(ingress=2, visual=2, concept=1)
    owners = [two.owner("visual", f"many-{number}").name for number in range(200)]
    assert 50 <= owners.count(owners[0]) <= 150


def test_a_hot_image_spills_to_one_more_replica(two: ClusterServer, picture: Picture) -> None:
    """The image is encoded once more on the next replica, and never on a third one."""
    two.deploy({"name": "visual", "num_replicas": 3, "max_ongoing_requests": 1})
    two.until_deployed(ingress=2, visual=3, concept=1)
    two.http.request("DELETE", "/models", headers={"x-api-key": ALICE})
    item = picture.one("red square")

    def asked() -> str:
        """Click once; return `hit` or `miss` of the embedding cache."""
        body = {"image": picture.sent, "prompts": {"prompts": [click(item)]}, "format": "rle"}
        answer = two.post(VISUAL, body)
        assert answer.status_code == 200, answer.text
        assert iou(plane(answer.json()["predictions"][0], picture.size), item.mask) > 0.8
        return answer.headers["x-embedding-cache"]

    owner = two.owner("visual", StoredImage.of(picture.data).digest)
    others = [replica for replica in two.replicas("visual") if replica != owner]
    assert [asked() for _ in range(3)] == ["miss", "hit", "hit"]
    # Automatic segmentation with so many points that it outlasts the clicks below; then the client
    # disconnects.
    body = {"image": picture.sent["value"], "points_per_side": 128}
    with sending(two, "/v1/sam3-image", body):
        until(lambda: owner.ongoing() == 1, TIMEOUT)
        spilled = [asked() for _ in range(3)]
        assert owner.ongoing() == 1, "the owner must be busy during the clicks"
    assert spilled == ["miss", "hit", "hit"]
    until(lambda: all(replica.ongoing() == 0 for replica in (owner, *others)))
    assert asked() == "hit"
