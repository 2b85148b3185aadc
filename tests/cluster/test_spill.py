"""A hot image: what its own replica is too busy for goes to the next one, and no farther."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from inference_server.images.store import StoredImage
from tests.cluster.servers import ClusterServer
from tests.http.pictures import Picture, click, iou, plane
from tests.http.serving import ALICE, VISUAL, until

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

    def everything() -> httpx.Response:
        """All objects of the image: takes long."""
        return two.http.post(
            "/segment/automatic",
            headers={"x-api-key": ALICE},
            files={"file": ("a.png", picture.data)},
            data={"points_per_side": "64", "output_format": "geojson"},
        )

    owner = two.owner("visual", StoredImage.of(picture.data).digest)
    others = [replica for replica in two.replicas("visual") if replica != owner]
    assert [asked() for _ in range(3)] == ["miss", "hit", "hit"]
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(everything)
        until(lambda: owner.ongoing() == 1, 120)
        spilled = [asked() for _ in range(3)]
        busy = owner.ongoing()
        assert long.result().status_code == 200
    assert busy == 1, "the image's own replica was to be busy all the while"
    assert spilled == ["miss", "hit", "hit"]
    until(lambda: all(replica.ongoing() == 0 for replica in (owner, *others)), 120)
    assert asked() == "hit"
