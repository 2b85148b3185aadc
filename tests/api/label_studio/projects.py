"""Requests as Label Studio sends them, and its regions as masks."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import httpx
import numpy as np
from PIL import Image

from inference_server.demo.scenes import SceneObject
from tests.api.pictures import Plane
from tests.api.serving import ALICE, RunningHere

HEALTH, SETUP, PREDICT, WEBHOOK, VERSIONS = (
    f"/label-studio/{name}" for name in ("health", "setup", "predict", "webhook", "versions")
)

BASIC = {"authorization": "Basic " + base64.b64encode(f"x:{ALICE}".encode()).decode()}
PROJECT = "7.1764000000"


def config(
    *labels: str, output: str = "BrushLabels", attributes: str = "", more: str = "", box: str = ""
) -> str:
    """Return a label configuration as the guide of Label Studio's SAM backends has it.

    Args:
        labels: label tags, or values of labels.
        output: tag of the results.
        attributes: more attributes of that tag.
        more: more tags.
        box: more attributes of the smart rectangle.
    """
    tags = "".join(
        label if label.startswith("<") else f'<Label value="{label}"/>' for label in labels
    )
    return (
        '<View><Image name="image" value="$image" zoom="true"/>'
        f'<{output} name="out" toName="image" {attributes}>{tags}</{output}>'
        f'<KeyPointLabels name="kp" toName="image" smart="true">{tags}</KeyPointLabels>'
        f'<RectangleLabels name="rect" toName="image" smart="true" {box}>{tags}</RectangleLabels>'
        f'<TextArea name="prompt" toName="image"/>{more}</View>'
    )


def data_url(data: bytes) -> str:
    """Return an image as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def task(number: int, image: str | None, **fields: Any) -> dict[str, Any]:
    """Return a task as Label Studio sends it, with fields that a backend ignores."""
    return {
        "id": number,
        "data": {"image": image, "note": {"of": ["the", "user"]}},
        "meta": {},
        "project": 7,
        "predictions": [{"result": [{"value": {"rle": [1, 2, 3]}}], "model_version": "old"}],
        "annotations": [],
        "drafts": [],
        **fields,
    }


def body(tasks: Sequence[Mapping[str, Any]], label_config: str, context: Any = None) -> Any:
    """Return the body of a prediction."""
    return {
        "tasks": tasks,
        "project": PROJECT,
        "label_config": label_config,
        "params": {"login": None, "password": None, "context": context},
    }


def post(server: RunningHere, path: str, sent: Any, **headers: str) -> httpx.Response:
    """Send a request with the key in HTTP Basic, as Label Studio does."""
    return server.http.post(path, json=sent, headers={**BASIC, **headers})


def answered(server: RunningHere, sent: Any) -> list[dict[str, Any]]:
    """Return the predictions of a request that must succeed."""
    response = post(server, PREDICT, sent)
    assert response.status_code == 200, response.text
    results: list[dict[str, Any]] = response.json()["results"]
    return results


def _item(kind: str, name: str, value: dict[str, Any], **fields: Any) -> dict[str, Any]:
    frame = {"original_width": 640, "original_height": 480, "image_rotation": 0}
    told = {"id": "Vz3p", "from_name": name, "to_name": "image", "type": kind, "origin": "manual"}
    return {**frame, "value": value, **told, **fields}


def point(
    x: float, y: float, label: str, *, positive: bool = True, size: tuple[int, int] = (480, 640)
) -> dict[str, Any]:
    """Return a smart key point, as the editor sends it, at a pixel."""
    value: dict[str, Any] = {"x": 100 * x / size[1], "y": 100 * y / size[0], "width": 0.26}
    value |= {"labels": [label], "keypointlabels": [label]}
    return _item("keypointlabels", "kp", value, is_positive=positive)


def click(item: SceneObject, label: str) -> dict[str, Any]:
    """Return a positive key point well inside an object."""
    return point(*item.click(), label)


def rectangle(
    item: SceneObject, label: str, size: tuple[int, int] = (480, 640), **fields: Any
) -> dict[str, Any]:
    """Return a smart rectangle, as the editor sends it, around an object."""
    x0, y0, x1, y1 = item.box
    value = {
        "x": 100 * x0 / size[1],
        "y": 100 * y0 / size[0],
        "width": 100 * (x1 - x0) / size[1],
        "height": 100 * (y1 - y0) / size[0],
        "rotation": 0,
        "rectanglelabels": [label],
    }
    return _item("rectanglelabels", "rect", value | fields)


def words(*texts: str) -> dict[str, Any]:
    """Return the words of a text area, as the editor sends them."""
    told = _item("textarea", "prompt", {"text": list(texts)})
    return {key: each for key, each in told.items() if not key.startswith("original")}


def plane(region: Mapping[str, Any]) -> Plane:
    """Return the mask of a region, as the editor draws it."""
    height, width = region["original_height"], region["original_width"]
    value = region["value"]
    canvas = np.zeros((height, width), np.uint8)
    if region["type"] == "brushlabels":
        assert value["format"] == "rle"
        return np.asarray(decode_brush(value["rle"]).reshape(height, width, 4)[..., 3] > 0)
    if region["type"] == "bitmasklabels":
        head, _, text = value["imageDataURL"].partition(",")
        assert head == "data:image/png;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) > 127
    if region["type"] == "polygonlabels":
        assert value["closed"] is True
        points = np.array(value["points"]) / 100 * (width, height) - 0.5
        cv2.fillPoly(canvas, [np.rint(points).astype(np.int32)], 1)
    else:
        x0, y0 = value["x"] / 100 * width, value["y"] / 100 * height
        x1, y1 = x0 + value["width"] / 100 * width, y0 + value["height"] / 100 * height
        canvas[round(y0) : round(y1), round(x0) : round(x1)] = 1
    return canvas > 0


def decode_brush(rle: Sequence[int]) -> Any:
    """Decode brush run lengths bit by bit, as the editor does."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    position = 0

    def read(count: int) -> int:
        nonlocal position
        position += count
        return int(bits[position - count : position], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run, size = read(1), sizes[read(2)]
        length = read(size) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    return np.array(values, np.uint8)
