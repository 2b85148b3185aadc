"""Roboflow's client, unmodified, against a running server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from inference_sdk.http.client import InferenceHTTPClient
from inference_sdk.http.entities import InferenceConfiguration
from inference_sdk.http.errors import HTTPCallErrorError
from PIL import Image

from tests.api.pictures import Gallery, Picture, assert_finds, center_box, click, iou, plane
from tests.api.serving import ALICE, Running

Inputs = Callable[[str], Any]


def connect(server: Running, key: str | None = ALICE, transport: str = "legacy") -> Any:
    """Create a client as the vendor's documentation does."""
    client: Any = InferenceHTTPClient(api_url=server.url, api_key=key)
    return client.configure(InferenceConfiguration(api_key_transport=transport))


@pytest.fixture
def client(server: Running) -> Any:
    return connect(server)


@pytest.fixture
def inputs(picture: Picture, gallery: Gallery, tmp_path: Path) -> Inputs:
    """The image in each form that the client accepts."""

    def of(kind: str) -> Any:
        if kind == "url":
            return gallery.hang("/sdk.png", picture.data)["value"]
        if kind == "path":
            (tmp_path / "sdk.png").write_bytes(picture.data)
            return str(tmp_path / "sdk.png")
        if kind == "numpy":
            return cv2.cvtColor(picture.scene.image, cv2.COLOR_RGB2BGR)
        if kind == "base64":
            return picture.sent["value"]
        assert kind == "pillow"
        return Image.fromarray(picture.scene.image)

    return of


KINDS = ("url", "path", "numpy", "pillow", "base64")


@pytest.mark.parametrize("kind", KINDS)
def test_concept_segment(client: Any, inputs: Inputs, picture: Picture, kind: str) -> None:
    answer = client.sam3_concept_segment(
        inputs(kind),
        [{"type": "text", "text": "red circle"}, {"type": "text", "text": "green star"}],
        format="rle",
        nms_iou_threshold=0.9,
    )
    circles, stars = answer["prompt_results"]
    assert_finds(circles["predictions"], picture.matching("red circle"), picture.size)
    assert stars["predictions"] == []


def test_concept_segment_by_exemplar(client: Any, inputs: Inputs, picture: Picture) -> None:
    x0, y0, x1, y1 = picture.one("blue square").box
    box = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
    answer = client.sam3_concept_segment(
        inputs("path"), [{"type": "visual", "boxes": [box], "box_labels": [1]}]
    )
    (result,) = answer["prompt_results"]
    assert_finds(result["predictions"], picture.matching("blue square"), picture.size)


@pytest.mark.parametrize("kind", KINDS)
def test_visual_segment(client: Any, inputs: Inputs, picture: Picture, kind: str) -> None:
    first, second = picture.scene.objects[:2]
    answer = client.sam3_visual_segment(
        inputs(kind), [{"box": center_box(first)}, click(second)], mask_input_format="rle"
    )
    for prediction, item in zip(answer["predictions"], (first, second), strict=True):
        assert iou(plane(prediction, picture.size), item.mask) > 0.8


def test_visual_segment_as_polygons(client: Any, inputs: Inputs, picture: Picture) -> None:
    item = picture.one("red circle")
    answer = client.sam3_visual_segment(inputs("path"), [{"box": center_box(item)}])
    assert iou(plane(answer["predictions"][0], picture.size), item.mask) > 0.8


def test_visual_segment_without_prompts(client: Any, inputs: Inputs) -> None:
    assert len(client.sam3_visual_segment(inputs("path"))["predictions"]) == 1


@pytest.mark.parametrize("version", ["hiera_tiny", "hiera_small", "hiera_b_plus", "hiera_large"])
def test_segment_image(client: Any, inputs: Inputs, picture: Picture, version: str) -> None:
    item = picture.one("blue square")
    answer = client.sam2_segment_image(
        inputs("numpy"),
        [{"box": center_box(item)}],
        sam2_version_id=version,
        multimask_output=False,
        mask_input_format="rle",
    )
    assert iou(plane(answer["predictions"][0], picture.size), item.mask) > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_embed_image(client: Any, server: Running, inputs: Inputs, kind: str) -> None:
    name = f"sdk-{kind}"
    assert client.sam3_embed_image(inputs(kind), image_id=name)["image_id"] == name
    text = {"image_id": name, "prompts": [{"text": "circle"}]}
    assert server.post("/sam3/concept_segment", text).headers["x-embedding-cache"] == "hit"
    assert server.post("/sam3/visual_segment", {"image_id": name}).is_success


def test_embed_image_without_an_id(client: Any, server: Running, inputs: Inputs) -> None:
    """The client sends no id later, so the embedding is found by the image's bytes."""
    image = np.full((40, 50, 3), 99, np.uint8)
    assert client.sam3_embed_image(image)["image_id"]
    hits = server.metric("inference_embedding_cache_hits_total")
    misses = server.metric("inference_embedding_cache_misses_total")
    client.sam3_visual_segment(image, [{"points": [{"x": 9, "y": 9, "positive": True}]}])
    client.sam3_concept_segment(image, [{"type": "text", "text": "circle"}])
    assert server.metric("inference_embedding_cache_hits_total") == hits + 2
    assert server.metric("inference_embedding_cache_misses_total") == misses


@pytest.mark.parametrize("transport", ["legacy", "header", "both"])
def test_the_key_travels_as_configured(server: Running, inputs: Inputs, transport: str) -> None:
    client = connect(server, transport=transport)
    assert client.sam3_visual_segment(inputs("path"))["predictions"]


def test_several_images_are_sent_one_by_one(client: Any, inputs: Inputs, picture: Picture) -> None:
    item = picture.one("red circle")
    answers = client.sam3_visual_segment(
        [inputs("path"), inputs("numpy")], [{"box": center_box(item)}], mask_input_format="rle"
    )
    for answer in answers:
        assert iou(plane(answer["predictions"][0], picture.size), item.mask) > 0.8


class TestErrors:
    """The client raises its own exception with the server's message."""

    def test_a_wrong_key(self, server: Running, inputs: Inputs) -> None:
        with pytest.raises(HTTPCallErrorError) as caught:
            connect(server, "wrong").sam3_visual_segment(inputs("path"))
        assert caught.value.status_code == 401
        assert "The API key is wrong." in caught.value.api_message

    def test_no_key(self, server: Running, inputs: Inputs) -> None:
        with pytest.raises(HTTPCallErrorError) as caught:
            connect(server, None).sam3_embed_image(inputs("path"))
        assert caught.value.status_code == 401
        assert "The API key is missing." in caught.value.api_message

    def test_an_invalid_prompt(self, client: Any, inputs: Inputs) -> None:
        with pytest.raises(HTTPCallErrorError) as caught:
            client.sam3_concept_segment(inputs("path"), [{"type": "visual"}])
        assert caught.value.status_code == 422
        message: Any = caught.value.api_message
        (mistake,) = message
        assert mistake["loc"] == ["body", "prompts", 0]
        assert mistake["msg"] == "A visual prompt needs boxes; send at least one"

    def test_an_unknown_model(self, client: Any, inputs: Inputs) -> None:
        with pytest.raises(HTTPCallErrorError) as caught:
            client.sam3_concept_segment(
                inputs("path"), [{"type": "text", "text": "dog"}], model_id="mine/1"
            )
        assert caught.value.status_code == 422
        message: Any = caught.value.api_message
        assert "Unknown model_id" in message[0]["msg"]
