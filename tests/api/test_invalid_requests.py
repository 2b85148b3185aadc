"""Invalid requests: statuses, error formats, and no image work."""

from __future__ import annotations

import base64
import json
import socket
from typing import Any

import pytest

from schemas.common import ErrorMessage, ValidationErrorResponse
from tests.api.pictures import Gallery, noise
from tests.api.rasters import PREDICT
from tests.api.rasters import post as post_form
from tests.api.serving import (
    ALICE,
    CONCEPT,
    SAM2_EMBED,
    SAM3_EMBED,
    VISUAL,
    Running,
    serving,
)

IMAGE = noise(300, (16, 16))
BOX = {"x": 1, "y": 2, "width": 3, "height": 4}
POINT = {"x": 1, "y": 2, "positive": True}
BOX_AND_POINT: dict[str, Any] = {"box": BOX, "points": [POINT]}


def validation_errors(server: Running, path: str, body: Any) -> list[tuple[str, str]]:
    """Send an invalid request; return (dotted location, type) of each error of its 422."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = server.post(path, raw)
    assert response.status_code == 422, response.text
    assert set(response.json()) == {"detail", "code"}
    for item in response.json()["detail"]:
        assert set(item) == {"loc", "msg", "type"}
        assert item["msg"]
    ValidationErrorResponse.model_validate(response.json())
    # The response repeats neither the image nor the key.
    assert IMAGE["value"] not in response.text
    assert ALICE not in response.text
    return [(".".join(map(str, item["loc"])), item["type"]) for item in response.json()["detail"]]


def concept(prompt: Any = None, **fields: Any) -> dict[str, Any]:
    return {"image": IMAGE, "prompts": [prompt or {"text": "dog"}], **fields}


def visual(prompt: Any = None, **fields: Any) -> dict[str, Any]:
    return {"image": IMAGE, "prompts": [prompt or {"points": [POINT]}], **fields}


class TestConcepts:
    @pytest.mark.parametrize(
        ("prompt", "place", "kind"),
        [
            ({"type": "text"}, "", "prompt_empty"),
            ({"type": "text", "text": " \n"}, "", "prompt_empty"),
            ({"type": "visual"}, "", "prompt_boxes"),
            ({"type": "visual", "text": "dog"}, "", "prompt_boxes"),
            ({"type": "points", "text": "dog"}, ".type", "literal_error"),
            ({"text": 7}, ".text", "string_type"),
            ({"text": "x" * 257}, ".text", "string_too_long"),
            ({"boxes": [BOX] * 65}, ".boxes", "too_long"),
            ({"boxes": BOX}, ".boxes", "list_type"),
            ({"boxes": [[1, 2, 3, 4]]}, ".boxes.0", "box_form"),
            ({"boxes": [{}]}, ".boxes.0", "box_form"),
            ({"boxes": [{**BOX, "width": 0}]}, ".boxes.0.width", "greater_than"),
            ({"boxes": [{**BOX, "height": -1}]}, ".boxes.0.height", "greater_than"),
            ({"boxes": [{**BOX, "x": "left"}]}, ".boxes.0.x", "float_parsing"),
            ({"boxes": [{**BOX, "x": True}]}, ".boxes.0.x", "float_type"),
            ({"boxes": [{**BOX, "x": 1e10}]}, ".boxes.0.x", "less_than_equal"),
            ({"boxes": [{"x": 1, "y": 2}]}, ".boxes.0.width", "missing"),
            ({"boxes": [{"x0": 5, "y0": 5, "x1": 5, "y1": 9}]}, ".boxes.0", "box_size"),
            ({"boxes": [BOX], "box_labels": [1, 0]}, ".box_labels", "box_labels"),
            ({"boxes": [BOX], "box_labels": []}, ".box_labels", "box_labels"),
            ({"text": "dog", "box_labels": [1]}, ".box_labels", "box_labels"),
            ({"boxes": [BOX], "box_labels": [2]}, ".box_labels.0", "box_label"),
            ({"boxes": [BOX], "box_labels": ["yes"]}, ".box_labels.0", "box_label"),
            ({"text": "dog", "output_prob_thresh": 1.1}, ".output_prob_thresh", "less_than_equal"),
            ({"text": "dog", "output_prob_thresh": "x"}, ".output_prob_thresh", "float_parsing"),
            ("dog", "", "model_type"),
        ],
    )
    def test_prompts(self, server: Running, prompt: Any, place: str, kind: str) -> None:
        found = validation_errors(server, CONCEPT, concept(prompt))
        assert (f"body.prompts.0{place}", kind) in found

    @pytest.mark.parametrize(
        ("fields", "place", "kind"),
        [
            ({"prompts": None}, "prompts", "missing"),
            ({"prompts": []}, "prompts", "too_short"),
            ({"prompts": {"text": "dog"}}, "prompts", "list_type"),
            ({"prompts": [{"text": "dog"}] * 17}, "prompts", "too_long"),
            ({"format": "binary"}, "format", "literal_error"),
            ({"format": "png"}, "format", "literal_error"),
            ({"format": ""}, "format", "literal_error"),
            ({"output_prob_thresh": -0.1}, "output_prob_thresh", "greater_than_equal"),
            ({"output_prob_thresh": False}, "output_prob_thresh", "float_type"),
            ({"nms_iou_threshold": 1.5}, "nms_iou_threshold", "less_than_equal"),
            ({"nms_iou_threshold": -1}, "nms_iou_threshold", "greater_than_equal"),
            ({"model_id": ""}, "model_id", "string_too_short"),
            ({"model_id": 3}, "model_id", "string_type"),
        ],
    )
    def test_fields(self, server: Running, fields: Any, place: str, kind: str) -> None:
        assert validation_errors(server, CONCEPT, concept(**fields)) == [(f"body.{place}", kind)]

    def test_an_unknown_model(self, server: Running) -> None:
        assert validation_errors(server, CONCEPT, concept(model_id="sam3/my-own")) == [
            ("body.model_id", "value_error")
        ]

    def test_all_errors_are_reported_together(self, server: Running) -> None:
        body = concept({"text": "dog", "output_prob_thresh": 2}, format="x", image=None)
        found = validation_errors(server, CONCEPT, body)
        assert {place for place, _ in found} == {
            *("body.image", "body.format", "body.prompts.0.output_prob_thresh")
        }


class TestVisuals:
    @pytest.mark.parametrize(
        ("prompt", "place", "kind"),
        [
            ({"points": [POINT] * 1025}, ".points", "too_long"),
            ({"points": POINT}, ".points", "list_type"),
            ({"points": [{"x": 1, "y": 2}]}, ".points.0.positive", "missing"),
            ({"points": [{**POINT, "x": "a"}]}, ".points.0.x", "float_parsing"),
            ({"points": [{**POINT, "y": -1e10}]}, ".points.0.y", "greater_than_equal"),
            ({"points": [[1, 2]]}, ".points.0", "model_type"),
            ({"box": [1, 2, 3, 4]}, ".box", "model_type"),
            ({"box": {**BOX, "width": 0}}, ".box.width", "greater_than"),
            ({"box": {"x0": 1, "y0": 2, "x1": 3, "y1": 4}}, ".box.width", "missing"),
        ],
    )
    def test_prompts(self, server: Running, prompt: Any, place: str, kind: str) -> None:
        found = validation_errors(server, VISUAL, visual(prompt))
        assert (f"body.prompts.0{place}", kind) in found

    @pytest.mark.parametrize(
        ("fields", "place", "kind"),
        [
            ({"prompts": "all"}, "prompts", "prompts_form"),
            ({"prompts": 7}, "prompts", "prompts_form"),
            ({"prompts": {"prompts": 7}}, "prompts", "prompts_form"),
            ({"prompts": [{}] * 257}, "prompts", "too_long"),
            ({"format": "png"}, "format", "literal_error"),
            ({"sam2_version_id": "hiera_huge"}, "sam2_version_id", "literal_error"),
            ({"multimask_output": "maybe"}, "multimask_output", "bool_parsing"),
            ({"save_logits_to_cache": 7}, "save_logits_to_cache", "bool_parsing"),
            ({"load_logits_from_cache": []}, "load_logits_from_cache", "bool_type"),
        ],
    )
    def test_fields(self, server: Running, fields: Any, place: str, kind: str) -> None:
        for path in (VISUAL, "/sam2/segment_image"):
            assert validation_errors(server, path, visual(**fields)) == [(f"body.{place}", kind)]

    def test_the_sam2_version_of_embeddings(self, server: Running) -> None:
        for path in (SAM2_EMBED, SAM3_EMBED):
            body = {"image": IMAGE, "sam2_version_id": "vit_h"}
            assert validation_errors(server, path, body) == [
                ("body.sam2_version_id", "literal_error")
            ]


@pytest.mark.parametrize("path", [CONCEPT, VISUAL, SAM2_EMBED, SAM3_EMBED])
@pytest.mark.parametrize(
    ("fields", "place", "kind"),
    [
        ({"image": None}, "image", "missing"),
        ({"image": "aGVsbG8="}, "image", "model_type"),
        ({"image": {}}, "image.type", "missing"),
        ({"image": {"type": "base64"}}, "image.value", "missing"),
        ({"image": {"type": "base64", "value": ""}}, "image.value", "string_too_short"),
        ({"image": {"type": "base64", "value": 7}}, "image.value", "string_type"),
        ({"image": {"type": "file", "value": "x"}}, "image.type", "literal_error"),
        ({"image": {"type": "numpy", "value": "x"}}, "image", "image_type"),
        ({"image": [IMAGE, IMAGE]}, "image", "one_image"),
        ({"image_id": ""}, "image_id", "string_too_short"),
        ({"image_id": "x" * 257}, "image_id", "string_too_long"),
        ({"image_id": 7}, "image_id", "string_type"),
        ({"api_key": 7}, "api_key", "string_type"),
    ],
)
def test_images(server: Running, path: str, fields: Any, place: str, kind: str) -> None:
    body = {"image": IMAGE, "prompts": [{"text": "dog"}], **fields}
    assert (f"body.{place}", kind) in validation_errors(server, path, body)


def test_unknown_fields_are_ignored(server: Running) -> None:
    extra = {"confidence": 0.4, "source": "x", "disable_preproc_auto_orient": False}
    prompt = {"text": "dog", "points": [], "color": "red"}
    assert server.post(CONCEPT, concept(prompt, **extra)).status_code == 200
    image = {**IMAGE, "name": "x"}
    assert server.post(VISUAL, visual(**extra, image=image)).status_code == 200


def test_null_is_absent(server: Running) -> None:
    names = ("format", "output_prob_thresh", "nms_iou_threshold", "model_id", "image_id", "api_key")
    nothing = dict.fromkeys(names)
    prompt = {"type": None, "text": "dog", "boxes": None, "box_labels": None}
    assert server.post(CONCEPT, concept(prompt, **nothing)).status_code == 200


class TestJson:
    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"{",
            b"not json",
            b'{"image": NaN}',
            b'{"prompts": Infinity}',
            b'{"prompts": -Infinity}',
            b"{'image': 1}",
            b'{"image_id": "\xff\xfe"}',
            b'{"image_id": "\\ud800"}',
            b"\xef\xbb\xbf{}",
            b"[" * 100_000,
            b'{"a":' * 5000 + b"1" + b"}" * 5000,
            b'{"image": 1} trailing',
            b"image=x&prompts=y",
            b"--x\r\ncontent-disposition: form-data; name=image\r\n\r\ny\r\n--x--",
        ],
    )
    def test_invalid_json(self, server: Running, raw: bytes) -> None:
        for path in (CONCEPT, VISUAL, SAM2_EMBED):
            assert validation_errors(server, path, raw) == [("body", "value_error")]

    @pytest.mark.parametrize("raw", [b"[]", b"null", b"7", b'"x"', b"true", b'[{"image": 1}]'])
    def test_json_that_is_not_an_object(self, server: Running, raw: bytes) -> None:
        assert validation_errors(server, CONCEPT, raw) == [("body", "value_error")]

    @pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400, "1e308"])
    def test_enormous_numbers(self, server: Running, number: str) -> None:
        box = f'{{"x": {number}, "y": 1, "width": 1, "height": 1}}'
        image = json.dumps(IMAGE)
        raw = f'{{"image": {image}, "prompts": [{{"boxes": [{box}]}}]}}'
        assert validation_errors(server, CONCEPT, raw.encode())
        raw = f'{{"image": {image}, "prompts": [{{"box": {box}}}]}}'
        assert validation_errors(server, VISUAL, raw.encode())
        raw = f'{{"image": {image}, "prompts": [{{"text": "x"}}], "output_prob_thresh": {number}}}'
        assert validation_errors(server, CONCEPT, raw.encode())

    @pytest.mark.parametrize(
        "content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded"]
    )
    def test_what_clients_call_json_is_accepted(self, server: Running, content_type: str) -> None:
        raw = json.dumps(visual()).encode()
        assert server.post(VISUAL, raw, content_type=content_type).status_code == 200

    def test_depth_is_limited_in_ignored_fields(self, server: Running) -> None:
        for levels, status in ((31, 200), (32, 422), (900, 422)):
            for opening, closing in ((b'{"a":', b"}"), (b"[", b"]")):
                deep = opening * levels + b"1" + closing * levels
                raw = json.dumps(visual()).encode()[:-1] + b', "extra": ' + deep + b"}"
                response = server.post(VISUAL, raw)
                assert response.status_code == status, response.text
                if status == 422:
                    assert "INFERENCE_MAX_JSON_DEPTH" in response.text

    def test_the_number_of_values_is_limited(self, server: Running) -> None:
        """Values are counted before parsing, because 60 MiB of them would take gigabytes."""
        for piece in (b"[],", b"{},", b"1,", b'"",'):
            raw = b'{"extra": [' + piece * 200_000 + b"1]}"
            response = server.post(VISUAL, raw)
            assert response.status_code == 422
            assert "INFERENCE_MAX_JSON_VALUES" in response.text
        fits = json.dumps(visual(extra=[1] * 190_000)).encode()
        assert server.post(VISUAL, fits).status_code == 200


def test_an_invalid_request_causes_no_image_work(server: Running, gallery: Gallery) -> None:
    image = {"type": "url", "value": gallery.url + "/costly.png"}
    gallery.visits.clear()
    bodies: list[tuple[str, dict[str, Any]]] = [
        (CONCEPT, concept(format="x", image=image)),
        (CONCEPT, concept(model_id="sam4", image=image)),
        (CONCEPT, concept({"text": ""}, image=image)),
        (VISUAL, visual(format="x", image=image)),
        (VISUAL, visual(sam2_version_id="x", image=image)),
    ]
    for path, body in bodies:
        assert validation_errors(server, path, body)
    assert gallery.visits == []


class TestAddresses:
    """Only configured networks may be fetched from; tests/images/ tests the rest of the guard."""

    def test_a_denied_address(self, gallery: Gallery) -> None:
        gallery.hang("/denied.png", b"x")
        gallery.visits.clear()
        with serving(ready=False) as server:
            for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254"):
                port = gallery.url.rsplit(":", 1)[1]
                image = {"type": "url", "value": f"http://{host}:{port}/denied.png?token=s3cret"}
                response = server.post(SAM2_EMBED, {"image": image})
                assert response.status_code == 400, response.text
                message = ErrorMessage.model_validate(response.json()).message
                assert message.startswith("Could not load input image. Cause: ")
                assert "s3cret" not in message
        assert gallery.visits == []


class TestLimits:
    """Every limit is a setting, and its error names the setting."""

    @pytest.fixture(scope="class")
    @classmethod
    def small(cls) -> Any:
        with serving(
            max_body_mb=1,
            max_image_mb=1,
            max_image_pixels=10_000,
            max_image_side=500,
            max_prompts=2,
            max_visual_prompts=3,
            max_points=4,
            max_boxes=2,
            max_shapes=5,
            max_text_length=5,
            max_id_length=6,
        ) as running:
            yield running

    def test_body_size(self, small: Running) -> None:
        megabyte = 1024 * 1024
        response = small.post(VISUAL, b" " * (megabyte + 1))
        assert response.status_code == 413
        assert "INFERENCE_MAX_BODY_MB" in response.json()["message"]
        fits = json.dumps(visual()).encode().ljust(megabyte)
        assert small.post(VISUAL, fits).status_code == 200

    def test_a_body_of_unknown_length_is_cut_off(self, small: Running) -> None:
        """A chunked body is refused as soon as it exceeds the limit."""
        host, port = small.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            head = f"POST {VISUAL} HTTP/1.1\r\nhost: x\r\nx-api-key: {ALICE}"
            connection.sendall(f"{head}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
            chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
            for _ in range(17):
                connection.sendall(chunk)
            # The response arrives before the end of the body.
            assert connection.recv(1000).startswith(b"HTTP/1.1 413")

    def test_an_announced_length_is_refused_at_once(self, small: Running) -> None:
        host, port = small.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            head = f"POST {VISUAL} HTTP/1.1\r\nhost: x\r\nx-api-key: {ALICE}"
            connection.sendall(f"{head}\r\ncontent-length: 99999999\r\n\r\n".encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 413")

    def test_pixels(self, small: Running) -> None:
        assert small.post(VISUAL, {"image": noise(310, (100, 100))}).status_code == 200
        for path in (VISUAL, SAM3_EMBED):
            response = small.post(path, {"image": noise(311, (100, 101))})
            assert response.status_code == 413, response.text
            assert "INFERENCE_MAX_IMAGE_PIXELS" in response.json()["message"]

    @pytest.mark.parametrize("size", [(1, 501), (501, 1)])
    def test_a_long_side(self, small: Running, size: tuple[int, int]) -> None:
        assert small.post(VISUAL, {"image": noise(312, (500, 2))}).status_code == 200
        for path in (VISUAL, CONCEPT, SAM3_EMBED):
            body = {"image": noise(313, size), "prompts": [{"text": "a"}]}
            response = small.post(path, body)
            assert response.status_code == 413, response.text
            assert "501" in response.json()["message"]
            assert "INFERENCE_MAX_IMAGE_SIDE" in response.json()["message"]

    @pytest.mark.parametrize(
        ("path", "body", "place", "setting"),
        [
            (CONCEPT, {"prompts": [{"text": "a"}] * 3}, "prompts", "max_prompts"),
            (VISUAL, {"prompts": [{}] * 4}, "prompts", "max_visual_prompts"),
            (VISUAL, {"prompts": {"points": [POINT] * 5}}, "prompts.0.points", "max_points"),
            (CONCEPT, {"prompts": [{"boxes": [BOX] * 3}]}, "prompts.0.boxes", "max_boxes"),
            (VISUAL, {"prompts": [{"points": [POINT] * 2}] * 3}, "prompts", "max_shapes"),
            (VISUAL, {"prompts": [BOX_AND_POINT] * 3}, "prompts", "max_shapes"),
            (CONCEPT, {"prompts": [{"text": "a" * 6}]}, "prompts.0.text", "max_text_length"),
            (VISUAL, {"image_id": "a" * 7}, "image_id", "max_id_length"),
        ],
    )
    def test_counts(
        self, small: Running, path: str, body: dict[str, Any], place: str, setting: str
    ) -> None:
        response = small.post(path, {"image": IMAGE, **body})
        assert response.status_code == 422
        (mistake,) = response.json()["detail"]
        assert ".".join(map(str, mistake["loc"])) == f"body.{place}"
        assert f"INFERENCE_{setting.upper()}" in mistake["msg"]

    def test_values_within_the_limits(self, small: Running) -> None:
        prompts = [{"text": "a" * 5, "boxes": [BOX] * 2}] * 2
        body: dict[str, Any] = {"image": IMAGE, "image_id": "a" * 6, "model_id": "sam3/sam3_final"}
        assert small.post(CONCEPT, {**body, "prompts": prompts}).status_code == 422
        del body["model_id"]
        assert small.post(CONCEPT, {**body, "prompts": prompts}).status_code == 200
        shapes: list[dict[str, Any]] = [{"points": [POINT] * 4}, {"box": BOX}, {}]
        assert small.post(VISUAL, {**body, "prompts": shapes}).is_success

    def test_points_and_boxes_together(self, small: Running) -> None:
        """The limit applies to all prompts of a request together, in every API."""
        encoded = IMAGE["value"]
        points, labels = [[1, 1]] * 4, [1] * 4
        boxes = [[1, 1, 5, 5]] * 2
        json_bodies: list[tuple[str, dict[str, Any]]] = [
            (
                "/api/sam2_compatible",
                {
                    "inputs": {
                        **{"image": encoded, "points": points, "point_labels": labels},
                        **{"boxes": boxes, "box_labels": [1, 1]},
                    }
                },
            ),
            (
                "/v1/sam3-image",
                {
                    **{"image": encoded, "points_input": points, "point_labels_input": [labels]},
                    "boxes_input": boxes,
                },
            ),
            (
                "/v1/sam-v2-image",
                {"image": encoded, "coordinates": points, "remove_coordinates": points},
            ),
        ]
        for path, body in json_bodies:
            response = small.post(path, body)
            assert response.status_code == 400
            assert "INFERENCE_MAX_SHAPES" in response.json()["error"]
        form: dict[str, Any] = {"point_coords": points, "point_labels": labels, "boxes": boxes}
        data = base64.b64decode(encoded)
        response = post_form(small, PREDICT, data, model_version="sam2", **form)
        assert response.status_code == 400
        assert "INFERENCE_MAX_SHAPES" in response.json()["detail"]
