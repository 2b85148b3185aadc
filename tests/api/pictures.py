"""Test images, prompts for their objects, and comparison of returned masks."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from inference_server.demo.scenes import Scene, SceneObject

Plane = NDArray[np.bool_]


def encoded(image: NDArray[np.uint8], extension: str = ".png") -> bytes:
    """Encode an RGB image as a file."""
    done, data = cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def in_base64(data: bytes) -> dict[str, str]:
    """Return the `image` field of a request."""
    return {"type": "base64", "value": base64.b64encode(data).decode()}


@dataclass
class Picture:
    """A scene as a test image.

    Attributes:
        scene: The image and its objects.
    """

    scene: Scene

    @cached_property
    def data(self) -> bytes:
        """The PNG file."""
        return encoded(self.scene.image)

    @cached_property
    def sent(self) -> dict[str, str]:
        """The `image` field of a request."""
        return in_base64(self.data)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.scene.image.shape[:2]
        return height, width

    def matching(self, text: str) -> list[Plane]:
        """Return the masks of the objects that a concept describes."""
        return [item.mask for item in self.scene.matching(text)]

    def one(self, text: str) -> SceneObject:
        """Return the first object that a concept describes."""
        return self.scene.matching(text)[0]


def noise(seed: int, size: tuple[int, int] = (48, 64)) -> dict[str, str]:
    """Return the `image` field of a random image that is in no cache."""
    rng = np.random.default_rng(seed)
    return in_base64(encoded(rng.integers(0, 256, (*size, 3), np.uint8)))


def click(item: SceneObject) -> dict[str, Any]:
    """Return a PVS prompt: one point well inside an object."""
    x, y = item.click()
    return {"points": [{"x": x, "y": y, "positive": True}]}


def center_box(item: SceneObject) -> dict[str, float]:
    """Return a PVS box around an object, anchored at its centre."""
    x0, y0, x1, y1 = item.box
    return {"x": (x0 + x1) / 2, "y": (y0 + y1) / 2, "width": x1 - x0, "height": y1 - y0}


def top_left_box(item: SceneObject) -> dict[str, float]:
    """Return a PCS box around an object, anchored at its top-left corner."""
    x0, y0, x1, y1 = item.box
    return {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}


def corner_box(item: SceneObject) -> dict[str, float]:
    """Return a PCS box around an object, by two corners."""
    return dict(zip(("x0", "y0", "x1", "y1"), map(float, item.box), strict=True))


def iou(one: Plane, other: Plane) -> float:
    """Return the intersection over union; 1 for two empty masks."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def plane(prediction: Mapping[str, Any], size: tuple[int, int]) -> Plane:
    """Return the mask of a prediction, decoded as Roboflow's clients do.

    Polygons have no holes, so a ring becomes a disc.
    """
    assert 0 <= prediction["confidence"] <= 1
    if prediction["format"] == "rle":
        assert prediction["masks"]["size"] == list(size)
        return np.asarray(coco.decode(prediction["masks"]), bool)
    assert prediction["format"] == "polygon"
    canvas = np.zeros(size, np.uint8)
    for polygon in prediction["masks"]:
        cv2.fillPoly(canvas, [np.array(polygon, np.int32).reshape(-1, 1, 2)], 1)
    return canvas.astype(bool)


def overlaps(
    predictions: Sequence[Mapping[str, Any]], truth: Sequence[Plane], size: tuple[int, int]
) -> list[float]:
    """Return each true mask's best IoU; each prediction is used once."""
    left = [plane(prediction, size) for prediction in predictions]
    found = []
    for mask in truth:
        scores = [iou(mask, candidate) for candidate in left]
        best = int(np.argmax(scores)) if scores else -1
        found.append(scores[best] if scores else 0.0)
        if scores:
            del left[best]
    return found


def assert_finds(
    predictions: Sequence[Mapping[str, Any]],
    truth: Sequence[Plane],
    size: tuple[int, int],
    at_least: float = 0.6,
) -> None:
    """Assert that exactly the true masks are found, sorted by confidence.

    `evaluation/` measures the quality of masks; here it only matters that the objects are right.
    """
    confidences = [prediction["confidence"] for prediction in predictions]
    assert confidences == sorted(confidences, reverse=True)
    found = overlaps(predictions, truth, size)
    assert len(predictions) == len(truth), (confidences, found)
    assert min(found, default=1.0) >= at_least, found


@dataclass
class Gallery:
    """A web server of test images.

    Attributes:
        url: Its base URL.
        pictures: Files by path.
        visits: Requested paths.
    """

    url: str
    pictures: dict[str, bytes] = field(default_factory=dict)
    visits: list[str] = field(default_factory=list)

    def hang(self, path: str, data: bytes) -> dict[str, str]:
        """Serve a file, and return the `image` field that names its URL."""
        self.pictures[path] = data
        return {"type": "url", "value": self.url + path}


@contextmanager
def gallery() -> Iterator[Gallery]:
    """Run a web server of test images on 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            served.visits.append(path)
            data = served.pictures.get(path)
            self.send_response(404 if data is None else 200)
            self.send_header("content-length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Gallery(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield served
        server.shutdown()
