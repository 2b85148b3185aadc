"""A hot image: what its own replica is too busy for goes to the next one, and no farther."""

from __future__ import annotations

import json
import socket

import pytest

from inference_server.images.store import StoredImage
from tests.cluster.servers import ClusterServer
from tests.http.pictures import Picture, click, iou, plane
from tests.http.serving import ALICE, TIMEOUT, VISUAL, until

pytestmark = pytest.mark.cluster


def test_a_hot_image_spills_to_the_next_replica_and_no_farther(
    two: ClusterServer, picture: Picture
) -> None:
    """It is encoded once more there, and never a third time."""
    two.deploy({"name": "visual", "num_replicas": 3, "max_ongoing_requests": 1})
    two.until_deployed(ingress=2, visual=3, concept=1)
    two.http.request("DELETE", "/models", headers={"x-api-key": ALICE})
    item = picture.one("red square")

    def asked() -> str:
        """Clicks once: whether the embedding was there, a hit or a miss."""
        body = {"image": picture.sent, "prompts": {"prompts": [click(item)]}, "format": "rle"}
        answer = two.post(VISUAL, body)
        assert answer.status_code == 200, answer.text
        assert iou(plane(answer.json()["predictions"][0], picture.size), item.mask) > 0.8
        return answer.headers["x-embedding-cache"]

    owner = two.owner("visual", StoredImage.of(picture.data).digest)
    others = [replica for replica in two.replicas("visual") if replica != owner]
    assert [asked() for _ in range(3)] == ["miss", "hit", "hit"]
    # All objects of the image, by so many clicks that all else is done before; nobody waits for
    # them in the end.
    body = json.dumps({"image": picture.sent["value"], "points_per_side": 128}).encode()
    head = f"POST /v1/sam3-image HTTP/1.1\r\nhost: x\r\nx-api-key: {ALICE}\r\n"
    host, port = two.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as long:
        long.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: owner.ongoing() == 1, TIMEOUT)
        spilled = [asked() for _ in range(3)]
        assert owner.ongoing() == 1, "the image's own replica was to be busy all the while"
    assert spilled == ["miss", "hit", "hit"]
    until(lambda: all(replica.ongoing() == 0 for replica in (owner, *others)), 120)
    assert asked() == "hit"
