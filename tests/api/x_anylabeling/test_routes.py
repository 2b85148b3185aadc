"""X-AnyLabeling's endpoints: shapes against the scene's truth, the cache, and errors."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from inference_server.api.x_anylabeling.models import menu_of, model_of
from inference_server.api.x_anylabeling.results import response_body
from inference_server.demo import WEIGHTS
from inference_server.demo.scenes import SceneObject
from inference_server.engines.catalog import DEFAULT_SAM3, Catalog
from inference_server.errors import UnknownModelError
from inference_server.masks import Mask
from inference_server.segmentation.types import Instance
from schemas.x_anylabeling import XAnyLabelingModels, XAnyLabelingResponse
from tests.api.pictures import Picture, Plane, in_base64, iou, noise
from tests.api.rasters import assert_same_objects
from tests.api.serving import ALICE, BOB, RunningHere, in_process, settings

MODELS, PREDICT = "/x-anylabeling/v1/models", "/x-anylabeling/v1/predict"
SAM3, SAM2 = "segment_anything_3", "segment_anything_2"
NO_CONTROLS = {"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.001}
"""What the program sends for a model without these controls."""


def point(item: SceneObject, label: int = 1) -> dict[str, Any]:
    return {"type": "point", "data": list(map(int, item.click())), "label": label}


def rectangle(item: SceneObject, label: int = 1) -> dict[str, Any]:
    return {"type": "rectangle", "data": list(map(int, item.box)), "label": label}


def post(server: RunningHere, model: str, image: str, **params: Any) -> httpx.Response:
    body = {"model": model, "image": image, "params": {**NO_CONTROLS, **params}}
    return server.post(PREDICT, body)


def ask(server: RunningHere, model: str, picture: Picture, **params: Any) -> dict[str, Any]:
    """Return the data of an answer, which must be a success."""
    image = f"data:image/jpeg;base64,{picture.sent['value']}"  # the wrong type, as for a TIFF
    response = post(server, model, image, **params)
    assert response.status_code == 200, response.text
    XAnyLabelingResponse.model_validate(response.json())
    assert response.json()["success"] is True
    data: dict[str, Any] = response.json()["data"]
    assert data["description"] == ""
    return data


def planes(data: Mapping[str, Any], size: tuple[int, int]) -> list[Plane]:
    """Return the masks of the objects, of which some have several shapes."""
    drawn: dict[int, Plane] = {}
    for index, shape in enumerate(data["shapes"]):
        assert shape["shape_type"] == "polygon"
        assert len(shape["points"]) >= 3
        assert 0 <= shape["score"] <= 1
        canvas = np.zeros(size, np.uint8)
        cv2.fillPoly(canvas, [np.array(shape["points"], np.int32)], [1])
        key = shape.get("group_id") or -index
        drawn[key] = drawn.get(key, np.zeros(size, np.bool_)) | (canvas > 0)
    return list(drawn.values())


def failure(response: httpx.Response, status: int) -> tuple[str, str]:
    """Return code and message of a failure."""
    assert response.status_code == status, response.text
    assert response.json().keys() == {"success", "error"}
    assert response.json()["success"] is False
    error = response.json()["error"]
    assert error.keys() == {"code", "message"}
    return error["code"], error["message"]


class TestModels:
    def test_the_menu(self, server: RunningHere) -> None:
        answer = server.get(MODELS).json()
        XAnyLabelingModels.model_validate(answer)
        assert list(answer["data"]) == [SAM3, SAM2]
        words, clicks = answer["data"].values()
        assert "sam3/demo" in words["display_name"]
        assert server.points_model in clicks["display_name"]
        assert words["batch_processing_mode"] == "text_prompt"
        assert clicks["batch_processing_mode"] is None
        assert words["capabilities"] == clicks["capabilities"] == {}

    def test_controls_have_the_values_that_the_program_needs(self, server: RunningHere) -> None:
        words, clicks = server.get(MODELS).json()["data"].values()
        for model, names in (
            (
                words,
                "edit_text button_send add_pos_rect add_neg_rect button_run_rect button_clear "
                "button_finish_object input_conf edit_conf",
            ),
            (
                clicks,
                "button_add_point button_remove_point button_add_rect button_clear "
                "button_finish_object",
            ),
        ):
            values = {each["name"]: each.get("value") for each in model["widgets"]}
            assert values.keys() >= set(names.split())
            assert values["mask_fineness_slider"] == 10
            assert "mask_fineness_value_label" in values
            # A failed request must not remove the shapes on the image.
            assert values["toggle_preserve_existing_annotations"] is True
            assert 0 <= values.get("edit_conf", 0) <= 1

    def test_one_model(self, server: RunningHere) -> None:
        for name, info in server.get(MODELS).json()["data"].items():
            found = server.get(f"{MODELS}/{name}/info").json()
            assert found == {"success": True, "data": {"model_id": name, **info}}
        code, message = failure(server.get(f"{MODELS}/sam/info"), 404)
        assert code == "MODEL_NOT_FOUND"
        assert SAM2 in message

    def test_named_models_answer_words(self, picture: Picture) -> None:
        named = {"mine/shapes": str(WEIGHTS / "sam3")}
        with in_process(sam3_models=named, sam2_weights="none") as server:
            models = server.get(MODELS).json()["data"]
            assert next(iter(models)) == SAM3
            assert list(models)[-1] == "mine/shapes"
            assert server.get(f"{MODELS}/mine/shapes/info").status_code == 200
            data = ask(server, "mine/shapes", picture, text_prompt="red circle")
            assert_same_objects(planes(data, picture.size), picture.matching("red circle"))


class TestConcepts:
    def test_words(self, server: RunningHere, picture: Picture) -> None:
        data = ask(
            server, SAM3, picture, text_prompt="red circle, blue square,green star, red circle"
        )
        for text in ("red circle", "blue square"):
            own = [shape for shape in data["shapes"] if shape["label"] == text]
            assert_same_objects(planes({"shapes": own}, picture.size), picture.matching(text))
        assert {shape["label"] for shape in data["shapes"]} == {"red circle", "blue square"}
        assert data.keys() == {"shapes", "description"}  # the program's switch decides

    def test_nothing_found_deletes_nothing(self, server: RunningHere, picture: Picture) -> None:
        nothing = {"shapes": [], "description": "", "replace": False}
        assert ask(server, SAM3, picture, text_prompt="green star") == nothing
        assert ask(server, SAM3, picture, text_prompt="") == nothing
        negative = [rectangle(picture.one("red circle"), 0)]
        assert ask(server, SAM3, picture, marks=negative) == nothing

    def test_exemplars(self, server: RunningHere, picture: Picture) -> None:
        data = ask(server, SAM3, picture, marks=[rectangle(picture.one("red circle"))])
        assert_same_objects(planes(data, picture.size), picture.matching("red circle"))
        assert {shape["label"] for shape in data["shapes"]} == {"AUTOLABEL_OBJECT"}
        assert data["replace"] is False

    def test_a_negative_exemplar(self, server: RunningHere, picture: Picture) -> None:
        marks = [rectangle(picture.one("red circle")), rectangle(picture.one("blue circle"), 0)]
        data = ask(server, SAM3, picture, marks=marks)
        assert_same_objects(planes(data, picture.size), picture.matching("red circle"))

    def test_words_and_an_exemplar(self, server: RunningHere, picture: Picture) -> None:
        marks = [rectangle(picture.one("red circle"))]
        data = ask(server, SAM3, picture, text_prompt="red circle", marks=marks)
        assert_same_objects(planes(data, picture.size), picture.matching("red circle"))
        assert {shape["label"] for shape in data["shapes"]} == {"red circle"}
        sent = picture.sent["value"]
        refused = post(server, SAM3, sent, text_prompt="red circle, dog", marks=marks)
        code, message = failure(refused, 422)
        assert (code, "2" in message) == ("PROMPT", True)

    def test_points_are_refused_and_the_other_model_is_named(
        self, server: RunningHere, picture: Picture
    ) -> None:
        marks = [point(picture.one("red circle"))]
        code, message = failure(post(server, SAM3, picture.sent["value"], marks=marks), 422)
        assert (code, SAM2 in message) == ("PROMPT", True)

    def test_a_confidence_of_0_is_the_default(self, server: RunningHere, picture: Picture) -> None:
        default, given, strict = (
            ask(server, SAM3, picture, text_prompt="shape", conf_threshold=confidence)
            for confidence in (0.0, 0.25, 0.99)
        )
        assert default == given
        assert all(shape["score"] >= 0.25 for shape in default["shapes"])
        assert len(strict["shapes"]) < len(default["shapes"])

    def test_overlapping_objects_are_removed(self, server: RunningHere, picture: Picture) -> None:
        both = {"text_prompt": "circle, red circle"}
        every = ask(server, SAM3, picture, **both)
        once = ask(server, SAM3, picture, **both, iou_threshold=0.7)
        assert len(planes(every, picture.size)) == 6
        assert_same_objects(planes(once, picture.size), picture.matching("circle"))


class TestVisual:
    def test_a_click(self, server: RunningHere, picture: Picture) -> None:
        item = picture.one("blue square")
        data = ask(server, SAM2, picture, marks=[point(item)])
        (mask,) = planes(data, picture.size)
        assert iou(mask, item.mask) > 0.8
        assert {shape["label"] for shape in data["shapes"]} == {"AUTOLABEL_OBJECT"}
        assert data["replace"] is False

    def test_clicks_of_both_kinds(self, server: RunningHere, picture: Picture) -> None:
        item, other = picture.one("blue square"), picture.one("red square")
        (mask,) = planes(
            ask(server, SAM2, picture, marks=[point(item), point(other, 0)]), picture.size
        )
        assert iou(mask, item.mask) > 0.8
        assert not (mask & other.mask).any()

    def test_a_rectangle_whose_corners_are_in_any_order(
        self, server: RunningHere, picture: Picture
    ) -> None:
        item = picture.one("blue square")
        x0, y0, x1, y1 = map(int, item.box)
        masks = []
        for corners in ([x0, y0, x1, y1], [x1, y1, x0, y0], [x1, y0, x0, y1]):
            mark = {"type": "rectangle", "data": corners, "label": 1}
            (mask,) = planes(ask(server, SAM2, picture, marks=[mark]), picture.size)
            assert iou(mask, item.mask) > 0.8
            masks.append(mask)
        assert all((mask == masks[0]).all() for mask in masks)

    def test_each_rectangle_is_an_object(self, server: RunningHere, picture: Picture) -> None:
        items = [picture.one("blue square"), picture.one("red circle"), picture.one("red square")]
        marks = [rectangle(items[0]), rectangle(items[1]), point(items[2])]
        data = ask(server, SAM2, picture, marks=marks)
        found = planes(data, picture.size)
        for mask, item in zip(found, items, strict=True):
            assert iou(mask, item.mask) > 0.8

    def test_a_negative_click_alone_deletes_nothing(
        self, server: RunningHere, picture: Picture
    ) -> None:
        data = ask(server, SAM2, picture, marks=[point(picture.one("red circle"), 0)])
        assert data == {"shapes": [], "description": "", "replace": False}

    def test_a_coarse_polygon_has_few_points(self, server: RunningHere, picture: Picture) -> None:
        item = picture.one("red circle")
        fine, coarse = (
            ask(server, SAM2, picture, marks=[point(item)], epsilon_factor=factor)
            for factor in (0.0001, 0.01)
        )
        counts = [sum(len(s["points"]) for s in data["shapes"]) for data in (fine, coarse)]
        assert counts[1] < counts[0] / 3
        (mask,) = planes(coarse, picture.size)
        assert iou(mask, item.mask) > 0.8


class TestCache:
    """The program sends the image with each request: its content is the key."""

    def test_a_second_click_does_not_encode(self, server: RunningHere) -> None:
        image = noise(1701)["value"]
        seen = []
        for x in (5, 9, 20):
            mark = {"type": "point", "data": [x, 12], "label": 1}
            answer = post(server, SAM2, f"data:image/png;base64,{image}", marks=[mark])
            seen.append((answer.headers["x-embedding-cache"], "encode" in timing(answer)))
        assert seen == [("miss", True), ("hit", False), ("hit", False)]

    def test_another_prefix_of_the_same_file_is_the_same_image(self, server: RunningHere) -> None:
        image = noise(1702)["value"]
        mark = {"type": "point", "data": [5, 12], "label": 1}
        first = post(server, SAM2, image, marks=[mark])
        again = post(server, SAM2, f"data:image/bmp;base64,{image}", marks=[mark])
        assert first.headers["x-embedding-cache"] == "miss"
        assert again.headers["x-embedding-cache"] == "hit"
        assert again.json() == first.json()

    def test_another_key_has_another_cache(self, server: RunningHere) -> None:
        image = noise(1703)["value"]
        params = {"marks": [{"type": "point", "data": [5, 12], "label": 1}]}
        body = {"model": SAM2, "image": image, "params": params}
        hits = [
            server.post(PREDICT, body, key=key).headers["x-embedding-cache"]
            for key in (ALICE, BOB, ALICE)
        ]
        assert hits == ["miss", "miss", "hit"]


class TestKeys:
    def test_the_header_token(self, server: RunningHere) -> None:
        for path in (MODELS, f"{MODELS}/{SAM3}/info"):
            assert server.get(path, key=None, token=ALICE).status_code == 200
            assert failure(server.get(path, key=None), 401)[0] == "UNAUTHORIZED"
            assert failure(server.get(path, key=None, token="?"), 401)[0] == "UNAUTHORIZED"
        body = {"model": SAM2, "image": noise(1704)["value"]}
        assert server.post(PREDICT, body, key=None, token=ALICE).status_code == 200
        assert failure(server.post(PREDICT, body, key=None, token="?"), 401)[0] == "UNAUTHORIZED"

    def test_basic(self, server: RunningHere) -> None:
        """A key in the address, which `requests` sends as Basic."""
        assert server.http.get(MODELS, auth=("x", ALICE)).status_code == 200


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "status", "code"),
        [
            ({"model": "yolo"}, 404, "MODEL_NOT_FOUND"),
            ({"image": "bm8gaW1hZ2U="}, 400, "INVALID_IMAGE"),
            ({"image": "http://127.0.0.1/a.png"}, 400, "INVALID_IMAGE"),
            ({"image": None}, 422, "VALIDATION"),
            ({"model": None}, 422, "VALIDATION"),
            ({"params": {"marks": [{"type": "auto_grid"}]}}, 422, "VALIDATION"),
        ],
    )
    def test_statuses(
        self, server: RunningHere, picture: Picture, change: dict[str, Any], status: int, code: str
    ) -> None:
        body = {
            "model": SAM2,
            "image": picture.sent["value"],
            "params": {"marks": [point(picture.one("red circle"))]},
        }
        answer = server.post(PREDICT, {**body, **change})
        assert failure(answer, status)[0] == code

    def test_a_point_beside_the_image(self, server: RunningHere, picture: Picture) -> None:
        marks = [{"type": "point", "data": [6400, 5], "label": 1}]
        code, message = failure(post(server, SAM2, picture.sent["value"], marks=marks), 400)
        assert (code, "640 pixels wide" in message) == ("BAD_REQUEST", True)

    def test_an_unknown_path(self, server: RunningHere) -> None:
        failure(server.get("/x-anylabeling/v1/video/status/1"), 404)


def test_without_a_model_for_clicks() -> None:
    catalog = Catalog(settings(sam2_weights="none"))
    assert list(menu_of(catalog)) == [SAM3, SAM2]
    catalog.lose_head(DEFAULT_SAM3)
    assert list(menu_of(catalog)) == [SAM3]
    with pytest.raises(UnknownModelError, match=SAM3):
        model_of(catalog, SAM2)


def test_the_parts_of_an_object_share_a_group() -> None:
    plane = np.zeros((60, 80), np.bool_)
    plane[5:15, 5:15] = plane[30:50, 40:70] = plane[58, 3:9] = True
    other = np.zeros((60, 80), np.bool_)
    other[20:25, 5:30] = True
    instances = [Instance(0, 0.9, Mask.from_plane(plane)), Instance(1, 0.8, Mask.from_plane(other))]
    shapes = response_body(instances, ["cat", "dog"], 0.001)["data"]["shapes"]
    # A part without an area is no polygon.
    assert [shape["label"] for shape in shapes] == ["cat", "cat", "dog"]
    assert shapes[0]["group_id"] == shapes[1]["group_id"] > 0
    assert "group_id" not in shapes[2]
    moved = Instance(0, 0.9, Mask.from_plane(np.roll(plane, 1, axis=1)))
    again = response_body([moved], ["cat"], 0.001)["data"]["shapes"]
    assert again[0]["group_id"] != shapes[0]["group_id"]


def test_upright_pixels(server: RunningHere, picture: Picture) -> None:
    """A file whose EXIF says that it lies on its side is turned, as the program shows it."""
    lying = Image.fromarray(np.rot90(picture.scene.image).copy())
    exif = Image.Exif()
    exif[0x0112] = 6
    file = BytesIO()
    lying.save(file, "JPEG", quality=95, exif=exif)
    item = picture.one("blue square")
    answer = post(server, SAM2, in_base64(file.getvalue())["value"], marks=[point(item)])
    (mask,) = planes(answer.json()["data"], picture.size)
    assert iou(mask, item.mask) > 0.8


def timing(response: httpx.Response) -> set[str]:
    """Return the names of the steps in `server-timing`."""
    return {part.split(";")[0].strip() for part in response.headers["server-timing"].split(",")}
