"""The examples of the OpenAPI document work as given: each is sent to a server."""

from __future__ import annotations

import base64
import json
from typing import Any

import cv2
import numpy as np
import pytest

from inference_server.demo import SAMPLE
from schemas.example_scene import EXAMPLE_SCENE
from tests.api.serving import CONCEPT, SAM3_EMBED, VISUAL, Running
from tests.api.test_openapi_document import FILE

DOCUMENT: dict[str, Any] = json.loads(FILE.read_bytes())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]


def request_schema(operation: dict[str, Any]) -> str | None:
    """The component of an operation's JSON body."""
    content = operation.get("requestBody", {}).get("content", {})
    reference = content.get("application/json", {}).get("schema", {}).get("$ref")
    return None if reference is None else str(reference).rpartition("/")[2]


REQUESTS = [
    pytest.param(path, number, example, id=f"{path} {number}")
    for path, methods in DOCUMENT["paths"].items()
    for operation in methods.values()
    if (name := request_schema(operation))
    for number, example in enumerate(SCHEMAS[name].get("examples", []))
]


def test_every_json_request_has_an_example() -> None:
    names = {
        name
        for methods in DOCUMENT["paths"].values()
        for operation in methods.values()
        if (name := request_schema(operation))
    }
    assert not [name for name in names if not SCHEMAS[name].get("examples")]
    assert len(REQUESTS) >= 20


@pytest.mark.parametrize(("path", "number", "example"), REQUESTS)
def test_an_example_works_as_given(
    server: Running, path: str, number: int, example: dict[str, Any]
) -> None:
    response = server.post(path, example)
    assert response.status_code == 200, response.text
    if path in (CONCEPT, VISUAL, "/sam2/segment_image"):
        results = response.json()["prompt_results"]
        assert all(result["predictions"] for result in results)
    if path == CONCEPT and number == 0:
        assert [len(result["predictions"]) for result in response.json()["prompt_results"]] == [
            2,
            1,
        ]
    if path == "/api/sam2_compatible":
        assert response.json()["num_objects"] >= 1


@pytest.mark.parametrize(("component", "path"), [("Sam3Prompt", CONCEPT), ("Sam2Prompt", VISUAL)])
def test_examples_of_prompts(server: Running, component: str, path: str) -> None:
    image = {"type": "base64", "value": EXAMPLE_SCENE}
    answer = server.answer(path, image=image, prompts=SCHEMAS[component]["examples"])
    assert all(result["predictions"] for result in answer["prompt_results"])


def test_the_example_of_an_image(server: Running) -> None:
    for image in SCHEMAS["InferenceRequestImage"]["examples"]:
        assert server.answer(SAM3_EMBED, image=image)["image_id"]


def test_no_example_of_a_request_needs_another_host() -> None:
    assert not [each.id for each in REQUESTS if "http" in json.dumps(each.values[2])]


def test_the_image_is_the_bundled_scene() -> None:
    data = np.frombuffer(base64.b64decode(EXAMPLE_SCENE), np.uint8)
    small = cv2.imdecode(data, cv2.IMREAD_COLOR)
    scene = cv2.imread(str(SAMPLE))
    assert small is not None
    assert scene is not None
    expected = cv2.resize(scene, (160, 120), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - expected).mean() < 5
