"""PCS over HTTP: the masks of responses."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from inference_server.demo.scenes import make_scene
from schemas.roboflow import Sam3SegmentationResponse
from tests.api.pictures import (
    Gallery,
    Picture,
    assert_finds,
    corner_box,
    in_base64,
    overlaps,
    plane,
    top_left_box,
)
from tests.api.serving import CONCEPT, Running


def test_text_finds_every_instance(server: Running, picture: Picture) -> None:
    texts = ["red circle", "blue circle", "red square", "blue square"]
    for text, predictions in zip(texts, server.concept(picture.sent, *texts), strict=True):
        assert_finds(predictions, picture.matching(text), picture.size)


def test_a_color_or_a_shape_alone_is_a_concept(server: Running, picture: Picture) -> None:
    texts = ["circle", "red shape", "shape"]
    for text, predictions in zip(texts, server.concept(picture.sent, *texts), strict=True):
        assert_finds(predictions, picture.matching(text), picture.size)


def test_many_scenes_of_many_sizes(server: Running) -> None:
    found, objects, matched = 0, 0, []
    for seed, size in enumerate([(256, 256), (640, 480), (960, 540), (480, 640)], 9000):
        scene = Picture(make_scene(seed, size))
        texts = sorted({f"{item.color} {item.shape}" for item in scene.scene.objects})
        for text, predictions in zip(texts, server.concept(scene.sent, *texts), strict=True):
            truth = scene.matching(text)
            matched += [o for o in overlaps(predictions, truth, scene.size) if o >= 0.5]
            found, objects = found + len(predictions), objects + len(truth)
    f1 = 2 * len(matched) / (found + objects)
    assert f1 >= 0.8
    assert np.mean(matched) >= 0.75


def test_what_is_not_there_is_not_found(server: Running, picture: Picture) -> None:
    texts = ["green star", "yellow shape", "red triangle", "ring"]
    answer = server.answer(
        CONCEPT, image=picture.sent, prompts=[{"type": "text", "text": text} for text in texts]
    )
    assert [r["predictions"] for r in answer["prompt_results"]] == [[], [], [], []]
    assert [r["echo"]["text"] for r in answer["prompt_results"]] == texts


@pytest.mark.parametrize(
    "text", ["zebra", "🦓🦓", "q" * 256, "red " * 64, "circle\u0000", "ROUND; DROP TABLE", "的"]
)
def test_unknown_words_do_no_harm(server: Running, picture: Picture, text: str) -> None:
    answer = server.answer(
        CONCEPT, image=picture.sent, prompts=[{"text": text}, {"text": "red circle"}]
    )
    unknown, known = answer["prompt_results"]
    assert unknown["echo"]["text"] == text
    assert len(known["predictions"]) == 2


class TestBoxes:
    @pytest.mark.parametrize("write", [top_left_box, corner_box])
    def test_an_exemplar_finds_all_like_it(
        self, server: Running, picture: Picture, write: Any
    ) -> None:
        prompts = [
            {"type": "visual", "boxes": [write(picture.one(text))], "box_labels": [1]}
            for text in ("red circle", "blue square")
        ]
        circles, squares = server.concept(picture.sent, *prompts)
        assert_finds(circles, picture.matching("red circle"), picture.size)
        assert_finds(squares, picture.matching("blue square"), picture.size)

    def test_both_ways_of_writing_a_box_mean_the_same(
        self, server: Running, picture: Picture
    ) -> None:
        # A top-left box read as one around its centre would lie beside the object.
        item = picture.one("blue square")
        one, other = server.concept(
            picture.sent, {"boxes": [top_left_box(item)]}, {"boxes": [corner_box(item)]}
        )
        assert one == other
        assert one

    def test_several_exemplars(self, server: Running, picture: Picture) -> None:
        first, second = picture.scene.matching("red circle")
        boxes = [top_left_box(first), corner_box(second)]
        (predictions,) = server.concept(
            picture.sent, {"type": "visual", "boxes": boxes, "box_labels": [1, True]}
        )
        assert_finds(predictions, picture.matching("red circle"), picture.size)

    def test_labels_default_to_positive(self, server: Running, picture: Picture) -> None:
        box = top_left_box(picture.one("red circle"))
        one, other = server.concept(
            picture.sent, {"boxes": [box]}, {"type": "visual", "boxes": [box], "box_labels": [True]}
        )
        assert one == other

    def test_a_negative_exemplar_takes_its_kind_out(
        self, server: Running, picture: Picture
    ) -> None:
        box = top_left_box(picture.one("blue circle"))
        (predictions,) = server.concept(
            picture.sent,
            {"text": "circle", "boxes": [box], "box_labels": [0]},
            output_prob_thresh=0,
        )
        assert_finds(predictions[:2], picture.matching("red circle"), picture.size)

    def test_text_and_a_box_together(self, server: Running, picture: Picture) -> None:
        box = top_left_box(picture.one("red circle"))
        answer = server.answer(
            CONCEPT,
            image=picture.sent,
            prompts=[{"type": "text", "text": "red shape", "boxes": [box], "box_labels": [True]}],
            format="rle",
            output_prob_thresh=0.3,
        )
        (result,) = answer["prompt_results"]
        assert result["echo"] == {
            **{"prompt_index": 0, "type": "text", "text": "red shape", "num_boxes": 1}
        }
        assert_finds(result["predictions"], picture.matching("red shape"), picture.size)

    def test_a_box_outside_of_the_image_does_no_harm(
        self, server: Running, picture: Picture
    ) -> None:
        boxes = [{"x": -500, "y": 9000, "width": 1e6, "height": 0.001}]
        server.concept(picture.sent, {"boxes": boxes})


class TestThresholds:
    def test_a_prompts_own_threshold_counts(self, server: Running, picture: Picture) -> None:
        text = {"text": "red circle"}
        own, none, null, absent = server.concept(
            picture.sent,
            {**text, "output_prob_thresh": 0.5},
            {**text, "output_prob_thresh": 1},
            {**text, "output_prob_thresh": None},
            text,
            output_prob_thresh=0,
        )
        assert len(own) == 2
        assert none == []
        assert null == absent
        assert len(absent) > 2
        assert (own,) == tuple(server.concept(picture.sent, "red circle"))

    def test_zero_keeps_everything(self, server: Running, picture: Picture) -> None:
        # The vendor reads a threshold of 0 as 0.5.
        for zero in (0, 0.0):
            (everything,) = server.concept(picture.sent, "red circle", output_prob_thresh=zero)
            assert len(everything) > 2
            assert min(prediction["confidence"] for prediction in everything) < 0.5
            assert_finds(everything[:2], picture.matching("red circle"), picture.size)

    def test_a_threshold_is_a_bound_on_confidence(self, server: Running, picture: Picture) -> None:
        (everything,) = server.concept(picture.sent, "circle", output_prob_thresh=0)
        (some,) = server.concept(picture.sent, "circle", output_prob_thresh=0.3)
        assert some == [p for p in everything if p["confidence"] > 0.3]


class TestSuppression:
    def test_one_object_is_told_once(self, server: Running, picture: Picture) -> None:
        prompts = ("circle", "red circle", "red circle")
        plain = server.concept(picture.sent, *prompts)
        assert [len(predictions) for predictions in plain] == [4, 2, 2]
        clean = server.concept(picture.sent, *prompts, nms_iou_threshold=0.5)
        together = [prediction for predictions in clean for prediction in predictions]
        best_first = sorted(together, key=lambda p: -float(p["confidence"]))
        assert_finds(best_first, picture.matching("circle"), picture.size)
        # The more confident one stays.
        reds = picture.matching("red circle")
        for mask in reds:
            rivals = [p for predictions in plain for p in predictions if _is(p, mask, picture)]
            (stays,) = [p for p in together if _is(p, mask, picture)]
            assert stays["confidence"] == max(p["confidence"] for p in rivals)

    def test_a_threshold_of_one_keeps_all(self, server: Running, picture: Picture) -> None:
        prompts = ("circle", "red circle")
        assert server.concept(picture.sent, *prompts, nms_iou_threshold=1) == server.concept(
            picture.sent, *prompts
        )

    def test_within_one_prompt_too(self, server: Running, picture: Picture) -> None:
        (everything,) = server.concept(picture.sent, "shape", output_prob_thresh=0)
        (clean,) = server.concept(
            picture.sent, "shape", output_prob_thresh=0, nms_iou_threshold=0.5
        )
        assert len(clean) < len(everything)
        planes = [plane(prediction, picture.size) for prediction in clean]
        pairs = [(a, b) for i, a in enumerate(planes) for b in planes[:i]]
        assert all((a & b).sum() <= 0.5 * (a | b).sum() for a, b in pairs)


def _is(prediction: Any, mask: Any, picture: Picture) -> bool:
    return overlaps([prediction], [mask], picture.size)[0] > 0.5


@pytest.fixture(scope="module")
def answers(server: Running, picture: Picture) -> dict[str, Any]:
    """Responses to one request in every format, and without a format."""
    asked = {"image": picture.sent, "prompts": [{"text": "shape"}, {"text": "red circle"}]}
    formats = ("polygon", "json", "rle")
    answers = {name: server.answer(CONCEPT, **asked, format=name) for name in formats}
    return {**answers, "none": server.answer(CONCEPT, **asked)}


class TestFormats:
    def test_are_typed(self, answers: dict[str, Any]) -> None:
        for answer in answers.values():
            Sam3SegmentationResponse.model_validate(answer)
            assert 0 < answer["time"] < 300

    def test_polygons_by_default_and_by_alias(self, answers: dict[str, Any]) -> None:
        polygon = answers["polygon"]["prompt_results"]
        assert polygon == answers["json"]["prompt_results"] == answers["none"]["prompt_results"]
        assert {p["format"] for r in polygon for p in r["predictions"]} == {"polygon"}

    def test_polygons_are_the_outer_contours_of_the_run_lengths(
        self, answers: dict[str, Any], picture: Picture
    ) -> None:
        by_polygon, by_rle = (answers[name]["prompt_results"] for name in ("polygon", "rle"))
        count = 0
        for drawn, packed in zip(by_polygon, by_rle, strict=True):
            for one, other in zip(drawn["predictions"], packed["predictions"], strict=True):
                assert one["confidence"] == other["confidence"]
                mask = plane(other, picture.size)
                contours, _ = cv2.findContours(
                    mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
                )
                mine = sorted(contour.reshape(-1, 2).tolist() for contour in contours)
                assert mine == sorted(one["masks"])
                count += 1
        assert count == 8

    def test_echo(self, answers: dict[str, Any], server: Running, picture: Picture) -> None:
        assert [result["echo"] for result in answers["none"]["prompt_results"]] == [
            {"prompt_index": 0, "type": "text", "text": "shape", "num_boxes": 0},
            {"prompt_index": 1, "type": "text", "text": "red circle", "num_boxes": 0},
        ]
        boxes = [top_left_box(item) for item in picture.scene.objects[:2]]
        answer = server.answer(CONCEPT, image=picture.sent, prompts=[{"boxes": boxes}])
        assert answer["prompt_results"][0]["echo"] == {
            **{"prompt_index": 0, "type": "visual", "num_boxes": 2}
        }


class TestImages:
    def test_by_url(self, server: Running, picture: Picture, gallery: Gallery) -> None:
        image = gallery.hang("/concept.png", picture.data)
        assert server.concept(image, "red circle") == server.concept(picture.sent, "red circle")
        assert "/concept.png" in gallery.visits

    def test_by_data_url(self, server: Running, picture: Picture) -> None:
        value = "data:image/png;base64," + picture.sent["value"]
        found = server.concept({"type": "base64", "value": value}, "red circle")
        assert found == server.concept(picture.sent, "red circle")

    def test_that_are_none(self, server: Running, gallery: Gallery, picture: Picture) -> None:
        cases = [
            {"type": "base64", "value": "not base64!"},
            in_base64(b"not an image"),
            in_base64(picture.data[:2000]),
            gallery.hang("/text.png", b"not an image"),
            {"type": "url", "value": gallery.url + "/missing.png"},
            {"type": "url", "value": "http://127.0.0.1:1/nobody-listens.png"},
            {"type": "url", "value": "file:///etc/passwd"},
            {"type": "url", "value": "not a url"},
        ]
        for image in cases:
            response = server.post(CONCEPT, {"image": image, "prompts": [{"text": "dog"}]})
            assert response.status_code == 400, response.text
            assert set(response.json()) == {"message", "code"}
            assert response.json()["message"].startswith("Could not load input image. Cause: ")
            assert image["value"] not in response.text or image["type"] == "url"

    def test_the_prompts_of_a_request_do_not_disturb_each_other(
        self, server: Running, picture: Picture
    ) -> None:
        box = {"boxes": [top_left_box(picture.one("blue square"))]}
        together = server.concept(picture.sent, "circle", box, "red square", "green ring")
        alone = [
            server.concept(picture.sent, prompt)[0]
            for prompt in ("circle", box, "red square", "green ring")
        ]
        for many, one in zip(together, alone, strict=True):
            assert_finds(many, [plane(p, picture.size) for p in one], picture.size, 0.98)
