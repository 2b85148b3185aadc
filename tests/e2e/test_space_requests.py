"""Scripts from the Space's page, with only the URL and the prompts changed."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import requests

from tests.api.pictures import Picture, Plane, iou
from tests.api.rasters import assert_same_objects


@pytest.fixture(scope="module")
def image_b64(picture: Picture, tmp_path_factory: pytest.TempPathFactory) -> str:
    file: Path = tmp_path_factory.mktemp("space") / "image.jpg"
    done, data = cv2.imencode(".jpg", picture.scene.image[..., ::-1])
    assert done
    file.write_bytes(data.tobytes())
    with open(file, "rb") as f:
        return base64.b64encode(f.read()).decode()


def masks(result: dict[str, Any]) -> list[Plane]:
    """As the Space's users read them."""
    assert result["success"]
    assert result["num_objects"] == len(result["masks"]) == len(result["scores"])
    files = [np.frombuffer(base64.b64decode(mask), np.uint8) for mask in result["masks"]]
    return [np.asarray(cv2.imdecode(file, cv2.IMREAD_GRAYSCALE)) > 127 for file in files]


def compatible(url: str, **inputs: Any) -> dict[str, Any]:
    response = requests.post(f"{url}/api/sam2_compatible", json={"inputs": inputs}, timeout=120)
    result: dict[str, Any] = response.json()
    assert response.status_code == 200, result
    return result


def test_simple_text_api(url: str, image_b64: str, picture: Picture) -> None:
    response = requests.post(
        f"{url}/api/predict", json={"data": [image_b64, "red circle", 0.5]}, timeout=120
    )
    result = response.json()
    assert_same_objects(masks(result["data"][0]), picture.matching("red circle"))


def test_text_prompts_only(url: str, image_b64: str, picture: Picture) -> None:
    result = compatible(
        url, image=image_b64, text_prompts=["red circle", "red square"], confidence_threshold=0.5
    )
    found = masks(result)
    assert_same_objects(found[:2], picture.matching("red circle"))
    assert_same_objects(found[2:], picture.matching("red square"))
    assert result["prompt_types"] == ["text"]


def test_points_and_boxes_only(url: str, image_b64: str, picture: Picture) -> None:
    item = picture.one("blue square")
    result = compatible(
        url,
        image=image_b64,
        boxes=[list(map(int, item.box))],
        box_labels=[1],  # 1=positive, 0=negative
        confidence_threshold=0.5,
    )
    (mask,) = masks(result)
    assert iou(mask, item.mask) > 0.8
    assert result["prompt_types"] == ["visual"]


def test_combined_visual_prompts(url: str, image_b64: str, picture: Picture) -> None:
    item, other = picture.one("blue square"), picture.one("red square")
    result = compatible(
        url,
        image=image_b64,
        boxes=[list(map(int, other.box))],  # Bounding box
        box_labels=[0],  # 0=negative (exclude this area)
        points=[list(map(int, item.click()))],  # Point prompt
        point_labels=[1],  # 1=positive point
        confidence_threshold=0.5,
    )
    (mask,) = masks(result)
    assert iou(mask, item.mask) > 0.8
    x0, y0, x1, y1 = other.box
    assert not mask[y0:y1, x0:x1].any()


def test_vectorize(url: str, image_b64: str, picture: Picture) -> None:
    result = compatible(
        url,
        image=image_b64,
        text_prompts=["square"],
        confidence_threshold=0.5,
        vectorize=True,
        simplify_epsilon=2.0,
    )
    assert result["polygon_format"] == "pixel_coordinates"
    assert result["original_image_size"] == [640, 480]
    drawn = []
    for polygon in result["polygons"]:
        plane = np.zeros(picture.size, np.uint8)
        cv2.fillPoly(plane, [np.array(polygon, np.int32)], [1])
        drawn.append(plane > 0)
    assert_same_objects(drawn, picture.matching("square"))
    assert_same_objects(masks(result), picture.matching("square"))
