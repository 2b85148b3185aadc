"""The Space's API: masks of responses, and error messages."""

from __future__ import annotations

import base64
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from schemas.huggingface import SpaceResponse
from tests.api.pictures import Gallery, Picture, Plane, iou, noise
from tests.api.rasters import assert_same_objects
from tests.api.serving import ALICE, BOB, RunningHere, serving

COMPATIBLE, PREDICT = "/api/sam2_compatible", "/api/predict"
KEYS = ["masks", "scores", "num_objects", "sam_version", "prompt_types", "success"]
VECTOR_KEYS = ["polygons", "polygon_format", "original_image_size"]


@pytest.fixture(scope="module")
def image(picture: Picture) -> str:
    return picture.sent["value"]


def ask(server: RunningHere, image: str, /, **inputs: Any) -> dict[str, Any]:
    """Return the body of a response, which must be a success."""
    response = server.post(COMPATIBLE, {"inputs": {"image": image, **inputs}})
    assert response.status_code == 200, response.text
    return checked(response.json())


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    SpaceResponse.model_validate(answer)
    assert list(answer) == KEYS + VECTOR_KEYS * ("polygons" in answer)
    assert len(answer["masks"]) == len(answer["scores"]) == answer["num_objects"]
    assert answer["sam_version"] == "3.0"
    assert answer["success"] is True
    return answer


def planes(answer: dict[str, Any], size: tuple[int, int]) -> list[Plane]:
    """Return the masks of a response."""
    found = []
    for text in answer["masks"]:
        data = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
        plane = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        assert plane is not None
        assert plane.dtype == np.uint8
        assert plane.shape == size
        assert set(np.unique(plane)) == {0, 255}  # none is empty
        found.append(plane > 0)
    return found


def refused(response: httpx.Response, status: int) -> str:
    """Return the message of an error response, and check the body's format."""
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["success", "error", "code", "masks", "scores", "num_objects"]
    told = body.pop("error")
    assert body.pop("code")
    assert body == {"success": False, "masks": [], "scores": [], "num_objects": 0}
    assert isinstance(told, str)
    return told


def box(picture: Picture, text: str) -> list[float]:
    return list(map(float, picture.one(text).box))


def test_words(server: RunningHere, picture: Picture, image: str) -> None:
    answer = ask(server, image, text_prompts=["red circle", "green star", "blue square"])
    found = planes(answer, picture.size)
    assert answer["prompt_types"] == ["text"]
    assert_same_objects(found[:2], picture.matching("red circle"))
    assert_same_objects(found[2:], picture.matching("blue square"))
    assert all(0.5 <= score <= 1 for score in answer["scores"])
    assert answer["scores"][0] >= answer["scores"][1]


def test_boxes(server: RunningHere, picture: Picture, image: str) -> None:
    texts = ["blue square", "red circle", "red square"]
    boxes = [box(picture, text) for text in texts]
    answer = ask(server, image, boxes=boxes, box_labels=[1, 1, 1])
    assert answer["prompt_types"] == ["visual"]
    for mask, text in zip(planes(answer, picture.size), texts, strict=True):
        assert iou(mask, picture.one(text).mask) > 0.8


def test_points_are_on_one_object(server: RunningHere, picture: Picture, image: str) -> None:
    item, other = picture.one("blue square"), picture.one("red circle")
    answer = ask(server, image, points=[item.click(), other.click()], point_labels=[1, 0])
    (mask,) = planes(answer, picture.size)
    assert iou(mask, item.mask) > 0.8


def test_points_in_a_box_and_beside_it(server: RunningHere, picture: Picture, image: str) -> None:
    held, alone = picture.one("red square"), picture.one("blue square")
    answer = ask(
        server,
        image,
        boxes=[box(picture, "red square")],
        box_labels=[1],
        points=[alone.click(), held.click()],
        point_labels=[1, 1],
    )
    first, second = planes(answer, picture.size)
    assert iou(first, held.mask) > 0.8
    assert iou(second, alone.mask) > 0.8


def test_words_and_pointing_at_once(server: RunningHere, picture: Picture, image: str) -> None:
    answer = ask(
        server,
        image,
        text_prompts=["red circle"],
        boxes=[box(picture, "blue square")],
        box_labels=[1],
    )
    assert answer["prompt_types"] == ["text", "visual"]
    *by_words, by_box = planes(answer, picture.size)
    assert_same_objects(by_words, picture.matching("red circle"))
    assert iou(by_box, picture.one("blue square").mask) > 0.8


def test_a_negative_box_is_taken_out(server: RunningHere, picture: Picture, image: str) -> None:
    item = picture.one("blue square")
    x0, y0, x1, y1 = item.box
    half = [float(x0), float(y0) - 5, (x0 + x1) / 2, float(y1) + 5]
    middle = int(np.ceil(half[2] - 0.5))
    prompts: dict[str, Any] = {"points": [item.click()], "point_labels": [1]}
    (whole,) = planes(ask(server, image, **prompts), picture.size)
    cut = ask(server, image, boxes=[half], box_labels=[0], **prompts)
    (mask,) = planes(cut, picture.size)
    expected = whole.copy()
    expected[y0 - 5 : y1 + 5, x0:middle] = False
    assert (mask == expected).all()
    assert 0.3 * whole.sum() < mask.sum() < 0.7 * whole.sum()

    by_words = ask(server, image, text_prompts=["blue square"], boxes=[half], box_labels=[0])
    assert by_words["prompt_types"] == ["text", "visual"]
    assert all(not plane[y0:y1, x0:middle].any() for plane in planes(by_words, picture.size))


def test_masks_left_empty_are_dropped(server: RunningHere, picture: Picture, image: str) -> None:
    x0, y0, x1, y1 = box(picture, "red square")
    answer = ask(
        server,
        image,
        text_prompts=["square"],
        boxes=[[x0 - 9, y0 - 9, x1 + 9, y1 + 9]],
        box_labels=[0],
        vectorize=True,
    )
    assert_same_objects(planes(answer, picture.size), picture.matching("blue square"))
    assert len(answer["polygons"]) == 1


def test_nothing_found_is_no_error(server: RunningHere, image: str) -> None:
    answer = ask(server, image, text_prompts=["green star"])
    assert answer == {
        "masks": [],
        "scores": [],
        "num_objects": 0,
        "sam_version": "3.0",
        "prompt_types": ["text"],
        "success": True,
    }
    empty = ask(server, image, text_prompts=["green star"], vectorize=True)
    assert empty["polygons"] == []
    assert empty["original_image_size"] == [640, 480]


def test_three_masks_an_object(server: RunningHere, picture: Picture, image: str) -> None:
    item = picture.one("blue square")
    prompts: dict[str, Any] = {"points": [item.click()], "point_labels": [1]}
    three = ask(server, image, multimask_output=True, confidence_threshold=0, **prompts)
    masks = planes(three, picture.size)
    assert len(masks) == 3
    assert max(iou(mask, item.mask) for mask in masks) > 0.8
    # The threshold holds for them as well.
    least = sorted(three["scores"])[1]
    some = ask(server, image, multimask_output=True, confidence_threshold=least - 1e-4, **prompts)
    assert some["scores"] == pytest.approx([s for s in three["scores"] if s >= least], abs=1e-3)


def test_the_threshold_is_for_words_and_pointing(server: RunningHere, image: str) -> None:
    prompts: dict[str, Any] = {
        "text_prompts": ["shape"],
        "boxes": [[100, 100, 200, 200]],
        "box_labels": [1],
    }
    scores = ask(server, image, confidence_threshold=0.1, **prompts)["scores"]
    least = sorted(scores)[len(scores) // 2] - 1e-4
    kept = ask(server, image, confidence_threshold=least, **prompts)["scores"]
    assert kept == pytest.approx([score for score in scores if score > least], abs=1e-3)
    assert ask(server, image, confidence_threshold=1, **prompts)["num_objects"] == 0


@pytest.mark.parametrize(("epsilon", "least"), [(0, 0.95), (2.0, 0.93)])
def test_polygons_are_the_masks(
    server: RunningHere, picture: Picture, image: str, epsilon: float, least: float
) -> None:
    answer = ask(server, image, text_prompts=["shape"], vectorize=True, simplify_epsilon=epsilon)
    assert answer["polygon_format"] == "pixel_coordinates"
    assert answer["original_image_size"] == [640, 480]
    for mask, polygon in zip(planes(answer, picture.size), answer["polygons"], strict=True):
        drawn = np.zeros(picture.size, np.uint8)
        cv2.fillPoly(drawn, [np.array(polygon, np.int32)], [1])
        assert iou(drawn > 0, mask) > least


def test_simpler_polygons_have_fewer_points(server: RunningHere, image: str) -> None:
    def count(**fields: Any) -> int:
        answer = ask(server, image, text_prompts=["shape"], vectorize=True, **fields)
        return sum(map(len, answer["polygons"]))

    assert count(simplify_epsilon=0) > count() > count(simplify_epsilon=10)


def test_predict(server: RunningHere, picture: Picture, image: str) -> None:
    for data in ([image, "red circle", 0.5], [image, "red circle"]):
        envelope = server.answer(PREDICT, data=data)
        assert list(envelope) == ["data", "is_generating", "duration", "average_duration"]
        (answer,) = envelope["data"]
        assert_same_objects(planes(checked(answer), picture.size), picture.matching("red circle"))
        assert answer == ask(server, image, text_prompts=["red circle"])
        assert envelope["is_generating"] is False
        assert envelope["duration"] > 0
        assert envelope["average_duration"] > 0
    (strict,) = server.answer(PREDICT, data=[image, "red circle", 1])["data"]
    assert strict["num_objects"] == 0


def test_average_duration() -> None:
    with serving(auth="off", api_keys="") as fresh:
        for earlier, seed in enumerate((31, 32, 33)):
            # Earlier requests count with all that they took, to the end of their answers.
            before = fresh.metric("inference_request_seconds_sum", route=PREDICT)
            assert fresh.metric("inference_request_seconds_count", route=PREDICT) == earlier
            data = [noise(seed)["value"], "circle"]
            answer = fresh.answer(PREDICT, data=data)
            average = (before + answer["duration"]) / (earlier + 1)
            assert answer["average_duration"] == pytest.approx(average)
        assert answer["average_duration"] != answer["duration"]


def test_images_in_all_forms(
    server: RunningHere, picture: Picture, image: str, gallery: Gallery
) -> None:
    expected = ask(server, image, text_prompts=["red circle"])
    assert ask(server, f"data:image/png;base64,{image}", text_prompts=["red circle"]) == expected
    address = gallery.hang("/space.png", picture.data)["value"]
    assert ask(server, address, text_prompts=["red circle"]) == expected
    both = {"text_prompts": ["red circle"], "points": [[1, 1]], "point_labels": [1]}
    seen = len(gallery.visits)
    ask(server, address, **both)
    assert gallery.visits[seen:] == ["/space.png"]  # once for both engines


def test_the_same_file_is_encoded_once(server: RunningHere) -> None:
    image = noise(4711)["value"]
    prompts: dict[str, Any] = {
        "text_prompts": ["circle"],
        "points": [[9, 9]],
        "point_labels": [1],
    }

    def cache(key: str = ALICE, **inputs: Any) -> tuple[str, str]:
        response = server.post(COMPATIBLE, {"inputs": {"image": image, **inputs}}, key=key)
        assert response.status_code == 200, response.text
        return response.headers["x-embedding-cache"], response.headers["x-model"]

    models = ", ".join(dict.fromkeys(["sam3/demo", server.points_model]))
    assert cache(**prompts) == ("miss", models)
    assert cache(**prompts) == ("hit", models)
    assert cache(text_prompts=["square"]) == ("hit", "sam3/demo")
    response = server.post(PREDICT, {"data": [image, "square"]})
    assert response.headers["x-embedding-cache"] == "hit"
    assert cache(BOB, **prompts)[0] == "miss"  # another key knows nothing of it


IMAGE = noise(55)["value"]
PRIVATE = "http://169.254.169.254/latest"


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({}, "At least one of text_prompt, boxes, or points must be provided"),
        ({"boxes": [[1, 2, 3, 4]]}, "box_labels must be provided when boxes are specified"),
        ({"points": [[1, 2]]}, "point_labels must be provided when points are specified"),
        (
            {"points": [[1, 2]], "point_labels": [0]},
            "All boxes and points are negative. Send at least one positive box or point (label 1), "
            "or text_prompts",
        ),
        (
            {"points": [[1, 2]], "point_labels": [1, 1]},
            "point_labels has 2 entries for 1 points; send one label per point, 1 for positive or "
            "0 for negative",
        ),
        (
            {"points": [1, 2], "point_labels": [1]},
            "inputs.points[0]: Input should be a valid list",
        ),
        ({"image": None, "text_prompts": ["cat"]}, "inputs.image: Field required"),
        (
            {"image": "%%%", "text_prompts": ["cat"]},
            "Could not load input image. Cause: The text is not valid base64. Send the image file "
            "in base64, with or without a `data:…;base64,` prefix.",
        ),
    ],
)
def test_refusals(server: RunningHere, inputs: dict[str, Any], told: str) -> None:
    response = server.post(COMPATIBLE, {"inputs": {"image": IMAGE, **inputs}})
    assert refused(response, 400) == told


def test_other_refusals(server: RunningHere) -> None:
    assert refused(server.post(COMPATIBLE, {}), 400) == "inputs: Field required"
    assert refused(server.post(COMPATIBLE, b"[]"), 400) == "The body must be a JSON object."
    assert refused(server.post(COMPATIBLE, b"{"), 400).startswith("The body is not valid JSON")
    assert refused(server.post(PREDICT, {"data": [IMAGE, ""]}), 400).startswith("data[1]: ")
    no_picture = base64.b64encode(b"hello").decode()
    assert "image" in refused(server.post(PREDICT, {"data": [no_picture, "cat"]}), 400)
    inside = {"inputs": {"image": PRIVATE, "text_prompts": ["cat"]}}
    assert "169.254" in refused(server.post(COMPATIBLE, inside), 400)
    for path in (COMPATIBLE, PREDICT):
        assert "key" in refused(server.post(path, {}, key=None), 401)
        assert "key" in refused(server.post(path, {"api_key": "wrong"}, key=None), 401)


def test_a_key_in_the_body(server: RunningHere) -> None:
    body = {"inputs": {"image": IMAGE, "text_prompts": ["cat"]}}
    assert server.post(COMPATIBLE, {"api_key": ALICE, **body}, key=None).status_code == 200
    data = {"data": [IMAGE, "cat"]}
    assert server.post(PREDICT, {"api_key": ALICE, **data}, key=None).status_code == 200
    response = server.http.post(COMPATIBLE, json=body, auth=("x", ALICE))
    assert response.status_code == 200
    assert server.http.post(f"{PREDICT}?api_key={ALICE}", json=data).status_code == 200


def test_work_is_bounded(picture: Picture, image: str) -> None:
    with serving(auth="off", api_keys="", max_binary_mb=1, max_body_mb=1) as small:
        big = {"inputs": {"image": "A" * (2 << 20), "text_prompts": ["x"]}}
        assert "INFERENCE_MAX_BODY_MB" in refused(small.post(COMPATIBLE, big), 413)
        inputs = {
            "image": image,
            "boxes": [box(picture, "red circle")] * 40,
            "box_labels": [1] * 40,
        }
        told = refused(small.post(COMPATIBLE, {"inputs": inputs}), 413)
        assert "raise confidence_threshold, or raise INFERENCE_MAX_BINARY_MB" in told
