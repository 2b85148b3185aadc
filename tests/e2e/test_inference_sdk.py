"""Roboflow's client, unmodified, against a running server."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from inference_sdk.config import RemoteProcessingTimeCollector, remote_processing_times
from inference_sdk.http.client import InferenceHTTPClient
from inference_sdk.http.entities import InferenceConfiguration
from inference_sdk.http.errors import HTTPCallErrorError
from PIL import Image

from inference_server import __version__
from inference_server.demo import WEIGHTS
from tests.api.pictures import Gallery, Picture, assert_finds, center_box, click, iou, plane
from tests.api.serving import ALICE, Running, RunningHere, serving

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


class TestModels:
    """The client lists, loads and unloads models, and selects one by its id."""

    @pytest.fixture(scope="class")
    @classmethod
    def many(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHere]:
        """A server with a second SAM 3."""
        directory = tmp_path_factory.mktemp("models") / "crops"
        shutil.copytree(WEIGHTS / "sam3", directory)
        with serving(sam3_models={"crops/3": str(directory)}) as running:
            yield running

    @pytest.fixture
    def manager(self, many: RunningHere) -> Any:
        """A client of a server without models in memory."""
        client = connect(many, transport="header")
        assert client.unload_all_models().models == []
        return client

    def test_server_information(self, manager: Any) -> None:
        info = manager.get_server_info()
        assert (info.name, info.version) == ("inference-server", __version__)
        assert info.uuid == manager.get_server_info().uuid

    @pytest.mark.parametrize("transport", ["header", "both"])
    def test_models_are_loaded_and_unloaded(self, many: RunningHere, transport: str) -> None:
        client = connect(many, transport=transport)

        def ids(registered: Any) -> list[str]:
            return [each.model_id for each in registered.models]

        assert ids(client.unload_all_models()) == []
        assert ids(client.load_model("crops/3", set_as_default=True)) == ["crops/3"]
        assert client.selected_model == "crops/3"
        assert ids(client.load_model("sam3/sam3_final")) == ["sam3/sam3_final", "crops/3"]
        (base, crops) = client.list_loaded_models().models
        assert crops.task_type == base.task_type == "unsupervised-segmentation"
        assert crops.input_height == crops.input_width == base.input_width > 0
        assert ids(client.unload_model("crops/3")) == ["sam3/sam3_final"]
        assert client.selected_model is None
        assert ids(client.unload_all_models()) == []

    def test_a_description_loads_the_model(self, manager: Any) -> None:
        description = manager.get_model_description("sam2/hiera_large")
        assert description.model_id == "sam2/hiera_large"
        assert len(manager.list_loaded_models().models) == 4, "the demo answers for all sizes"

    def test_without_blocking(self, manager: Any) -> None:
        async def change() -> list[int]:
            changes = [
                await manager.load_model_async("crops/3"),
                await manager.list_loaded_models_async(),
                await manager.unload_model_async("crops/3"),
                await manager.unload_all_models_async(),
            ]
            return [len(each.models) for each in changes]

        assert asyncio.run(change()) == [1, 1, 0, 0]

    def test_the_key_of_the_default_transport(self, many: RunningHere) -> None:
        """It is sent in the URL or the body, but not with requests to unload."""
        client = connect(many)
        assert client.load_model("crops/3").models == client.list_loaded_models().models
        for unload in (client.unload_all_models, lambda: client.unload_model("crops/3")):
            with pytest.raises(HTTPCallErrorError) as caught:
                unload()
            assert caught.value.status_code == 401

    def test_without_keys(self, open_server: Running) -> None:
        client = connect(open_server, None)
        client.load_model("sam3/sam3_final")
        assert client.list_loaded_models().models
        assert client.unload_all_models().models == []

    def test_an_unknown_model(self, manager: Any) -> None:
        with pytest.raises(HTTPCallErrorError) as caught:
            manager.load_model("crops/4")
        assert caught.value.status_code == 422
        message: Any = caught.value.api_message
        assert "This server has sam3/sam3_final, crops/3, sam2/hiera_tiny" in message[0]["msg"]

    def test_a_model_is_selected_and_the_headers_are_collected(
        self, manager: Any, inputs: Inputs, picture: Picture
    ) -> None:
        prompts = [{"type": "text", "text": "red circle"}]
        for cold in (1, 0):
            collector: Any = RemoteProcessingTimeCollector()  # type: ignore[no-untyped-call]
            token = remote_processing_times.set(collector)
            try:
                answer = manager.sam3_concept_segment(
                    inputs("path"), prompts, model_id="crops/3", format="rle"
                )
            finally:
                remote_processing_times.reset(token)
            (result,) = answer["prompt_results"]
            assert_finds(result["predictions"], picture.matching("red circle"), picture.size)
            assert collector._model_ids == {"crops/3"}
            ((_, seconds),) = collector._entries
            assert seconds > 0
            assert collector._cold_start_count == cold
            assert [each for each, _ in collector._cold_start_entries] == ["crops/3"] * cold
            assert (collector._cold_start_total_load_time > 0) == bool(cold)
        assert [each.model_id for each in manager.list_loaded_models().models] == ["crops/3"]


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
