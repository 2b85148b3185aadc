"""Requests succeed, or get 503, while replicas and nodes fail or roll over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from inference_server.segmentation.types import StoredImage
from tests.api.pictures import Picture, click, iou, plane
from tests.api.serving import ALICE, VISUAL, until
from tests.cluster.servers import DEADLINE, ClusterServer

pytestmark = pytest.mark.cluster

UPDATED = {"max_prompts": 17}
"""Settings since the rolling update."""

_CLIENTS = 3

_PAUSE = 0.2
"""Seconds between requests of a client: without, they would take the time of starting replicas."""


class Load:
    """Clients that click again and again and check every mask.

    Args:
        server: the server.
        picture: the image that they click on.
        retrying: whether clients repeat a request whose connection breaks. Default: False.

    Attributes:
        answers: all responses.
        wrong: descriptions of failed connections and wrong masks.
        broken: number of connections that broke and were repeated.
    """

    def __init__(self, server: ClusterServer, picture: Picture, *, retrying: bool = False) -> None:
        self.answers: list[httpx.Response] = []
        self.wrong: list[str] = []
        self.broken = 0
        self._retrying = retrying
        self._server = server
        self._picture = picture
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._click, args=(n,)) for n in range(_CLIENTS)]

    def _click(self, client: int) -> None:
        item = self._picture.one("red square")
        body = {"image": self._picture.sent, "prompts": {"prompts": [click(item)]}, "format": "rle"}
        number = 0
        while not self._ended.wait(_PAUSE):
            number += 1
            body["image_id"] = f"load-{client}-{number % 6}"
            try:
                answer = self._server.post(VISUAL, body)
            except httpx.HTTPError as error:
                if self._retrying and isinstance(
                    error, httpx.ReadError | httpx.RemoteProtocolError
                ):
                    self.broken += 1
                else:
                    self.wrong.append(repr(error))
                continue
            self.answers.append(answer)
            if answer.status_code == 200:
                mask = plane(answer.json()["predictions"][0], self._picture.size)
                if iou(mask, item.mask) < 0.8:
                    self.wrong.append("a wrong mask")

    def until_more(self, count: int) -> None:
        """Wait for a number of further responses."""
        goal = len(self.answers) + count
        until(lambda: len(self.answers) >= goal or self.wrong, DEADLINE)

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            self.until_more(10)
            yield
            self.until_more(10)
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join(DEADLINE)

    def failed(self) -> list[str]:
        """Return descriptions of everything but correct responses."""
        bad = [f"{a.status_code} {a.text}" for a in self.answers if a.status_code != 200]
        return bad + self.wrong


@pytest.fixture
def load(two: ClusterServer, picture: Picture) -> Load:
    return Load(two, picture)


def test_a_killed_replica_fails_no_request(two: ClusterServer, load: Load) -> None:
    before = two.replicas("visual")
    with load.running():
        before[0].kill()
        load.until_more(20)
    assert load.failed() == []
    two.until_deployed(ingress=2, visual=2, concept=1, without=before[:1])


def test_a_killed_ingress_is_replaced_by_the_others(two: ClusterServer, picture: Picture) -> None:
    """Connections to it break; repeated requests get 200 from another ingress, and never a 500."""
    load = Load(two, picture, retrying=True)
    before = two.replicas("ingress")
    with load.running():
        before[0].kill()
        load.until_more(20)
        assert load.failed() == []
    assert load.failed() == []
    assert load.broken <= 2 * _CLIENTS, "only connections that it had accepted"
    two.until_deployed(ingress=2, visual=2, concept=1, without=before[:1])


def long_request(server: ClusterServer, picture: Picture, answers: list[httpx.Response]) -> Any:
    """Start automatic segmentation in a thread, long enough to kill its replica meanwhile."""

    def ask() -> None:
        files = {"file": ("a.png", picture.data)}
        fields = {"points_per_side": "32", "output_format": "geojson"}
        headers = {"x-api-key": ALICE}
        answers.append(
            server.http.post("/segment/automatic", headers=headers, files=files, data=fields)
        )

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_a_request_of_a_killed_replica_is_retried(two: ClusterServer, picture: Picture) -> None:
    """If the second replica dies too, the response is 503 with `Retry-After`, not a bare 500."""
    answers: list[httpx.Response] = []
    owner = two.owner("visual", StoredImage.of(picture.data).digest)
    thread = long_request(two, picture, answers)
    until(lambda: owner.ongoing() == 1 or answers)
    assert not answers, "the request must outlast the wait"
    owner.kill()
    thread.join(DEADLINE)
    (answer,) = answers
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["features"]) >= len(picture.scene.objects)
    two.until_deployed(ingress=2, visual=2, concept=1, without=[owner])

    answers.clear()
    owner = two.owner("visual", StoredImage.of(picture.data).digest)
    (other,) = (r for r in two.replicas("visual") if r.name != owner.name)
    thread = long_request(two, picture, answers)
    until(lambda: owner.ongoing() == 1 or answers)
    owner.kill()
    until(lambda: other.ongoing() == 1 or answers)
    other.kill()
    thread.join(DEADLINE)
    (answer,) = answers
    # 200 if the second replica had not started on the request, and a third one answered.
    assert answer.status_code in (200, 503), answer.text
    if answer.status_code == 503:
        assert int(answer.headers["retry-after"]) >= 1
        assert "Try again shortly" in answer.json()["detail"]
    two.until_deployed(ingress=2, visual=2, concept=1, without=[owner, other])
    assert two.visual(picture.sent, click(picture.one("red square")))


def test_a_rolling_update_fails_no_request(two: ClusterServer, load: Load) -> None:
    before = [replica for name in ("ingress", "visual") for replica in two.replicas(name)]
    with load.running():
        two.deploy(**UPDATED)
        two.until_deployed(ingress=2, visual=2, concept=1, without=before)
    assert load.failed() == []


def test_scaling_down_fails_no_request(two: ClusterServer, load: Load) -> None:
    with load.running():
        for count in (1, 2):
            two.deploy({"name": "visual", "num_replicas": count}, **UPDATED)
            two.until_deployed(ingress=2, visual=count, concept=1)
    assert load.failed() == []


def test_a_lost_node_is_replaced(two: ClusterServer, load: Load) -> None:
    """A node that is added replaces it."""
    before = two.replicas("visual")
    node = before[0].node
    with load.running():
        two.lose_node(node)
        load.until_more(20)
    refused = [answer for answer in load.answers if answer.status_code != 200]
    assert load.wrong == []
    assert {answer.status_code for answer in refused} <= {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    two.until_deployed(
        ingress=2,
        visual=2,
        concept=1,
        without=[replica for replica in before if replica.node == node],
    )
    two.add_node()
