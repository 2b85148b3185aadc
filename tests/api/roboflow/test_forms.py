"""Roboflow's endpoints with the image as a file of a multipart form."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.pictures import Picture, center_box, click, noise
from tests.api.serving import (
    ALICE,
    BOB,
    CONCEPT,
    SAM2_EMBED,
    SAM3_EMBED,
    VISUAL,
    Running,
    RunningHere,
    in_process,
    steps,
)
from tests.api.stored_keys import Keyed
from tests.api.test_form_keys import BOUNDARY, form, part
from tests.api.test_openapi_document import FILE, assert_fits

SEGMENT = "/sam2/segment_image"
PATHS = [CONCEPT, VISUAL, SEGMENT, SAM3_EMBED, SAM2_EMBED]
DOCUMENT = json.loads(FILE.read_bytes())


@pytest.fixture(scope="module")
def small() -> Iterator[RunningHere]:
    """A server that accepts images of 1 MiB, forms of 2 MiB and JSON parts of 16 KiB."""
    limits = {"max_image_mb": 1, "max_upload_mb": 2, "max_raster_upload_mb": 2}
    with in_process(max_form_field_kb=16, **limits) as server:
        yield server


def send(server: Running, path: str, *parts: bytes, **headers: str) -> httpx.Response:
    """Send a form with Alice's key, or with the given headers."""
    return raw(server, path, form(*parts), **(headers or {"x_api_key": ALICE}))


def raw(server: Running, path: str, body: bytes, **headers: str) -> httpx.Response:
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    response = server.post(path, body, key=None, content_type=kind, **headers)
    assert_fits(DOCUMENT, "post", path, response)
    return response


def fields(path: str, picture: Picture, **others: Any) -> dict[str, Any]:
    if path == CONCEPT:
        others["prompts"] = [{"text": "red circle"}, {"text": "blue square"}]
    elif path in (VISUAL, SEGMENT):
        boxes = [{"box": center_box(item)} for item in picture.scene.objects]
        others["prompts"] = [*boxes, click(picture.one("red square"))]
    return others


def file(data: bytes) -> bytes:
    return part("image", data, "photo.png")


def request(body: object) -> bytes:
    return part("request", json.dumps(body).encode())


def without_time(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return {name: value for name, value in response.json().items() if name != "time"}


@pytest.mark.parametrize("path", PATHS)
def test_a_form_is_answered_as_json_is(server: Running, picture: Picture, path: str) -> None:
    asked = fields(path, picture)
    by_json = server.post(path, {"image": picture.sent, **asked})
    orders = [
        (file(picture.data), request(asked)),
        (request(asked), file(picture.data)),
        (file(picture.data), part("request", json.dumps(asked).encode(), "request.json")),
    ]
    for parts in orders:
        by_form = send(server, path, *parts)
        assert without_time(by_form) == without_time(by_json)
        assert by_form.headers["x-embedding-cache"] == "hit"
        assert by_form.headers["x-model"] == by_json.headers["x-model"]
        assert "upload" in steps(by_form)


def test_a_binary_answer(server: Running, picture: Picture) -> None:
    asked = fields(VISUAL, picture, format="binary")
    by_form = send(server, VISUAL, request(asked), file(picture.data))
    by_json = server.post(VISUAL, {"image": picture.sent, **asked})
    assert by_form.headers["content-type"] == "application/octet-stream"
    assert len(by_form.content) == len(by_json.content)


def test_the_id_of_a_form_names_the_image(server: Running, picture: Picture) -> None:
    """For the tenant of its key only, with either form, and with a notice of other bytes."""
    name = {"image_id": "of-a-form"}
    assert send(server, SAM3_EMBED, request(name), file(picture.data)).json()["image_id"] == (
        "of-a-form"
    )
    asked = fields(CONCEPT, picture, **name)
    by_id = server.post(CONCEPT, asked)
    assert without_time(by_id) == without_time(
        server.post(CONCEPT, {**asked, "image": picture.sent, "image_id": None})
    )
    assert server.post(CONCEPT, asked, key=BOB).status_code == 404
    other = file(base64.b64decode(noise(4, (32, 32))["value"]))
    differing = send(server, CONCEPT, request(asked), other)
    assert without_time(differing) == without_time(by_id)
    assert differing.headers["x-image-mismatch"] == "true"
    replaced = send(server, SAM2_EMBED, request({**name, "replace": True}), other)
    assert replaced.status_code == 200
    assert "x-image-mismatch" not in replaced.headers


@pytest.mark.parametrize("path", PATHS)
def test_each_wrong_part_is_named(server: Running, picture: Picture, path: str) -> None:
    image, asked = file(picture.data), request(fields(path, picture))
    for parts, location, problem in [
        ([asked], ["image"], "The part `image` is missing"),
        ([image], ["request"], "The part `request` is missing"),
        ([], ["image"], "The part `image` is missing"),
        ([image, asked, image], ["image"], "sent 2 times"),
        ([image, asked, asked], ["request"], "sent 2 times"),
        ([image, asked, part("prompts", b"[]")], ["prompts"], "Unknown part 'prompts'"),
        ([asked, part("file", picture.data, "a.png")], ["file"], "Unknown part 'file'"),
        ([asked, part("image", b"text")], ["image"], "send it as a file"),
        ([image, part("request", b"{")], ["request"], "is not valid JSON"),
        ([image, part("request", b"[]")], ["request"], "must be a JSON object"),
        ([image, part("request", b"[" * 99)], ["request"], "is not valid JSON"),
        ([image, request({"image": picture.sent})], ["request", "image"], "leave it out"),
    ]:
        response = send(server, path, *parts)
        assert response.status_code == 422, response.text
        (item,) = response.json()["detail"]
        assert item["loc"] == ["body", *location]
        assert problem in item["msg"]


def test_fields_are_validated_as_those_of_json(server: Running, picture: Picture) -> None:
    wrong = {"prompts": [{"text": "red circle"}, {"boxes": 7}], "format": "?", "image_id": ""}
    by_form = send(server, CONCEPT, file(picture.data), request(wrong))
    by_json = server.post(CONCEPT, {"image": picture.sent, **wrong})
    assert by_form.status_code == by_json.status_code == 422
    assert by_form.json() == by_json.json()
    deep: Any = []
    for _ in range(40):
        deep = [deep]
    response = send(server, CONCEPT, file(picture.data), request({"prompts": deep}))
    assert response.status_code == 422
    assert "nested more than" in response.json()["detail"][0]["msg"]
    unnamed = send(server, SAM3_EMBED, file(picture.data), request({"replace": True}))
    assert unnamed.status_code == 422
    assert "image_id" in unnamed.json()["detail"][0]["msg"]


@pytest.mark.parametrize("data", [b"", b"no image"])
def test_a_file_that_is_no_image(server: Running, picture: Picture, data: bytes) -> None:
    response = send(server, CONCEPT, request(fields(CONCEPT, picture)), file(data))
    assert response.status_code == 400
    assert response.json()["message"].startswith("Could not load input image. Cause: ")


@pytest.mark.parametrize("path", PATHS)
def test_a_form_that_is_cut_off(server: RunningHere, picture: Picture, path: str) -> None:
    whole = form(request(fields(path, picture)), file(picture.data))
    for length in (1, 30, len(whole) // 2, *range(len(whole) - 40, len(whole) - 2, 5)):
        response = raw(server, path, whole[:length], x_api_key=ALICE)
        assert response.status_code == 400, (length, response.text)
        assert "cut off" in response.json()["message"]
    assert server.state.uploads.nbytes == 0


def test_limits(small: RunningHere, picture: Picture) -> None:
    asked = request(fields(CONCEPT, picture))
    for size, setting in ((2**20 + 1, "MAX_IMAGE_MB"), (2 * 2**20, "MAX_UPLOAD_MB")):
        response = send(small, CONCEPT, asked, file(bytes(size)))
        assert response.status_code == 413
        assert f"INFERENCE_{setting}" in response.json()["message"]
    padded = fields(CONCEPT, picture, padding="x" * 16_384)
    text = send(small, CONCEPT, file(picture.data), request(padded))
    assert text.status_code == 400
    assert "maximum size" in text.json()["message"]
    upload = part("request", json.dumps(padded).encode(), "request.json")
    response = send(small, CONCEPT, file(picture.data), upload)
    assert response.status_code == 422
    assert "INFERENCE_MAX_FORM_FIELD_KB" in response.json()["detail"][0]["msg"]
    assert small.state.uploads.nbytes == 0


class TestKeys:
    def test_places(self, server: Running, picture: Picture) -> None:
        asked = fields(CONCEPT, picture)
        image, plain = file(picture.data), request(asked)
        keyed = request({**asked, "api_key": ALICE})
        field = part("api_key", ALICE.encode())
        for parts, headers in [
            ((plain, image), {"authorization": f"Bearer {ALICE}"}),
            ((keyed, image), {"accept": "*/*"}),
            ((field, image, plain), {"accept": "*/*"}),
            ((field, plain, image), {"accept": "*/*"}),
        ]:
            assert send(server, CONCEPT, *parts, **headers).status_code == 200
        for parts in (
            (plain, image),
            (part("api_key", b"wrong"), keyed, image),
            (request({**asked, "api_key": "wrong"}), image),
            (part("request", b"{"), image),
            (),
        ):
            response = send(server, CONCEPT, *parts, accept="*/*")
            assert response.status_code == 401, response.text

    def test_the_key_precedes_a_large_file(self, server: Running, picture: Picture) -> None:
        keyed = request(fields(CONCEPT, picture, api_key=ALICE))
        large = file(picture.data + bytes(100_000))
        assert send(server, CONCEPT, keyed, large, accept="*/*").status_code == 200
        response = send(server, CONCEPT, large, keyed, accept="*/*")
        assert response.status_code == 401
        assert "before the file" in response.json()["message"]

    def test_credits(self, running: Keyed, picture: Picture) -> None:
        """A form costs as much as JSON, and nothing if it is refused."""
        key, made = running.create("roboflow-form", credits=50)
        asked = fields(CONCEPT, picture)
        image = file(picture.data)
        paid = send(running.server, CONCEPT, request(asked), image, x_api_key=key)
        assert paid.status_code == 200
        left = running.credits_left(made)
        assert left is not None
        assert left < 50
        running.server.post(CONCEPT, {"image": picture.sent, **asked}, key=key)
        assert running.credits_left(made) == left - (50 - left)
        left = running.credits_left(made)
        for parts in ([image], [request(asked), file(b"no image")]):
            assert send(running.server, CONCEPT, *parts, x_api_key=key).status_code >= 400
        assert running.credits_left(made) == left


class TestContentTypes:
    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("kind", ["image/png", "application/xml", "multipart/mixed", "x"])
    def test_unsupported_types_say_what_to_send(
        self, server: Running, picture: Picture, path: str, kind: str
    ) -> None:
        response = server.post(path, picture.data, content_type=kind)
        assert response.status_code == 415, response.text
        assert_fits(DOCUMENT, "post", path, response)
        message = response.json()["message"]
        assert repr(kind) in message
        assert "application/json" in message
        assert "multipart/form-data with the parts `image`" in message
        assert server.post(path, picture.data, key=None, content_type=kind).status_code == 401

    @pytest.mark.parametrize(
        ("path", "field"),
        [
            (f"/v2{CONCEPT}", "message"),
            ("/v1/sam3-image", "error"),
            ("/v2/sam3-image", "error"),
            ("/api/sam2_compatible", "error"),
            ("/model/add", "message"),
        ],
    )
    def test_other_endpoints_take_json_only(
        self, server: Running, picture: Picture, path: str, field: str
    ) -> None:
        body = form(file(picture.data), request({}))
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        response = server.post(path, body, content_type=kind)
        assert response.status_code == 415, response.text
        assert_fits(DOCUMENT, "post", path, response)
        assert response.json()[field].endswith("Send the body as application/json.")

    @pytest.mark.parametrize(
        "kind",
        [
            *("application/json", "application/json; charset=utf-8", "APPLICATION/JSON"),
            *("application/x-www-form-urlencoded", "text/plain;charset=UTF-8"),
            *("application/octet-stream", "application/vnd.any+json"),
        ],
    )
    def test_json_is_read_as_before(self, server: Running, picture: Picture, kind: str) -> None:
        """`curl -d` and browsers say other types than that of JSON."""
        body = json.dumps({"image": picture.sent, **fields(CONCEPT, picture)}).encode()
        assert server.post(CONCEPT, body, content_type=kind).status_code == 200

    @pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain"])
    def test_what_is_not_json_by_its_type_either(self, server: Running, kind: str) -> None:
        response = server.post(CONCEPT, b"image=photo.jpg&text=circle", content_type=kind)
        assert response.status_code == 415
        broken = server.post(CONCEPT, b'{"image": ', content_type=kind)
        assert broken.status_code == 422
        assert server.post(CONCEPT, b"image=photo.jpg").status_code == 422
