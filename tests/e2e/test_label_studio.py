"""The real Label Studio with this server as its ML backend."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from inference_server.demo.scenes import make_scene
from inference_server.masks import Mask, encode_brush
from tests.api.label_studio.projects import (
    PREDICT,
    body,
    click,
    config,
    data_url,
    plane,
    point,
    post,
    rectangle,
    task,
    words,
)
from tests.api.pictures import Picture, Plane, iou
from tests.api.rasters import assert_same_objects
from tests.api.serving import ALICE, RunningHere, in_process, serving
from tests.e2e.label_studio import LEGACY, Studio, studio
from tests.readme import DOCS

pytestmark = pytest.mark.timeout(900)
"""Installing and starting Label Studio and the tests take 90 seconds of a core."""

RED, BLUE = "red circle", "blue square"

ORACLE = """
import json, sys
import numpy as np
from label_studio_sdk.converter.brush import decode_rle, mask2rle
for size, runs, mask in json.load(sys.stdin):
    mask = np.array(mask, np.uint8)
    decoded = decode_rle(runs).reshape(*size, 4)
    assert (decoded == mask[..., None] * 255).all(), size
    theirs = mask2rle(mask * 255)
    assert theirs in (runs, [*runs, 0]), size
print("equal")
"""


@pytest.fixture(scope="module")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A running Label Studio; it takes half a minute to start, so all tests share it."""
    with studio(tmp_path_factory.mktemp("studio")) as running:
        yield running


@pytest.fixture(scope="module")
def server(label_studio: Studio) -> Iterator[RunningHere]:
    """A server that fetches from Label Studio."""
    with serving(label_studio_url=label_studio.url, label_studio_api_key=LEGACY) as running:
        yield running


@pytest.fixture(scope="module")
def other() -> Picture:
    """Another picture with the same kinds of objects."""
    shapes, colors = ("circle", "square"), ("red", "blue")
    return Picture(make_scene(77, (512, 384), count=(6, 6), shapes=shapes, colors=colors))


def masks(prediction: dict[str, Any], label: str) -> list[Plane]:
    return [
        plane(region)
        for region in prediction["result"]
        if region["value"][region["type"]] == [label]
    ]


def connected(label_studio: Studio, server: RunningHere, project: int, **options: Any) -> int:
    response = label_studio.connect(project, f"{server.url}/label-studio", ALICE, **options)
    assert response.status_code == 201, response.text
    assert response.json()["readable_state"] == "Connected"
    backend: int = response.json()["id"]
    return backend


def test_the_sdk_reads_and_writes_the_same_brushes(label_studio: Studio) -> None:
    rng = np.random.default_rng(4)
    planes = [
        np.ones((2, 2), np.bool_),
        np.zeros((3, 5), np.bool_),
        np.ones((300, 400), np.bool_),
        rng.random((37, 53)) < 0.5,
        rng.random((70, 200)) < 0.02,
    ]
    sent = [
        [each.shape, encode_brush(Mask.from_plane(each)).tolist(), each.astype(int).tolist()]
        for each in planes
    ]
    done = subprocess.run(
        [str(label_studio.python), "-c", ORACLE],
        input=json.dumps(sent),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr


def test_a_wrong_key_and_a_useless_configuration_are_reported(
    label_studio: Studio, server: RunningHere
) -> None:
    project, _ = label_studio.create(config(RED))
    url = f"{server.url}/label-studio"
    refused = label_studio.connect(project, url, "wrong")
    assert refused.status_code == 400
    assert "authentication parameters were" in refused.text
    text = '<View><Text name="t" value="$text"/></View>'
    label_studio.call("PATCH", f"/api/projects/{project}", json={"label_config": text})
    refused = label_studio.connect(project, url, ALICE)
    assert refused.status_code == 400
    assert "look like a valid ML backend" in refused.text


def test_a_project_from_its_batch_to_its_clicks(
    label_studio: Studio, server: RunningHere, picture: Picture, other: Picture
) -> None:
    pictures = [picture, other]
    files = [(f"{number}.png", each.data) for number, each in enumerate(pictures)]
    project, tasks = label_studio.create(
        config(RED, BLUE), *files, ("broken.png", b"\x89PNG broken")
    )
    backend = connected(label_studio, server, project)

    found = label_studio.retrieve(project)
    for number, each in zip(tasks, pictures, strict=False):
        (prediction,) = found[number]
        for label in (RED, BLUE):
            assert_same_objects(masks(prediction, label), each.matching(label), 0.8)
        assert 0.5 < prediction["score"] <= 1
    (failed,) = found[tasks[2]]
    assert failed["result"] == []
    version = label_studio.call("GET", f"/api/ml/{backend}")["model_version"]
    assert label_studio.call("GET", f"/api/ml/{backend}/versions")["versions"] == [version]
    assert found[tasks[0]][0]["model_version"] == version

    # Only the task that failed runs again; with other labels, all do.
    again = label_studio.retrieve(project)
    assert [len(again[number]) for number in tasks] == [1, 1, 2]
    changed = {"label_config": config(RED, BLUE, "cross")}
    label_studio.call("PATCH", f"/api/projects/{project}", json=changed)
    again = label_studio.retrieve(project)
    assert [len(again[number]) for number in tasks] == [2, 2, 3]

    item, disturbing = picture.one(BLUE), picture.one("red square")
    clicks = [click(item, BLUE)]
    for _ in range(2):
        answer = label_studio.ask(backend, tasks[0], *clicks)
        (mask,) = masks(answer, BLUE)
        assert iou(mask, item.mask) > 0.8
        clicks.append(point(*disturbing.click(), BLUE, positive=False))
    (mask,) = masks(label_studio.ask(backend, tasks[0], rectangle(item, BLUE)), BLUE)
    assert iou(mask, item.mask) > 0.8
    size = other.size
    (mask,) = masks(label_studio.ask(backend, tasks[1], rectangle(other.one(RED), RED, size)), RED)
    assert iou(mask, other.one(RED).mask) > 0.8
    told = label_studio.ask(backend, tasks[0], words("blue square"))
    assert_same_objects(masks(told, BLUE), picture.matching(BLUE), 0.8)
    assert label_studio.ask(backend, tasks[0])["result"] == []

    # A prediction becomes an annotation with the same brush.
    prediction = again[tasks[0]][-1]
    kept = label_studio.call(
        "POST", f"/api/tasks/{tasks[0]}/annotations", json={"result": prediction["result"]}
    )
    assert_same_objects(masks(kept, RED), picture.matching(RED), 0.8)


@pytest.mark.parametrize("output", ["PolygonLabels", "RectangleLabels", "BitmaskLabels"])
def test_other_outputs_and_exemplars(
    label_studio: Studio, server: RunningHere, picture: Picture, output: str
) -> None:
    project, (number,) = label_studio.create(
        config(RED, BLUE, output=output), ("a.png", picture.data)
    )
    backend = connected(label_studio, server, project, extra_params={"box": "exemplar"})
    (prediction,) = label_studio.retrieve(project)[number]
    assert {region["type"] for region in prediction["result"]} == {output.lower()}
    assert_same_objects(masks(prediction, RED), picture.matching(RED))
    answer = label_studio.ask(backend, number, rectangle(picture.one(RED), RED))
    assert_same_objects(masks(answer, RED), picture.matching(RED))


def test_a_batch_that_takes_too_long_is_sent_one_by_one(
    label_studio: Studio, picture: Picture, other: Picture
) -> None:
    files = [("a.png", picture.data), ("b.png", other.data), ("c.png", picture.data)]
    project, tasks = label_studio.create(config(RED), *files)
    with serving(
        label_studio_url=label_studio.url,
        label_studio_api_key=LEGACY,
        label_studio_batch_seconds=0.001,
    ) as slow:
        connected(label_studio, slow, project)
        found = label_studio.retrieve(project)
        assert slow.metric("inference_requests_total", route=PREDICT) == 1 + len(tasks)
    for number, each in zip(tasks, (picture, other, picture), strict=True):
        (prediction,) = found[number]
        assert_same_objects(masks(prediction, RED), each.matching(RED), 0.8)


def test_every_place_of_an_image_and_both_kinds_of_token(
    label_studio: Studio, picture: Picture
) -> None:
    (label_studio.files / "images" / "a b.png").write_bytes(picture.data)
    project, (number,) = label_studio.create(config(RED), ("a.png", picture.data))
    uploaded = label_studio.call("GET", f"/api/tasks/{number}")["data"]["image"]
    assert uploaded.startswith("/data/upload/")
    storage = {"project": project, "path": str(label_studio.files / "images"), "title": "files"}
    storage |= {"use_blob_urls": True, "regex_filter": ".*"}
    label_studio.call("POST", "/api/storages/localfiles", json=storage)
    personal = label_studio.call("POST", "/api/token", json={})["token"]
    for token in (LEGACY, personal):
        settings = {"label_studio_url": label_studio.url, "label_studio_api_key": token}
        with in_process(**settings) as server:
            for image in (
                uploaded,
                label_studio.url + uploaded,
                "/data/local-files/?d=images/a%20b.png",
                data_url(picture.data),
            ):
                sent = body([task(number, image)], config(RED))
                (found,) = post(server, PREDICT, sent).json()["results"]
                assert_same_objects(masks(found, RED), picture.matching(RED), 0.8)
            sent = body([task(number, "s3://bucket/a.png")], config(RED))
            (found,) = post(server, PREDICT, sent).json()["results"]
            assert found["result"] == []  # no such storage
    for token in ("", "0" * 40, personal[:-3] + "abc"):
        with in_process(label_studio_url=label_studio.url, label_studio_api_key=token) as server:
            context = {"result": [words(RED)]}
            response = post(server, PREDICT, body([task(number, uploaded)], config(RED), context))
            assert response.status_code == 400, response.text
            assert "INFERENCE_LABEL_STUDIO_API_KEY" in response.json()["detail"]


def test_the_documented_call_connects_the_server(label_studio: Studio, server: RunningHere) -> None:
    page = (DOCS / "label-studio.md").read_text()
    text = page.split("curl -s http://127.0.0.1:8080/api/ml", 1)[1].split("-d '", 1)[1]
    sent = json.loads(text.split("'\n", 1)[0])
    documented = page.split('```xml title="config.xml"\n', 1)[1].split("```", 1)[0]
    project, _ = label_studio.create(documented)
    sent |= {"project": project, "url": f"{server.url}/label-studio", "basic_auth_pass": ALICE}
    assert label_studio.http.post("/api/ml", json=sent).status_code == 201
