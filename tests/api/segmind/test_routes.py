"""Segmind's synchronous endpoints: pixels of their images, and error responses."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from inference_server.api.segmind import results
from tests.api.pictures import Gallery, Picture, Plane, encoded, iou
from tests.api.rasters import assert_same_objects
from tests.api.serving import ALICE, RunningHere, in_process, serving

SAM3, SAM2 = "/v1/sam3-image", "/v1/sam-v2-image"


@pytest.fixture(scope="module")
def image(picture: Picture) -> str:
    """The picture in base64."""
    return picture.sent["value"]


def pixels(data: bytes | str) -> NDArray[np.uint8]:
    """Decode a PNG file or its base64 text; RGB if it has colours."""
    data = base64.b64decode(data, validate=True) if isinstance(data, str) else data
    assert data.startswith(b"\x89PNG")
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert read is not None
    shown = read[..., ::-1] if read.ndim == 3 else read
    return np.asarray(shown, np.uint8)


def shown(response: httpx.Response) -> NDArray[np.uint8]:
    """Return the image of a response, which must be a PNG."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return pixels(response.content)


def mask_of(plane: NDArray[np.uint8]) -> Plane:
    """Return a mask, which must be white on black in one channel."""
    assert plane.ndim == 2
    assert set(np.unique(plane)) <= {0, 255}
    return np.asarray(plane == 255)


def united(masks: list[Plane]) -> Plane:
    return np.asarray(np.any(masks, axis=0))


def assert_refused(response: httpx.Response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error", "code"}
    for word in words:
        assert word in response.json()["error"]


class TestSam3Image:
    def post(self, server: RunningHere, /, **body: Any) -> httpx.Response:
        return server.post(SAM3, body)

    def images(self, server: RunningHere, /, **body: Any) -> dict[str, Any]:
        answer: dict[str, Any] = server.answer(SAM3, **body)
        return answer

    def test_words(self, server: RunningHere, picture: Picture, image: str) -> None:
        response = self.post(server, image=image, text_prompt="red circle")
        found = mask_of(shown(response))
        assert iou(found, united(picture.matching("red circle"))) > 0.8
        assert response.headers["x-model"] == "sam3/demo"
        assert "server-timing" in response.headers

    def test_boxes_are_examples(self, server: RunningHere, picture: Picture, image: str) -> None:
        box = [float(edge) for edge in picture.one("red circle").box]
        for boxes in ([box], json.dumps([box]), json.dumps(box)):
            found = mask_of(shown(self.post(server, image=image, boxes_input=boxes)))
            assert iou(found, united(picture.matching("red circle"))) > 0.8

    def test_words_and_a_box_together(
        self, server: RunningHere, picture: Picture, image: str
    ) -> None:
        box = [float(edge) for edge in picture.one("red circle").box]
        response = self.post(server, image=image, text_prompt="circle", boxes_input=[box])
        found = mask_of(shown(response))
        assert all((found & mask).sum() > 0.8 * mask.sum() for mask in picture.matching("circle"))

    @pytest.mark.parametrize("labels", [None, "[[1]]", "[1]", [[1]]])
    def test_a_point(self, server: RunningHere, picture: Picture, image: str, labels: Any) -> None:
        item = picture.one("blue square")
        response = self.post(
            server, image=image, points_input=[item.click()], point_labels_input=labels
        )
        assert iou(mask_of(shown(response)), item.mask) > 0.8
        assert response.headers["x-model"] == server.points_model

    def test_points_with_labels(self, server: RunningHere, picture: Picture, image: str) -> None:
        item, other = picture.one("blue square"), picture.one("red square")
        response = self.post(
            server,
            image=image,
            points_input=json.dumps([item.click(), other.click()]),
            point_labels_input="[[1, 0]]",
        )
        found = mask_of(shown(response))
        assert iou(found, item.mask) > 0.8
        assert not (found & other.mask).any()

    def test_words_and_a_point_find_both(
        self, server: RunningHere, picture: Picture, image: str
    ) -> None:
        square, circle = picture.one("blue square"), picture.one("red circle")
        answers = {
            name: self.images(
                server,
                image=image,
                text_prompt="red circle",
                points_input=[item.click()],
                return_preview=False,
                return_masks=True,
            )["masks"]
            for name, item in (("square", square), ("circle", circle))
        }
        truth = picture.matching("red circle")
        found = [mask_of(pixels(data)) for data in answers["square"]]
        assert_same_objects(found, [*truth, square.mask])
        # Both find the circle: it is there once.
        assert_same_objects([mask_of(pixels(data)) for data in answers["circle"]], truth)

    def test_everything(self, server: RunningHere, picture: Picture, image: str) -> None:
        fields = {"points_per_side": 12, "pred_iou_thresh": 0.5}
        answer = self.images(
            server, image=image, return_masks=True, point_labels_input="[[1]]", **fields
        )
        assert answer.keys() == {"preview", "masks"}
        found = [mask_of(pixels(data)) for data in answer["masks"]]
        for item in picture.scene.objects:
            assert max(iou(item.mask, mask) for mask in found) > 0.6
        assert (united(found) == mask_of(pixels(answer["preview"]))).all()
        strict = self.images(server, image=image, return_masks=True, **fields, threshold=0.97)
        assert len(strict["masks"]) < len(found)

    def test_an_overlay_changes_nothing_but_the_masks(
        self, server: RunningHere, picture: Picture, image: str
    ) -> None:
        body = {"image": image, "text_prompt": "red circle", "return_overlay": True}
        drawn = shown(self.post(server, **body, return_preview=False))
        changed = (drawn != picture.scene.image).any(axis=2)
        masks = united(picture.matching("red circle"))
        assert changed[masks].mean() > 0.85
        near = cv2.dilate(masks.astype(np.uint8), np.ones((21, 21), np.uint8)) > 0
        assert not changed[~near].any()

    def test_several_images(self, server: RunningHere, picture: Picture, image: str) -> None:
        body = {"image": image, "text_prompt": "red circle", "return_overlay": True}
        answer = self.images(server, **body, return_masks=True)
        assert answer.keys() == {"preview", "overlay", "masks"}
        found = [mask_of(pixels(data)) for data in answer["masks"]]
        assert_same_objects(found, picture.matching("red circle"))
        assert (united(found) == mask_of(pixels(answer["preview"]))).all()
        alone = shown(self.post(server, **body, return_preview=False))
        assert (pixels(answer["overlay"]) == alone).all()
        assert self.images(server, **body).keys() == {"preview", "overlay"}

    def test_the_best_masks(self, server: RunningHere, image: str) -> None:
        body = {"image": image, "text_prompt": "circle", "return_masks": True}
        every = self.images(server, **body)["masks"]
        assert len(every) == 4
        some = self.images(server, **body, max_masks=2)
        assert some["masks"] == every[:2]
        # The preview shows those that are answered.
        both = united([mask_of(pixels(data)) for data in some["masks"]])
        assert (mask_of(pixels(some["preview"])) == both).all()
        assert len(self.images(server, **body, threshold=0.99)["masks"]) < 4

    def test_nothing_found(self, server: RunningHere, picture: Picture, image: str) -> None:
        body = {"image": image, "text_prompt": "green star"}
        assert not shown(self.post(server, **body)).any()
        answer = self.images(server, **body, return_overlay=True, return_masks=True)
        assert answer["masks"] == []
        assert (pixels(answer["overlay"]) == picture.scene.image).all()
        assert self.images(server, **body, return_preview=False, return_masks=True) == {"masks": []}

    def test_an_address_is_fetched_once(
        self, server: RunningHere, picture: Picture, gallery: Gallery
    ) -> None:
        url = gallery.hang("/segmind.png", picture.data)["value"]
        answer = self.images(
            server, image=url, text_prompt="red circle", points_input=[5, 5], return_overlay=True
        )
        assert pixels(answer["overlay"]).shape == picture.scene.image.shape
        assert gallery.visits.count("/segmind.png") == 1

    def test_a_data_prefix(self, server: RunningHere, picture: Picture, image: str) -> None:
        sent = f"data:image/png;base64,{image}"
        found = mask_of(shown(self.post(server, image=sent, text_prompt="red circle")))
        assert iou(found, united(picture.matching("red circle"))) > 0.8

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"image": None}, ["image"]),
            ({"image": "?"}, ["image"]),
            ({"image": "http://127.0.0.1:1/none.png"}, []),
            ({"image": "ftp://example.com/a.png"}, ["http"]),
            ({"return_preview": False}, ["return_preview", "return_overlay", "return_masks"]),
            ({"threshold": 0.05}, ["threshold", "0.1"]),
            ({"pred_iou_thresh": 0.4}, ["pred_iou_thresh", "0.5"]),
            ({"max_masks": 101}, ["max_masks", "100"]),
            ({"points_per_side": 0, "text_prompt": ""}, ["points_per_side", "text_prompt"]),
            ({"points_per_side": 129}, ["points_per_side", "128"]),
            ({"points_input": "[[1, 2"}, ["points_input", "[[300, 400]]"]),
            ({"points_input": "[[1, 2, 3]]"}, ["points_input[0]", "[x, y]"]),
            ({"boxes_input": "[[5, 5, 1, 1]]"}, ["boxes_input", "x1 greater than x0"]),
            (
                {"points_input": [[1, 2], [3, 4], [5, 6]], "point_labels_input": [1, 0]},
                ["point_labels_input", "2 labels", "3 points"],
            ),
            ({"points_input": [[1, 2]], "point_labels_input": "[[0]]"}, ["on the object"]),
            ({"point_labels_input": "[[1, 0]]"}, ["points_input"]),
        ],
    )
    def test_refused(
        self, server: RunningHere, image: str, fields: dict[str, Any], words: list[str]
    ) -> None:
        body = {"image": image, "text_prompt": "circle", **fields}
        assert_refused(self.post(server, **body), 400, *words)

    def test_too_many_masks(self, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
        body = {"image": image, "text_prompt": "circle", "return_masks": True}
        with in_process(max_drawn_masks=3) as server:
            assert_refused(self.post(server, **body), 400, "4 masks", "max_masks")
            assert_refused(self.post(server, **body, return_overlay=True), 400, "4 masks")
            assert self.post(server, image=image, text_prompt="circle").status_code == 200
        monkeypatch.setattr(results, "MiB", 500)
        with in_process(max_mask_files_mb=2) as server:
            assert_refused(self.post(server, **body), 400, "exceed 2 MiB", "max_masks")


class TestSamV2Image:
    def post(self, server: RunningHere, /, **body: Any) -> httpx.Response:
        return server.post(SAM2, body)

    def test_words(self, server: RunningHere, picture: Picture, image: str) -> None:
        response = self.post(server, image=image, prompt="red circle", overlay_mask=False)
        found = mask_of(shown(response))
        assert iou(found, united(picture.matching("red circle"))) > 0.8
        assert response.headers["x-model"] == "sam3/demo"

    def test_an_overlay_unless_told_otherwise(
        self, server: RunningHere, picture: Picture, image: str
    ) -> None:
        drawn = shown(self.post(server, image=image, prompt="red circle"))
        changed = (drawn != picture.scene.image).any(axis=2)
        assert iou(changed, united(picture.matching("red circle"))) > 0.7

    @pytest.mark.parametrize("form", ["flat", "rows", "list"])
    def test_coordinates(
        self, server: RunningHere, picture: Picture, image: str, form: str
    ) -> None:
        item = picture.one("blue square")
        x, y = map(int, item.click())
        several = [[x, y], [x + 3, y - 3]]
        sent = {"flat": f"[{x},{y}]", "rows": json.dumps(several), "list": several}[form]
        response = self.post(server, image=image, coordinates=sent, overlay_mask=False)
        assert iou(mask_of(shown(response)), item.mask) > 0.8
        assert response.headers["x-model"] == server.points_model

    def test_removed_coordinates(self, server: RunningHere, picture: Picture, image: str) -> None:
        item, other = picture.one("blue square"), picture.one("red square")
        removed = json.dumps([*map(int, other.click())])
        response = self.post(
            server,
            image=image,
            coordinates=[item.click()],
            remove_coordinates=removed,
            overlay_mask=False,
        )
        assert iou(mask_of(shown(response)), item.mask) > 0.8
        # With words: the object on which the point lies is left out.
        one, left = picture.scene.matching("red circle")
        response = self.post(
            server,
            image=image,
            prompt="red circle",
            remove_coordinates=[one.click(), [-5, 9], [639.9, 0]],
            overlay_mask=False,
        )
        assert iou(mask_of(shown(response)), left.mask) > 0.8

    def test_words_count_before_coordinates(
        self, server: RunningHere, picture: Picture, image: str
    ) -> None:
        both = self.post(
            server, image=image, prompt="red circle", coordinates=picture.one("blue square").click()
        )
        alone = self.post(server, image=image, prompt="red circle")
        assert (shown(both) == shown(alone)).all()

    def test_base64(self, server: RunningHere, image: str) -> None:
        body = {"image": image, "prompt": "red circle"}
        response = self.post(server, **body, base64=True)
        assert response.headers["content-type"] == "application/json"
        text = response.json()
        assert isinstance(text, str)
        assert (pixels(text) == shown(self.post(server, **body))).all()

    def test_nothing_found(self, server: RunningHere, picture: Picture, image: str) -> None:
        body = {"image": image, "prompt": "green star"}
        assert (shown(self.post(server, **body)) == picture.scene.image).all()
        assert not shown(self.post(server, **body, overlay_mask=False)).any()

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({}, ["prompt", "coordinates"]),
            ({"prompt": " ", "remove_coordinates": [1, 2]}, ["prompt", "coordinates"]),
            ({"coordinates": "834,74"}, ["coordinates"]),
            ({"coordinates": "[834]"}, ["coordinates[0]", "[x, y]"]),
            ({"prompt": "a" * 300}, ["prompt", "256"]),
            ({"prompt": "boy", "base64": "perhaps"}, ["base64"]),
        ],
    )
    def test_refused(
        self, server: RunningHere, image: str, fields: dict[str, Any], words: list[str]
    ) -> None:
        assert_refused(self.post(server, image=image, **fields), 400, *words)


@pytest.mark.parametrize("path", [SAM3, SAM2])
def test_errors_before_the_request_is_read(server: RunningHere, path: str) -> None:
    assert_refused(server.post(path, {}, key=None), 401, "key")
    assert_refused(server.post(path, {}, key="wrong"), 401)
    assert_refused(server.post(path, b"{"), 400, "JSON")
    assert_refused(server.post(path, b"[]"), 400, "object")
    body = {"image": "?", "prompt": "a", "text_prompt": "a", "api_key": ALICE}
    assert_refused(server.post(path, body, key=None), 400, "image")


def test_another_model_is_unknown(server: RunningHere) -> None:
    assert_refused(server.post("/v1/sdxl", {}), 404, "/openapi.json")
    assert_refused(server.get(SAM3), 405, "Use POST")


@pytest.fixture(scope="module")
def narrow() -> Iterator[RunningHere]:
    """A server with low limits."""
    with serving(max_body_mb=1, max_image_pixels=10_000) as running:
        yield running


def test_limits_are_bad_requests(narrow: RunningHere) -> None:
    large = base64.b64encode(encoded(np.zeros((101, 101, 3), np.uint8))).decode()
    body = {"image": large, "prompt": "a", "text_prompt": "a"}
    for path in (SAM3, SAM2):
        assert_refused(narrow.post(path, body), 400, "INFERENCE_MAX_IMAGE_PIXELS")
        assert_refused(narrow.post(path, b" " * (2 << 20)), 400, "INFERENCE_MAX_BODY_MB")
