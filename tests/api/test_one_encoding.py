"""A SAM 3 in the published layout over HTTP: words and points are answered from one encoding.

Its words find the demo's shapes. Its visual head has random weights, so the tests look at who
answers, what is encoded and the form of the result, not at the masks.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.pictures import Picture, assert_finds, click, noise, plane
from tests.api.rasters import AUTOMATIC, PREDICT, geotiff, post
from tests.api.serving import (
    ALICE,
    CONCEPT,
    SAM2_EMBED,
    SAM3_EMBED,
    VISUAL,
    RunningHere,
    in_process,
    steps,
)
from tests.api.test_jobs import completed
from tests.checkpoints import write_demo_words

MODEL = "sam3/published"
SAM2_IMAGE = "/sam2/segment_image"
POINT: dict[str, Any] = {"points": [{"x": 20, "y": 30, "positive": True}]}
BOX: dict[str, Any] = {"box": {"x": 30, "y": 20, "width": 30, "height": 20}}


@pytest.fixture(scope="module")
def whole(published_sam3: Path) -> Iterator[RunningHere]:
    """A server without SAM 1 and SAM 2."""
    weights = {"sam1_weights": "none", "sam2_weights": "none"}
    with in_process(sam3_weights=str(published_sam3), **weights) as running:
        yield running


@pytest.fixture(scope="module")
def both(published_sam3: Path) -> Iterator[RunningHere]:
    """A server with SAM 3's head and a SAM 2, which is told to answer points by SAM 2."""
    with in_process(sam3_weights=str(published_sam3), visual_model="sam2") as running:
        yield running


def find(server: RunningHere, **fields: Any) -> httpx.Response:
    body = {"prompts": [{"type": "text", "text": "red circle"}], "format": "rle", **fields}
    return checked(server.post(CONCEPT, body))


def point(server: RunningHere, *prompts: Any, path: str = VISUAL, **fields: Any) -> httpx.Response:
    body = {"prompts": list(prompts) or [POINT], "format": "rle", **fields}
    return checked(server.post(path, body))


def checked(response: httpx.Response) -> httpx.Response:
    assert response.status_code == 200, response.text
    return response


def encodings(server: RunningHere) -> float:
    """Return how many images the image encoder has encoded."""
    return server.metric("inference_batch_size_sum", lane="sam3 encode")


def cache(server: RunningHere) -> tuple[float, float]:
    """Return the hits and the misses of the embedding cache."""
    names = ("inference_embedding_cache_hits_total", "inference_embedding_cache_misses_total")
    hits, misses = (server.metric(name) for name in names)
    return hits, misses


def told(response: httpx.Response) -> tuple[str, str]:
    """Return the model and the state of the cache."""
    return response.headers["x-model"], response.headers["x-embedding-cache"]


class TestOneEncoding:
    def test_a_click_after_words(self, whole: RunningHere, picture: Picture) -> None:
        before, (hits, misses) = encodings(whole), cache(whole)
        words = find(whole, image=picture.sent, image_id="words first")
        found = words.json()["prompt_results"][0]["predictions"]
        assert_finds(found, picture.matching("red circle"), picture.size)
        clicked = point(whole, click(picture.one("red square")), image_id="words first")
        assert [told(words), told(clicked)] == [(MODEL, "miss"), (MODEL, "hit")]
        assert "decode" in steps(words)
        assert "decode" not in steps(clicked), "the image was decoded again"
        assert plane(clicked.json()["predictions"][0], picture.size).shape == picture.size
        assert encodings(whole) == before + 1
        assert cache(whole) == (hits + 1, misses + 1)
        # From the second click on, not even the neck runs.
        assert steps(point(whole, image_id="words first")).keys() & {"decode", "encode"} == set()

    def test_words_after_a_click(self, whole: RunningHere, picture: Picture) -> None:
        before = encodings(whole)
        assert told(point(whole, image=picture.sent, image_id="click first")) == (MODEL, "miss")
        words = find(whole, image_id="click first")
        assert told(words) == (MODEL, "hit")
        assert "decode" not in steps(words)
        found = words.json()["prompt_results"][0]["predictions"]
        assert_finds(found, picture.matching("red circle"), picture.size)
        assert encodings(whole) == before + 1

    def test_an_image_without_an_id(self, whole: RunningHere) -> None:
        before, image = encodings(whole), noise(1501)
        assert told(find(whole, image=image)) == (MODEL, "miss")
        assert told(point(whole, image=image)) == (MODEL, "hit")
        assert encodings(whole) == before + 1

    def test_embedding_prepares_both(self, whole: RunningHere) -> None:
        before = encodings(whole)
        checked(whole.post(SAM3_EMBED, {"image": noise(1502), "image_id": "embedded"}))
        assert encodings(whole) == before + 1
        clicked, words = point(whole, image_id="embedded"), find(whole, image_id="embedded")
        assert [told(clicked), told(words)] == [(MODEL, "hit")] * 2
        for response in (clicked, words):
            assert steps(response).keys() & {"decode", "encode"} == set()

    def test_an_image_is_replaced_for_both(self, whole: RunningHere) -> None:
        for number in (1503, 1504):
            body = {"image": noise(number), "image_id": "replaced", "replace": True}
            checked(whole.post(SAM3_EMBED, body))
        answers = [ask(whole, image_id="replaced").json() for ask in (point, find)]
        fresh = [ask(whole, image=noise(1504)).json() for ask in (point, find)]
        assert [without_time(each) for each in answers] == [without_time(each) for each in fresh]

    def test_a_forgotten_image(self, whole: RunningHere) -> None:
        find(whole, image=noise(1505), image_id="forgotten")
        point(whole, image_id="forgotten")
        headers = {"x-api-key": ALICE}
        assert whole.http.delete("/images/forgotten", headers=headers).status_code == 200
        for path, prompt in ((CONCEPT, {"text": "star"}), (VISUAL, POINT)):
            body = {"image_id": "forgotten", "prompts": [prompt]}
            assert whole.post(path, body).status_code == 404


class TestPrompts:
    def test_several(self, whole: RunningHere) -> None:
        image = noise(1511)
        prompts = [POINT, BOX, {**POINT, **BOX}]
        together = point(whole, *prompts, image=image).json()["predictions"]
        alone = [point(whole, each, image=image).json()["predictions"] for each in prompts]
        assert [[each] for each in together] == alone

    def test_one_mask_or_the_best_of_three(self, whole: RunningHere) -> None:
        for multimask in (True, False):
            answer = point(whole, image=noise(1512), multimask_output=multimask).json()
            assert len(answer["predictions"]) == 1

    def test_logits_are_refined(self, whole: RunningHere) -> None:
        image: dict[str, Any] = {"image": noise(1513)}
        two = {"points": [*POINT["points"], {"x": 50, "y": 10, "positive": True}]}
        plain = point(whole, two, **image).json()["predictions"]
        point(whole, **image, save_logits_to_cache=True)
        refined = point(whole, two, **image, load_logits_from_cache=True).json()["predictions"]
        assert refined != plain
        assert point(whole, two, **image).json()["predictions"] == plain

    def test_binary(self, whole: RunningHere) -> None:
        response = point(whole, POINT, BOX, image=noise(1514), format="binary")
        assert response.headers["content-type"] == "application/octet-stream"
        assert response.headers["x-model"] == MODEL
        with np.load(io.BytesIO(response.content)) as archive:
            assert archive["masks"].shape == (2, 48, 64)

    def test_jobs_by_id(self, whole: RunningHere) -> None:
        find(whole, image=noise(1515), image_id="for jobs")
        before = encodings(whole)
        job = completed(whole, f"/v2{VISUAL}", image_id="for jobs", prompts=[POINT], format="rle")
        same = point(whole, image_id="for jobs").json()
        assert without_time(job["output"]) == without_time(same)
        assert encodings(whole) == before


class TestWithoutSam2:
    def test_the_server_is_ready_with_one_model(self, whole: RunningHere) -> None:
        assert whole.get("/readyz").json()["status"] == "ok"
        listed = whole.get("/models").json()
        assert listed["models"] == {"sam3": ["facebook/sam3"]}
        assert listed["loaded"] == [["sam3", "facebook/sam3"]]

    @pytest.mark.parametrize(
        ("path", "fields"),
        [
            (VISUAL, {"sam2_version_id": "hiera_tiny"}),
            (SAM2_IMAGE, {}),
            (SAM2_EMBED, {}),
            (SAM3_EMBED, {"sam2_version_id": "hiera_tiny"}),
            (f"/v2{VISUAL}", {"sam2_version_id": "hiera_tiny"}),
        ],
    )
    def test_sam2_is_refused(self, whole: RunningHere, path: str, fields: dict[str, Any]) -> None:
        response = whole.post(path, {"image": noise(1521), **fields})
        assert response.status_code == 503
        message = response.json()["message"]
        assert fields.get("sam2_version_id", "hiera_large") in message
        assert "INFERENCE_SAM2_WEIGHTS=none" in message
        assert "/sam3/visual_segment without sam2_version_id" in message

    def test_samgeo(self, whole: RunningHere, picture: Picture) -> None:
        raster = geotiff(picture.scene.image)
        points: dict[str, Any] = {"point_coords": [[100, 100]], "point_labels": [1]}
        response = checked(post(whole, PREDICT, raster, model_version="sam3", **points))
        assert response.headers["x-model"] == MODEL
        for path, fields in ((PREDICT, points), (AUTOMATIC, {})):
            refused = post(whole, path, raster, model_version="sam2", **fields)
            assert refused.status_code == 503
            assert "model_version=sam3" in refused.json()["detail"]

    def test_the_space(self, whole: RunningHere) -> None:
        before = encodings(whole)
        inputs = {
            "image": noise(1523)["value"],
            "text_prompts": ["red circle"],
            "points": [[20, 30]],
            "point_labels": [1],
            "boxes": [[5, 5, 40, 40]],
            "box_labels": [1],
        }
        response = checked(whole.post("/api/sam2_compatible", {"inputs": inputs}))
        assert response.headers["x-model"] == MODEL
        assert encodings(whole) == before + 1

    def test_segmind(self, whole: RunningHere) -> None:
        before, image = encodings(whole), noise(1522)["value"]
        everything = {"points_per_side": 4, "pred_iou_thresh": 0.5, "threshold": 0.1}
        for path, fields in (
            ("/v1/sam3-image", {"points_input": [[20, 30]]}),
            ("/v1/sam3-image", {"text_prompt": "red circle", "points_input": [[20, 30]]}),
            ("/v1/sam3-image", everything),
            ("/v1/sam-v2-image", {"coordinates": [[20, 30]]}),
        ):
            response = checked(whole.post(path, {"image": image, **fields}))
            assert response.headers["x-model"] == MODEL
        assert encodings(whole) == before + 1


class TestSam2IsPreferred:
    """`INFERENCE_VISUAL_MODEL=sam2`."""

    def test_points_are_for_sam2(self, both: RunningHere, picture: Picture) -> None:
        item = picture.one("red square")
        words = find(both, image=picture.sent, image_id="two models")
        clicked = point(both, click(item), image_id="two models")
        assert [told(words), told(clicked)] == [(MODEL, "miss"), ("sam2/demo", "miss")]
        assert "decode" in steps(clicked)

    def test_samgeo(self, both: RunningHere, picture: Picture) -> None:
        points: dict[str, Any] = {"point_coords": [[100, 100]], "point_labels": [1]}
        for version in ("sam2", "sam3"):
            raster = geotiff(picture.scene.image)
            response = checked(post(both, PREDICT, raster, model_version=version, **points))
            assert response.headers["x-model"] == "sam2/demo"


def test_a_request_chooses_between_both(published_sam3: Path) -> None:
    """`INFERENCE_VISUAL_MODEL=auto`, with a SAM 2 beside SAM 3's head."""
    with in_process(sam3_weights=str(published_sam3)) as server:
        image: dict[str, Any] = {"image": noise(1531)}
        assert told(point(server, **image)) == (MODEL, "miss")
        version: dict[str, Any] = {"sam2_version_id": "hiera_tiny"}
        assert told(point(server, **image, **version)) == ("sam2/demo", "miss")
        assert told(point(server, **image, path=SAM2_IMAGE)) == ("sam2/demo", "hit")
        points: dict[str, Any] = {"point_coords": [[20, 30]], "point_labels": [1]}
        raster = geotiff(np.zeros((48, 64, 3), np.uint8))
        for model_version, label in (("sam3", MODEL), ("sam2", "sam2/demo")):
            response = post(server, PREDICT, raster, model_version=model_version, **points)
            assert response.headers["x-model"] == label, response.text


def test_a_server_for_words_only(tmp_path: Path) -> None:
    """Neither a visual head nor SAM 2: images are encoded for words, and clicks are refused."""
    write_demo_words(tmp_path / "words")
    weights = {"sam3_weights": str(tmp_path / "words"), "sam2_weights": "none"}
    with in_process(**weights) as server:
        embedded = checked(server.post(SAM3_EMBED, {"image": noise(1541), "image_id": "x"}))
        assert told(embedded) == ("sam3/words", "miss")
        assert told(find(server, image_id="x")) == ("sam3/words", "hit")
        refused = server.post(VISUAL, {"image_id": "x", "prompts": [POINT]})
        assert refused.status_code == 503
        assert "INFERENCE_SAM2_WEIGHTS" in refused.json()["message"]


def without_time(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "time"}
