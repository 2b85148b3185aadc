"""`openapi/openapi.json`, the source of the generated clients, matches the server."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from inference_server import __version__
from inference_server.api.app import OPERATIONS
from inference_server.api.headers import RESULT_HEADERS
from inference_server.api.openapi import build_document
from tests.api.label_studio.projects import body as label_body
from tests.api.label_studio.projects import config, data_url, words
from tests.api.label_studio.projects import task as label_task
from tests.api.pictures import Picture, click
from tests.api.rasters import AUTOMATIC, PREDICT, TEXT, geotiff, post
from tests.api.serving import ALICE, BOB, Running

SOMETIMES = {
    "accept-encoding",
    "idempotent-replayed",
    "x-image-mismatch",
    "x-credits-remaining",
    "x-model-load-time",
}
ON_503 = {"retry-after"}  # only where a retry can succeed: not for missing weights

OF_HTTP = {
    *("content-type", "content-length", "content-encoding", "date", "server", "connection"),
    *("vary", "etag", "cache-control", "content-disposition"),
    *("content-security-policy", "referrer-policy"),
}
"""Headers that clients handle without a description."""

LABELS = config("circle", output="PolygonLabels")

FILE = Path(__file__).parents[2] / "openapi" / "openapi.json"


def validator(document: dict[str, Any], component: str) -> OAS31Validator:
    return OAS31Validator({**document, "$ref": f"#/components/schemas/{component}"})


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(FILE.read_bytes())
    return read


def test_matches_the_operations(committed: dict[str, Any]) -> None:
    assert committed == build_document(OPERATIONS, __version__), (
        "openapi/openapi.json is out of date: run `make openapi`, which is "
        "`inference-server openapi -o openapi/openapi.json`"
    )


def test_has_the_format_that_the_command_writes(committed: dict[str, Any]) -> None:
    text = FILE.read_text()
    assert text == json.dumps(committed, indent=2, ensure_ascii=False) + "\n"


def test_a_running_server_serves_it(committed: dict[str, Any], server: Running) -> None:
    response = server.get("/openapi.json", key=None)
    assert response.headers["content-type"] == "application/json"
    assert response.json() == committed


def test_is_valid(committed: dict[str, Any]) -> None:
    validate(committed)


def test_examples_match_their_schemas(committed: dict[str, Any]) -> None:
    names = [
        (name, example)
        for name, component in committed["components"]["schemas"].items()
        for example in component.get("examples", [])
    ]
    assert len(names) >= 20
    for name, example in names:
        validator(committed, name).validate(example)


def test_has_every_operation(committed: dict[str, Any]) -> None:
    written = {
        (method, path, operation["operationId"])
        for path, methods in committed["paths"].items()
        for method, operation in methods.items()
    }
    assert written == {(op.method, op.path, op.operation_id) for op in OPERATIONS}


def test_every_response_matches(
    committed: dict[str, Any], server: Running, picture: Picture
) -> None:
    clicks = [click(item) for item in picture.scene.objects]
    concepts = [{"text": "circle"}, {"text": "green star"}]
    image = {"image": picture.sent}
    labelled = partial(label_body, [label_task(1, data_url(picture.data))], LABELS)
    requests: list[tuple[str, str, dict[str, Any] | None, str | None]] = [
        ("post", "/sam3/concept_segment", {**image, "prompts": concepts}, ALICE),
        ("post", "/sam3/concept_segment", {**image, "prompts": concepts, "format": "rle"}, BOB),
        ("post", "/sam3/visual_segment", {**image, "prompts": clicks}, ALICE),
        ("post", "/sam2/segment_image", {**image, "prompts": clicks, "format": "rle"}, ALICE),
        ("post", "/sam3/embed_image", image, ALICE),
        ("post", "/sam2/embed_image", {**image, "image_id": "fits"}, ALICE),
        ("post", "/sam2/embed_image", {"image_id": "unknown"}, ALICE),
        ("post", "/sam3/concept_segment", {"prompts": 7}, ALICE),
        ("post", "/sam3/visual_segment", {"image": {**picture.sent, "value": "?"}}, ALICE),
        ("post", "/sam3/visual_segment", {}, None),
        ("post", "/label-studio/setup", {"schema": LABELS, "project": "1.1"}, ALICE),
        ("post", "/label-studio/setup", {"schema": "<View/>"}, ALICE),
        ("post", "/label-studio/setup", {"schema": LABELS}, None),
        ("post", "/label-studio/predict", labelled(), ALICE),
        ("post", "/label-studio/predict", labelled({"event": "prewarm"}), ALICE),
        ("post", "/label-studio/predict", labelled({"result": [words("circle")]}), ALICE),
        ("post", "/label-studio/webhook", {"action": "PROJECT_UPDATED"}, None),
        *(("get", op.path, None, ALICE) for op in OPERATIONS if op.method == "get"),
        ("get", "/", None, None),
        ("post", "/model/add", {"model_id": "sam3/sam3_final"}, ALICE),
        ("post", "/model/add", {"model_id": "nothing"}, ALICE),
        ("post", "/model/remove", {"model_id": "sam3/sam3_final"}, ALICE),
        ("post", "/model/registry", {}, ALICE),
        ("post", "/model/clear", {}, ALICE),
        ("delete", "/images/fits", None, ALICE),
        ("delete", "/models", None, ALICE),
    ]
    seen, paths = set(), set()
    for method, path, body, key in requests:
        if method == "delete":
            answer = server.http.delete(path, headers={"x-api-key": ALICE})
        elif body is not None:
            answer = server.post(path, body, key=key)
        else:
            answer = server.get(path, accept="text/html" if key is None else "*/*")
        described = "/images/{image_id}" if path.startswith("/images/") else path
        assert_fits(committed, method, described, answer)
        seen.add(answer.status_code)
        paths.add((method, described))
    assert seen == {200, 201, 400, 401, 404, 422}
    others = (
        "Segmind",
        "Rasters",
        "Space",
        "Jobs",
        "X-AnyLabeling",
    )  # tested below and in `test_jobs`
    for operation in OPERATIONS:
        tested = (operation.method, operation.path) in paths
        assert tested or set(operation.tags) & set(others), operation.path


def test_every_space_response_matches(
    committed: dict[str, Any], server: Running, picture: Picture
) -> None:
    sent = {"image": picture.sent["value"], "text_prompts": ["circle"]}
    requests: list[tuple[int, str, dict[str, Any]]] = [
        (200, "/api/sam2_compatible", {"inputs": sent}),
        (200, "/api/sam2_compatible", {"inputs": {**sent, "vectorize": True}}),
        (200, "/api/predict", {"data": [sent["image"], "circle", 0.5]}),
        (400, "/api/sam2_compatible", {"inputs": {**sent, "text_prompts": []}}),
        (400, "/api/predict", {"data": []}),
        (401, "/api/predict", {"api_key": "wrong"}),
    ]
    for status, path, body in requests:
        answer = server.post(path, body, key=None if status == 401 else ALICE)
        assert answer.status_code == status
        assert_fits(committed, "post", path, answer)


def test_every_x_anylabeling_response_matches(
    committed: dict[str, Any], server: Running, picture: Picture
) -> None:
    root = "/x-anylabeling/v1"
    image, found = picture.sent["value"], picture.one("red circle")
    mark = {"type": "point", "data": list(map(int, found.click())), "label": 1}
    concepts = {"model": "segment_anything_3", "image": image}
    visual = {"model": "segment_anything_2", "image": image}
    for status, body in (
        (200, {**concepts, "params": {"text_prompt": "red circle"}}),
        (200, {**concepts, "params": {"text_prompt": "green star"}}),
        (200, {**visual, "params": {"marks": [mark]}}),
        (400, {**visual, "image": "?", "params": {"marks": [mark]}}),
        (401, visual),
        (404, {**visual, "model": "nothing"}),
        (422, {**concepts, "params": {"marks": [mark]}}),
    ):
        answer = server.post(f"{root}/predict", body, key=None if status == 401 else ALICE)
        assert answer.status_code == status, answer.text
        assert_fits(committed, "post", f"{root}/predict", answer)
    assert_fits(committed, "get", f"{root}/models", server.get(f"{root}/models"))
    for name, status in (("segment_anything_2", 200), ("nothing", 404)):
        answer = server.get(f"{root}/models/{name}/info")
        assert answer.status_code == status
        assert_fits(committed, "get", f"{root}/models/{{model_id}}/info", answer)


def assert_fits(committed: dict[str, Any], method: str, path: str, answer: httpx.Response) -> None:
    """Assert that the document describes a response."""
    described = committed["paths"][path][method]["responses"][str(answer.status_code)]
    while "$ref" in described:
        kind, name = described["$ref"].split("/")[-2:]
        described = committed["components"][kind][name]
    media_type = answer.headers["content-type"].split(";")[0]
    schema = described["content"][media_type]["schema"]
    if media_type == "application/json":
        validator(committed, schema["$ref"].split("/")[-1]).validate(answer.json())
    sometimes = SOMETIMES | (ON_503 if answer.status_code == 503 else set())
    if path == "/label-studio/predict":  # several images, or none
        sometimes |= set(RESULT_HEADERS)
    if media_type == "application/json":
        sometimes |= {"x-content-type-options"}
    described_headers, sent = set(described.get("headers", {})), set(answer.headers)
    assert sent - OF_HTTP <= described_headers, (path, sent - OF_HTTP - described_headers)
    assert described_headers - sent <= sometimes, (path, described_headers - sent - sometimes)
    assert (media_type == "application/json") != ("x-content-type-options" in sent), path


def test_every_segmind_response_matches(
    committed: dict[str, Any], server: Running, picture: Picture
) -> None:
    sam3, sam_v2 = "/v1/sam3-image", "/v1/sam-v2-image"
    image = {"image": picture.sent["value"], "text_prompt": "circle", "prompt": "circle"}
    requests: list[tuple[str, dict[str, Any], str | None]] = [
        (sam3, image, ALICE),
        (sam3, {**image, "return_overlay": True, "return_masks": True}, ALICE),
        (sam3, {**image, "text_prompt": "green star", "return_masks": True}, ALICE),
        (sam3, {**image, "max_masks": "?"}, ALICE),
        (sam3, image, None),
        (sam_v2, image, ALICE),
        (sam_v2, {**image, "base64": True}, ALICE),
        (sam_v2, {**image, "image": "?"}, ALICE),
    ]
    seen = set()
    for path, body, key in requests:
        answer = server.post(path, body, key=key)
        assert_fits(committed, "post", path, answer)
        seen.add((answer.status_code, answer.headers["content-type"]))
    assert seen == {
        *((200, "image/png"), (200, "application/json")),
        *((400, "application/json"), (401, "application/json")),
    }


def test_every_samgeo_response_matches(
    committed: dict[str, Any], server: Running, picture: Picture
) -> None:
    data = geotiff(picture.scene.image)
    click = {"point_coords": [picture.one("red circle").click()]}
    seen = set()
    for form in ("geojson", "json", "detections", "geotiff", "png"):
        for path, fields in (
            (TEXT, {"prompt": "circle"}),
            (PREDICT, click),
            (AUTOMATIC, {"points_per_side": 4}),
        ):
            for image in (data, picture.data):
                answer = post(server, path, image, output_format=form, **fields)
                assert answer.status_code == 200
                assert_fits(committed, "post", path, answer)
                seen.add(answer.headers["content-type"])
    assert seen == {"application/json", "image/tiff", "image/png"}
    errors: list[tuple[int, dict[str, Any]]] = [
        (400, {"data": b"?"}),
        (401, {"key": "wrong"}),
        (404, {"max_size": 1}),
        (422, {"min_size": "?"}),
    ]
    for status, changes in errors:
        answer = post(server, PREDICT, changes.pop("data", data), **{**click, **changes})
        assert answer.status_code == status
        assert_fits(committed, "post", PREDICT, answer)
