"""`cvat-cli`, unmodified, with integrations/cvat, against a running server and a stub of CVAT."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from inference_server.demo.scenes import SceneObject
from tests.api.pictures import Picture, Plane, iou
from tests.api.rasters import assert_same_objects
from tests.api.serving import ALICE, TIMEOUT, RunningHere
from tests.e2e.forwarding import Forwarding, forwarding
from tests.e2e.processes import ROOT
from tests.e2e.vendors.cvat_stub import FUNCTION, TASK, Cvat, cvat
from tests.e2e.vendors.environments import environment
from tests.environment import clean_environment

SAM = str(ROOT / "integrations" / "cvat" / "sam.py")

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter with `cvat-cli`."""
    return environment("cvat")


@pytest.fixture
def stub(picture: Picture) -> Iterator[Cvat]:
    """A stub of CVAT with the picture as its only frame."""
    with cvat(picture.data, picture.size, ["red circle", "square"]) as running:
        yield running


@pytest.fixture
def sent(server: RunningHere) -> Iterator[Forwarding]:
    """Forwards requests to the server, and keeps them."""
    with forwarding(server.url) as running:
        yield running


@pytest.fixture
def cli(python: Path, stub: Cvat, sent: Forwarding, tmp_path: Path) -> Cli:
    """Runs `cvat-cli` with a function of this project."""

    def run(
        *words: str, key: str = ALICE, succeeds: bool = True, **parameters: str
    ) -> subprocess.CompletedProcess[str]:
        named = {"url": sent.url, **parameters}
        options = [f"-p{name}=str:{value}" for name, value in named.items()]
        command = [str(python), "-m", "cvat_cli", "--server-host", stub.url, *words]
        done = subprocess.run(
            [*command, "--function-file", SAM, *options],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            env={
                **clean_environment(),
                "HOME": str(tmp_path),  # where it caches images
                "CVAT_ACCESS_TOKEN": "token",
                "SAM_SERVER_KEY": key,
            },
        )
        assert (done.returncode == 0) == succeeds, done.stderr
        return done

    return run


def interaction(
    positive: list[SceneObject], negative: list[SceneObject], box: SceneObject | None = None
) -> dict[str, Any]:
    """Return the parameters of a request for an interaction."""
    x0, y0, x1, y1 = map(float, box.box) if box is not None else (0.0, 0.0, 0.0, 0.0)
    return {
        "type": "interact",
        "task": TASK,
        "frame": 0,
        "pos_points": [list(map(float, item.click())) for item in positive],
        "neg_points": [list(map(float, item.click())) for item in negative],
        "obj_bbox": [[x0, y0], [x1, y1]] if box is not None else [],
    }


def decoded(points: list[float], size: tuple[int, int]) -> Plane:
    """Decode CVAT's masks: row-major run lengths in a box with inclusive corners."""
    *runs, left, top, right, bottom = map(int, points)
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    plane = np.zeros(size, np.bool_)
    plane[top : bottom + 1, left : right + 1] = flat.reshape(bottom - top + 1, right - left + 1)
    return plane


class TestInteraction:
    def test_clicks_and_boxes(
        self, cli: Cli, stub: Cvat, sent: Forwarding, picture: Picture, server: RunningHere
    ) -> None:
        assert cli("function", "create-native", "Clicks").stdout.strip() == str(FUNCTION)
        assert stub.function["kind"] == "interactor"
        assert stub.function["min_pos_points"] == stub.function["min_neg_points"] == 0
        assert stub.function["startswith_box_optional"] is True
        square, circle = picture.one("blue square"), picture.one("red circle")
        stub.waiting = [
            interaction([square], []),
            interaction([square], [circle]),
            interaction([], [], circle),
            interaction([], [circle]),
            interaction([circle], [], circle),
        ]

        def evict(count: int, body: dict[str, Any]) -> None:
            if count == 2:  # before the third request
                path = f"/images/{body['image_id']}"
                response = server.http.delete(path, headers={"x-api-key": ALICE})
                assert response.json()["forgotten"] is True

        sent.before = evict
        done = cli("function", "run-agent", str(FUNCTION), "--burst")
        assert stub.failed == [], done.stderr
        found = [answer["shapes"] for answer in stub.completed]
        assert [len(shapes) for shapes in found] == [1, 1, 1, 0, 1]
        for (shape,), item in zip(
            [*found[:3], found[4]], [square, square, circle, circle], strict=True
        ):
            assert shape["type"] == "mask"
            assert iou(decoded(shape["points"], picture.size), item.mask) > 0.8
            (confidence,) = shape["attributes"]
            assert confidence["spec_id"] == 0
            assert 0 < float(confidence["value"]) <= 1
        # The image is sent with the first request, and again when the server has evicted it.
        assert ["image" in body for body in sent.bodies] == [True, False, False, True, False]
        assert sent.statuses == [200, 200, 404, 200, 200]

    def test_errors_reach_the_user(self, cli: Cli, stub: Cvat, picture: Picture) -> None:
        cli("function", "create-native", "Clicks")
        stub.waiting = [interaction([picture.one("blue square")], [])]
        cli("function", "run-agent", str(FUNCTION), "--burst", key="wrong-key")
        (message,) = stub.failed
        assert "inference-server answered 401: The API key is wrong" in message
        assert "wrong-key" not in message
        assert stub.completed == []


class TestDetection:
    LABELS = "red circle,square=blue square"

    def test_labels_as_words(self, cli: Cli, stub: Cvat, picture: Picture) -> None:
        cli("function", "create-native", "Words", labels=self.LABELS)
        assert stub.function["kind"] == "detector"
        assert [each["name"] for each in stub.function["labels_v2"]] == stub.labels
        mapping = {name: {"name": name, "attributes": {}, "sublabels": {}} for name in stub.labels}
        frame = {"type": "annotate_frame", "task": TASK, "frame": 0, "mapping": mapping}
        stub.waiting = [
            {**frame, "threshold": None, "conv_mask_to_poly": False},
            {**frame, "threshold": 0.99, "conv_mask_to_poly": False},
            {**frame, "threshold": None, "conv_mask_to_poly": True},
        ]
        done = cli("function", "run-agent", str(FUNCTION), "--burst", labels=self.LABELS)
        assert stub.failed == [], done.stderr
        masks, none, polygons = (answer["annotations"]["shapes"] for answer in stub.completed)
        for label, text in ((100, "red circle"), (101, "blue square")):
            own = [shape for shape in masks if shape["label_id"] == label]
            assert all(shape["type"] == "mask" and shape["score"] >= 0.5 for shape in own)
            found = [decoded(shape["points"], picture.size) for shape in own]
            assert_same_objects(found, picture.matching(text))
        assert none == []
        assert {shape["type"] for shape in polygons} == {"polygon"}
        assert {shape["label_id"] for shape in polygons} == {100, 101}
        canvas = np.zeros(picture.size, np.uint8)
        for shape in polygons:
            cv2.fillPoly(canvas, [np.array(shape["points"], np.int32).reshape(-1, 2)], [1])
        truth = [*picture.matching("red circle"), *picture.matching("blue square")]
        assert iou(canvas > 0, np.any(truth, axis=0)) > 0.8

    def test_a_task_at_once(self, cli: Cli, stub: Cvat, picture: Picture) -> None:
        cli("task", "auto-annotate", str(TASK), labels="red circle")
        (upload,) = stub.uploaded
        found = [decoded(shape["points"], picture.size) for shape in upload["shapes"]]
        assert_same_objects(found, picture.matching("red circle"))
        assert {shape["label_id"] for shape in upload["shapes"]} == {100}

    def test_a_label_that_the_task_lacks(self, cli: Cli, stub: Cvat) -> None:
        done = cli("task", "auto-annotate", str(TASK), labels="whale", succeeds=False)
        assert "whale" in done.stderr
        assert stub.uploaded == []


def test_a_server_that_cannot_be_reached(cli: Cli, stub: Cvat) -> None:
    url = "http://x:secret@127.0.0.1:1"
    done = cli("task", "auto-annotate", str(TASK), labels="red circle", url=url, succeeds=False)
    assert "inference-server at 127.0.0.1 cannot be reached" in done.stderr
    assert "secret" not in done.stderr
    assert httpx.URL(url).password == "secret"  # it is in the address
    assert stub.uploaded == []
