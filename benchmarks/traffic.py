"""Requests of all supported APIs about generated images, and checks of their responses."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import cv2
import httpx
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from benchmarks.requests import Picture
from inference_server.demo.scenes import Scene, SceneObject, make_scene

Plane = NDArray[np.bool_]

SIZE = (320, 240)
_SAME = 0.5
_POLL_SECONDS = 0.3
_IMPATIENT = 0.15


class HungUp(Exception):  # noqa: N818 - expected, not an error
    """The client cancelled its request, as intended."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image, and prompts for it.

    Attributes:
        name: image id.
        scene: scene with its objects.
        picture: image file.
        item: object to click on.
        text: concept to find.
    """

    name: str
    scene: Scene
    picture: Picture
    item: SceneObject
    text: str

    @property
    def base64(self) -> str:
        """The image file in base64."""
        return base64.b64encode(self.picture.jpeg).decode()

    @property
    def concept(self) -> Plane:
        """Union of the masks of all objects that match the concept, `bool[H, W]`."""
        masks = [item.mask for item in self.scene.matching(self.text)]
        return np.asarray(np.any(masks, axis=0), bool)


def samples() -> Iterator[Sample]:
    """Yield different samples without end."""
    for seed in count(5000):
        scene = make_scene(seed, SIZE, count=(2, 3))
        done, data = cv2.imencode(".jpg", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
        assert done  # noqa: S101 - cannot fail for uint8
        item = scene.objects[-1]
        text = f"{item.color} {item.shape}"
        yield Sample(f"soak-{seed}", scene, Picture(SIZE, data.tobytes()), item, text)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request.

    Attributes:
        name: name in reports.
        weight: relative frequency.
        send: sends a request about a sample; the number is unique per request.
        right: returns whether a response with 200 is correct for a sample.
        is_job: whether the request starts a job. Default: no.
    """

    name: str
    weight: float
    send: Callable[[httpx.Client, Sample, int], httpx.Response]
    right: Callable[[httpx.Client, httpx.Response, Sample], bool]
    is_job: bool = False


def iou(one: Plane, other: Plane) -> float:
    """Return the intersection over union; 1 if both are empty.

    Args:
        one: `bool[H, W]`.
        other: `bool[H, W]`.
    """
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def _rle(predictions: list[Any]) -> Plane:
    planes = [np.asarray(coco.decode(each["masks"]), bool) for each in predictions]
    return np.any(planes, axis=0) if planes else np.zeros(SIZE[::-1], bool)


def _pixels(data: bytes) -> NDArray[Any]:
    plane = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if plane is None:
        raise ValueError("the response is not an image")
    return plane


def _image(data: bytes) -> Plane:
    plane = _pixels(data)
    return np.asarray(plane if plane.ndim == 2 else plane[..., :3].max(axis=-1)) > 0


def _post(path: str, body: Callable[[Sample, int], Any]) -> Callable[..., httpx.Response]:
    return lambda http, sample, turn: http.post(path, json=body(sample, turn))


def _form(path: str, fields: Callable[[Sample], dict[str, Any]]) -> Callable[..., httpx.Response]:
    def send(http: httpx.Client, sample: Sample, turn: int) -> httpx.Response:
        file = ("image.jpg", sample.picture.unseen(turn).jpeg)
        return http.post(path, files={"file": file}, data=fields(sample))

    return send


def _sent(sample: Sample) -> dict[str, Any]:
    return {"image": sample.picture.field, "format": "rle"}


def _new(sample: Sample, turn: int) -> dict[str, Any]:
    return {"image": sample.picture.unseen(turn).field, "format": "rle"}


def _known(sample: Sample) -> dict[str, Any]:
    """Return fields with the image id and the image."""
    return {"image_id": sample.name, "format": "rle", "image": sample.picture.field}


def _texts(sample: Sample) -> dict[str, Any]:
    return {"prompts": [{"type": "text", "text": sample.text}]}


def _clicks(sample: Sample) -> dict[str, Any]:
    x, y = sample.item.click()
    return {"prompts": [{"points": [{"x": x, "y": y, "positive": True}]}]}


def _concept(http: httpx.Client, answer: httpx.Response, sample: Sample) -> bool:
    (result,) = answer.json()["prompt_results"]
    return iou(_rle(result["predictions"]), sample.concept) >= _SAME


def _click(http: httpx.Client, answer: httpx.Response, sample: Sample) -> bool:
    return iou(_rle(answer.json()["predictions"]), sample.item.mask) >= _SAME


def _embedded(http: httpx.Client, answer: httpx.Response, sample: Sample) -> bool:
    return bool(answer.json()["image_id"] == sample.name)


def _drawn_concept(http: httpx.Client, answer: httpx.Response, sample: Sample) -> bool:
    return iou(_image(answer.content), sample.concept) >= _SAME


def _drawn_click(http: httpx.Client, answer: httpx.Response, sample: Sample) -> bool:
    return iou(_image(answer.content), sample.item.mask) >= _SAME


def _drawn_among(http: httpx.Client, answer: httpx.Response, sample: Sample) -> bool:
    """Return whether at least half of the objects are found; a coarse grid misses small ones."""
    plane = _pixels(answer.content)
    drawn = [plane == value for value in np.unique(plane)]
    objects = sample.scene.objects
    found = sum(any(iou(mask, item.mask) >= _SAME for mask in drawn) for item in objects)
    return 2 * found >= len(objects)


def _space(answer: Any, truth: Plane) -> bool:
    planes = [_image(base64.b64decode(mask)) for mask in answer["masks"]]
    return bool(planes) and iou(np.any(planes, axis=0), truth) >= _SAME


def _space_concept(http: httpx.Client, answer: httpx.Response, sample: Sample) -> bool:
    return _space(answer.json()["data"][0], sample.concept)


def _space_click(http: httpx.Client, answer: httpx.Response, sample: Sample) -> bool:
    return _space(answer.json(), sample.item.mask)


def _listed(http: httpx.Client, answer: httpx.Response, sample: Sample) -> bool:
    return "facebook/sam3" in answer.json()["models"]["sam3"]


def _fetched(http: httpx.Client, answer: httpx.Response, sample: Sample) -> bool:
    """Wait for a job, and return whether its result is correct."""
    where = f"/v2/requests/{answer.json()['request_id']}"
    while True:
        status = http.get(f"{where}/status")
        if status.status_code != 200:
            return False
        if status.json()["status"] == "COMPLETED":
            break
        time.sleep(_POLL_SECONDS)
    output = http.get(where).json()["output"]
    if isinstance(output, str):
        return iou(_image(http.get(output).content), sample.item.mask) >= _SAME
    return iou(_rle(output["predictions"]), sample.item.mask) >= _SAME


def _impatient(http: httpx.Client, sample: Sample, turn: int) -> httpx.Response:
    """Send a request and cancel it before the response, unless it is refused earlier."""
    body = {**_new(sample, turn), **_clicks(sample)}
    try:
        return http.post("/sam3/visual_segment", json=body, timeout=_IMPATIENT)
    except httpx.TimeoutException:
        raise HungUp from None


def _nothing(sample: Sample) -> list[int]:
    return [round(value) for value in sample.item.click()]


KINDS: tuple[Kind, ...] = (
    Kind("concept", 3, _post("/sam3/concept_segment", lambda s, n: _sent(s) | _texts(s)), _concept),
    Kind(
        "concept, new image",
        2,
        _post("/sam3/concept_segment", lambda s, n: _new(s, n) | _texts(s)),
        _concept,
    ),
    Kind(
        "concept by id",
        3,
        _post("/sam3/concept_segment", lambda s, n: _known(s) | _texts(s)),
        _concept,
    ),
    Kind("click", 3, _post("/sam3/visual_segment", lambda s, n: _sent(s) | _clicks(s)), _click),
    Kind(
        "click, new image",
        2,
        _post("/sam3/visual_segment", lambda s, n: _new(s, n) | _clicks(s)),
        _click,
    ),
    Kind(
        "click by id",
        6,
        _post("/sam2/segment_image", lambda s, n: _known(s) | _clicks(s)),
        _click,
    ),
    Kind(
        "embed, SAM 2",
        1,
        _post("/sam2/embed_image", lambda s, n: {"image": s.picture.field, "image_id": s.name}),
        _embedded,
    ),
    Kind(
        "embed, SAM 3",
        1,
        _post("/sam3/embed_image", lambda s, n: {"image": s.picture.field, "image_id": s.name}),
        _embedded,
    ),
    Kind(
        "samgeo text",
        1,
        _form("/segment/text", lambda s: {"prompt": s.text, "output_format": "png"}),
        _drawn_concept,
    ),
    Kind(
        "samgeo predict",
        1,
        _form(
            "/segment/predict",
            lambda s: {
                "model_version": "sam2",
                "point_coords": json.dumps([list(s.item.click())]),
                "point_labels": "[1]",
                "output_format": "png",
            },
        ),
        _drawn_click,
    ),
    Kind(
        "samgeo automatic",
        0.3,
        _form(
            "/segment/automatic",
            lambda s: {"model_version": "sam2", "points_per_side": "8", "output_format": "png"},
        ),
        _drawn_among,
    ),
    Kind(
        "Space predict",
        1,
        _post("/api/predict", lambda s, n: {"data": [s.base64, s.text, 0.5]}),
        _space_concept,
    ),
    Kind(
        "Space click",
        1,
        _post(
            "/api/sam2_compatible",
            lambda s, n: {
                "inputs": {"image": s.base64, "points": [_nothing(s)], "point_labels": [1]}
            },
        ),
        _space_click,
    ),
    Kind(
        "Segmind text",
        1,
        _post(
            "/v1/sam3-image",
            lambda s, n: {"image": s.base64, "text_prompt": s.text, "return_preview": True},
        ),
        _drawn_concept,
    ),
    Kind(
        "Segmind click",
        1,
        _post(
            "/v1/sam-v2-image",
            lambda s, n: {
                "image": s.base64,
                "coordinates": list(s.item.click()),
                "overlay_mask": False,
            },
        ),
        _drawn_click,
    ),
    Kind(
        "job, PNG",
        1,
        _post(
            "/v2/sam-v2-image",
            lambda s, n: {
                "image": s.base64,
                "coordinates": list(s.item.click()),
                "overlay_mask": False,
            },
        ),
        _fetched,
        is_job=True,
    ),
    Kind(
        "job, JSON",
        1,
        _post("/v2/sam3/visual_segment", lambda s, n: _new(s, n) | _clicks(s)),
        _fetched,
        is_job=True,
    ),
    Kind("models", 1, lambda http, s, n: http.get("/models"), _listed),
    Kind("click, cancelled", 1, _impatient, _click),
)
"""Requests to all endpoints, by image and by id."""
