"""PVS over HTTP: the masks of responses."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest

from inference_server.demo.scenes import SceneObject, make_scene
from schemas.roboflow import Sam2SegmentationResponse
from tests.api.pictures import (
    Gallery,
    Picture,
    center_box,
    click,
    encoded,
    in_base64,
    iou,
    noise,
    plane,
)
from tests.api.serving import VISUAL, Running

VERSIONS = ("hiera_tiny", "hiera_small", "hiera_b_plus", "hiera_large")


def scores(server: Running, picture: Picture, prompts: list[Any], **fields: Any) -> list[float]:
    """Return the IoU of each prompt's mask with the object at the same index."""
    found = server.visual(picture.sent, *prompts, **fields)
    truth = picture.scene.objects[: len(prompts)]
    return [
        iou(plane(prediction, picture.size), item.mask)
        for prediction, item in zip(found, truth, strict=True)
    ]


class TestPrompts:
    @pytest.mark.parametrize("multimask", [True, False])
    def test_one_click_selects_one_object(
        self, server: Running, picture: Picture, multimask: bool
    ) -> None:
        prompts = [click(item) for item in picture.scene.objects]
        found = scores(server, picture, prompts, multimask_output=multimask)
        assert np.mean(found) >= 0.85
        assert min(found) >= 0.6

    @pytest.mark.parametrize("multimask", [True, False])
    def test_a_box_is_anchored_at_its_centre(
        self, server: Running, picture: Picture, multimask: bool
    ) -> None:
        prompts = [{"box": center_box(item)} for item in picture.scene.objects]
        found = scores(server, picture, prompts, multimask_output=multimask)
        assert np.mean(found) >= 0.9
        assert min(found) >= 0.75

    def test_many_scenes_of_many_sizes(self, server: Running) -> None:
        clicks, boxes = [], []
        for seed, size in enumerate([(256, 256), (640, 480), (960, 540), (480, 640)], 9100):
            scene = Picture(make_scene(seed, size))
            items = scene.scene.objects
            clicks += scores(server, scene, [click(item) for item in items])
            boxes += scores(server, scene, [{"box": center_box(item)} for item in items])
        assert np.mean(clicks) >= 0.85
        assert np.mean(boxes) >= 0.9

    def test_boxes_and_points_mixed(self, server: Running, picture: Picture) -> None:
        a, b, c, d, *_ = picture.scene.objects
        prompts = [
            click(a),
            {"box": center_box(b)},
            {"box": center_box(c), **click(c)},
            {"box": None, "points": [*click(d)["points"], *_around(d, picture)]},
        ]
        found = scores(server, picture, prompts)
        assert min(found) >= 0.8

    def test_prompts_do_not_disturb_each_other(self, server: Running, picture: Picture) -> None:
        items = picture.scene.objects[:3]
        prompts = [click(items[0]), {"box": center_box(items[1])}, {**click(items[2])}]
        together = server.visual(picture.sent, *prompts)
        for prompt, prediction in zip(prompts, together, strict=True):
            (alone,) = server.visual(picture.sent, prompt)
            assert iou(plane(alone, picture.size), plane(prediction, picture.size)) > 0.99
            assert alone["confidence"] == pytest.approx(prediction["confidence"], abs=0.02)

    def test_a_negative_point_is_taken_out(self, server: Running, picture: Picture) -> None:
        first, second = picture.scene.objects[:2]
        (x, y), (away_x, away_y) = first.click(), second.click()
        points = [{"x": x, "y": y, "positive": True}]
        with_it, without_it = server.visual(
            picture.sent,
            {"points": [*points, {"x": away_x, "y": away_y, "positive": False}]},
            {"points": [*points, {"x": away_x, "y": away_y, "positive": True}]},
        )
        mask = plane(with_it, picture.size)
        assert not mask[int(away_y), int(away_x)]
        assert iou(mask, first.mask) > 0.6
        assert plane(without_it, picture.size)[int(away_y), int(away_x)]

    def test_all_forms_mean_the_same(self, server: Running, picture: Picture) -> None:
        prompt = click(picture.scene.objects[0])
        forms: list[Any] = [{"prompts": [prompt]}, [prompt], prompt]
        answers = [
            server.answer(VISUAL, image=picture.sent, prompts=form)["prompt_results"]
            for form in forms
        ]
        assert answers[0] == answers[1] == answers[2]

    def test_without_prompts_the_model_answers_by_itself(
        self, server: Running, picture: Picture
    ) -> None:
        empty: list[dict[str, Any]] = [{}, {"prompts": None}, {"prompts": []}]
        empty += [{"prompts": {}}, {"prompts": {"prompts": []}}, {"prompts": {"prompts": None}}]
        answers = [server.answer(VISUAL, image=picture.sent, **form) for form in empty]
        for answer in answers:
            assert answer["prompt_results"] == answers[0]["prompt_results"]
            assert [r["prompt_index"] for r in answer["prompt_results"]] == [0]
            Sam2SegmentationResponse.model_validate(answer)

    def test_prompts_outside_of_the_image_do_no_harm(
        self, server: Running, picture: Picture
    ) -> None:
        far = {"points": [{"x": -1e9, "y": 1e9, "positive": True}]}
        huge = {"box": {"x": 0, "y": 0, "width": 1e9, "height": 1e-6}}
        assert len(server.visual(picture.sent, far, huge)) == 2

    @pytest.mark.parametrize("version", VERSIONS)
    def test_the_demo_answers_for_every_version(
        self, server: Running, picture: Picture, version: str
    ) -> None:
        item = picture.scene.objects[0]
        asked = {"image": picture.sent, "prompts": click(item), "sam2_version_id": version}
        response = server.post(VISUAL, {**asked, "format": "rle"})
        assert response.headers["x-model"] == "sam2/demo"
        (prediction,) = response.json()["predictions"]
        assert iou(plane(prediction, picture.size), item.mask) > 0.8

    def test_under_its_sam2_name(self, server: Running, picture: Picture) -> None:
        asked = {"image": picture.sent, "prompts": click(picture.scene.objects[0])}
        one = server.answer(VISUAL, **asked, sam2_version_id="hiera_large")
        other = server.answer("/sam2/segment_image", **asked)
        assert one["predictions"] == other["predictions"]

    def test_by_url(self, server: Running, picture: Picture, gallery: Gallery) -> None:
        image = gallery.hang("/visual.png", picture.data)
        prompt = click(picture.scene.objects[0])
        assert server.visual(image, prompt) == server.visual(picture.sent, prompt)

    def test_images_of_other_formats(self, server: Running, picture: Picture) -> None:
        item = picture.scene.objects[0]
        for extension in (".jpg", ".webp", ".tiff", ".bmp"):
            image = in_base64(encoded(picture.scene.image, extension))
            (prediction,) = server.visual(image, {"box": center_box(item)})
            assert iou(plane(prediction, picture.size), item.mask) > 0.85


def _around(item: SceneObject, picture: Picture) -> list[dict[str, Any]]:
    """Two negative points beside an object."""
    x0, y0, x1, y1 = item.box
    height, width = picture.size
    places = [(max(x0 - 8, 1), max(y0 - 8, 1)), (min(x1 + 8, width - 1), min(y1 + 8, height - 1))]
    return [{"x": x, "y": y, "positive": False} for x, y in places]


@pytest.fixture(scope="module")
def asked(picture: Picture) -> dict[str, Any]:
    prompts = [click(item) for item in picture.scene.objects]
    return {"image": picture.sent, "prompts": prompts}


class TestFormats:
    def test_polygons_by_default_and_by_alias(self, server: Running, asked: dict[str, Any]) -> None:
        answers = [server.answer(VISUAL, **asked, **f) for f in ({}, {"format": "polygon"})]
        answers.append(server.answer(VISUAL, **asked, format="json"))
        for answer in answers:
            Sam2SegmentationResponse.model_validate(answer)
            assert answer["predictions"] == answers[0]["predictions"]
            assert {p["format"] for p in answer["predictions"]} == {"polygon"}

    def test_polygons_are_the_outer_contours_of_the_run_lengths(
        self, server: Running, asked: dict[str, Any], picture: Picture
    ) -> None:
        drawn = server.answer(VISUAL, **asked)["predictions"]
        packed = server.answer(VISUAL, **asked, format="rle")["predictions"]
        for one, other in zip(drawn, packed, strict=True):
            mask = plane(other, picture.size).astype(np.uint8)
            contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            mine = sorted(contour.reshape(-1, 2).tolist() for contour in contours)
            assert mine == sorted(one["masks"])
            assert one["confidence"] == other["confidence"]

    def test_binary(self, server: Running, asked: dict[str, Any], picture: Picture) -> None:
        asked = {**asked, "sam2_version_id": "hiera_large"}
        response = server.post(VISUAL, {**asked, "format": "binary"})
        assert response.headers["content-type"] == "application/octet-stream"
        assert response.headers["x-model"] == "sam2/demo"
        with np.load(io.BytesIO(response.content), allow_pickle=False) as arrays:
            assert set(arrays.files) == {"masks", "low_res_masks"}
            masks, logits = arrays["masks"], arrays["low_res_masks"]
        packed = server.answer(VISUAL, **asked, format="rle")["predictions"]
        assert masks.dtype == np.bool_
        assert masks.shape == (len(packed), *picture.size)
        for mask, prediction in zip(masks, packed, strict=True):
            assert np.array_equal(mask, plane(prediction, picture.size))
        assert logits.dtype == np.float32
        assert logits.shape[0] == len(packed)
        assert np.abs(logits).max() <= 32
        # The logits are those of the masks, smaller, and bounded, which moves outlines a little.
        for mask, low in zip(masks, logits, strict=True):
            large = cv2.resize(low, picture.size[::-1], interpolation=cv2.INTER_LINEAR)
            assert iou(large > 0, mask) > 0.96

    def test_binary_that_would_be_too_large(self, server: Running) -> None:
        # 256 masks of two megapixels are 512 MiB: one more pixel column is too much.
        prompts = [{"points": [{"x": 5, "y": 5, "positive": True}]}] * 256
        image = noise(1, (1024, 2049))
        asked = {"image": image, "prompts": prompts, "format": "binary"}
        response = server.post(VISUAL, asked)
        assert response.status_code == 413
        message = response.json()["message"]
        assert "512 MiB" in message
        assert "INFERENCE_MAX_BINARY_MB" in message


class TestLogits:
    """A second click refines the first if the client requests it."""

    SAVE, LOAD = {"save_logits_to_cache": True}, {"load_logits_from_cache": True}

    @pytest.fixture
    def both(self, picture: Picture) -> tuple[list[Any], list[Any]]:
        """A first click on an object, and the same click with a second one."""
        item = picture.scene.objects[0]
        x, y = item.click()
        first = [{"x": x, "y": y, "positive": True}]
        return first, [*first, *_around(item, picture)[:1]]

    def fresh(self, picture: Picture, name: str) -> dict[str, Any]:
        """The picture with one pixel changed, for which no logits are cached."""
        image = picture.scene.image.copy()
        image[0, 0] = list(name.encode().ljust(3)[-3:])
        return {"image": in_base64(encoded(image))}

    def ask(self, server: Running, image: dict[str, Any], points: Any, **fields: Any) -> Any:
        answer = server.answer(VISUAL, **image, prompts={"points": points}, format="rle", **fields)
        return answer["predictions"][0]

    def test_a_second_click_starts_from_the_first(
        self, server: Running, picture: Picture, both: tuple[list[Any], list[Any]]
    ) -> None:
        first, second = both
        image = self.fresh(picture, "second")
        self.ask(server, image, first, **self.SAVE)
        plain = self.ask(server, image, second)
        refined = self.ask(server, image, second, **self.LOAD)
        assert refined != plain
        item = picture.scene.objects[0]
        assert iou(plane(refined, picture.size), item.mask) > 0.8

    def test_corrective_clicks_help(self, server: Running) -> None:
        """With the demo SAM 2, whose first masks leave more to correct than those of SAM 3."""
        sam2 = {"sam2_version_id": "hiera_large"}
        before, after = [], []
        for number, scene in enumerate(
            [make_scene(seed, (480, 360)) for seed in range(9200, 9204)]
        ):
            shown = Picture(scene)
            image = self.fresh(shown, f"corrective-{number}")
            for item in scene.objects:
                x, y = item.click()
                points = [{"x": x, "y": y, "positive": True}]
                mask = plane(self.ask(server, image, points, **self.SAVE, **sam2), shown.size)
                wrong = mask ^ item.mask
                distance = cv2.distanceTransform(np.pad(wrong, 1).astype(np.uint8), cv2.DIST_L2, 5)[
                    1:-1, 1:-1
                ]
                row, column = np.unravel_index(int(distance.argmax()), distance.shape)
                missed = bool(item.mask[row, column])
                points.append({"x": column + 0.5, "y": row + 0.5, "positive": missed})
                better = plane(self.ask(server, image, points, **self.LOAD, **sam2), shown.size)
                before.append(iou(mask, item.mask))
                after.append(iou(better, item.mask))
        worst = np.argsort(before)[: max(3, len(before) // 4)]
        assert np.mean(np.array(after)[worst]) > np.mean(np.array(before)[worst])

    def test_without_saving_there_is_nothing_to_load(
        self, server: Running, picture: Picture, both: tuple[list[Any], list[Any]]
    ) -> None:
        first, second = both
        image = self.fresh(picture, "unsaved")
        self.ask(server, image, first)
        assert self.ask(server, image, second, **self.LOAD) == self.ask(server, image, second)

    def test_only_a_strict_subset_counts(
        self, server: Running, picture: Picture, both: tuple[list[Any], list[Any]]
    ) -> None:
        first, second = both
        image = self.fresh(picture, "strict")
        plain = self.ask(server, image, first, **self.SAVE)
        # The same points are no strict subset, and neither are others, or those of another box.
        assert self.ask(server, image, first, **self.LOAD) == plain
        other = [{**first[0], "x": first[0]["x"] + 3}, second[1]]
        assert self.ask(server, image, other, **self.LOAD) == self.ask(server, image, other)
        flipped = [{**first[0], "positive": False}, second[1]]
        assert self.ask(server, image, flipped, **self.LOAD) == self.ask(server, image, flipped)
        box = center_box(picture.scene.objects[0])
        boxed = {"prompts": {"points": second, "box": box}, "format": "rle"}
        one, two = (server.answer(VISUAL, **image, **boxed, **load) for load in ({}, self.LOAD))
        assert one["predictions"] == two["predictions"]

    def test_the_logits_of_another_image_do_not_count(
        self, server: Running, picture: Picture, both: tuple[list[Any], list[Any]]
    ) -> None:
        first, second = both
        self.ask(server, self.fresh(picture, "mine"), first, **self.SAVE)
        image = self.fresh(picture, "yours")
        assert self.ask(server, image, second, **self.LOAD) == self.ask(server, image, second)

    def test_they_are_found_by_the_id_too(
        self, server: Running, picture: Picture, both: tuple[list[Any], list[Any]]
    ) -> None:
        first, second = both
        image = {**self.fresh(picture, "by id"), "image_id": "logits by id"}
        self.ask(server, image, first, **self.SAVE)
        del image["image"]
        plain = self.ask(server, image, second)
        assert self.ask(server, image, second, **self.LOAD) != plain

    def test_the_most_points_count(self, server: Running, picture: Picture) -> None:
        item = picture.scene.objects[0]
        x, y = item.click()
        points = [{"x": x, "y": y, "positive": True}, *_around(item, picture)]
        few, many = self.fresh(picture, "few"), self.fresh(picture, "many")
        for image in (few, many):
            self.ask(server, image, points[:1], **self.SAVE)
        by_one = self.ask(server, few, points, **self.LOAD)
        self.ask(server, many, points[:2], **self.SAVE)
        by_two = self.ask(server, many, points, **self.LOAD)
        assert by_one != by_two

    def test_prompts_with_and_without_logits_in_one_request(
        self, server: Running, picture: Picture, both: tuple[list[Any], list[Any]]
    ) -> None:
        first, second = both
        image = self.fresh(picture, "mixed")
        self.ask(server, image, first, **self.SAVE)
        stranger = click(picture.scene.objects[1])["points"]
        prompts = [{"points": second}, {"points": stranger}]
        answer = server.answer(VISUAL, **image, prompts=prompts, format="rle", **self.LOAD)
        refined, unrelated = answer["predictions"]
        alone = self.ask(server, image, second, **self.LOAD)
        assert iou(plane(refined, picture.size), plane(alone, picture.size)) > 0.99
        plain = self.ask(server, image, stranger)
        assert iou(plane(unrelated, picture.size), plane(plain, picture.size)) > 0.99
