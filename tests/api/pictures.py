"""Pictures to send, and how to look at the masks that come back."""

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
    """An RGB image as a file."""
    done, data = cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def in_base64(data: bytes) -> dict[str, str]:
    """The image of a request."""
    return {"type": "base64", "value": base64.b64encode(data).decode()}


@dataclass
class Picture:
    """A scene as the tests send it.

    Attributes:
        scene: what is on it.
    """

    scene: Scene

    @cached_property
    def data(self) -> bytes:
        """The file."""
        return encoded(self.scene.image)

    @cached_property
    def sent(self) -> dict[str, str]:
        """The image of a request."""
        return in_base64(self.data)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.scene.image.shape[:2]
        return height, width

    def matching(self, text: str) -> list[Plane]:
        """The masks of what a concept means."""
        return [item.mask for item in self.scene.matching(text)]

    def one(self, text: str) -> SceneObject:
        """The first object that a concept means."""
        return self.scene.matching(text)[0]


def noise(seed: int, size: tuple[int, int] = (48, 64)) -> dict[str, str]:
    """A picture like no other: nobody has encoded it yet."""
    rng = np.random.default_rng(seed)
    return in_base64(encoded(rng.integers(0, 256, (*size, 3), np.uint8)))


def click(item: SceneObject) -> dict[str, Any]:
    """A PVS prompt: one point well inside an object."""
    x, y = item.click()
    return {"points": [{"x": x, "y": y, "positive": True}]}


def center_box(item: SceneObject) -> dict[str, float]:
    """A PVS box around an object, anchored at its centre."""
    x0, y0, x1, y1 = item.box
    return {"x": (x0 + x1) / 2, "y": (y0 + y1) / 2, "width": x1 - x0, "height": y1 - y0}


def top_left_box(item: SceneObject) -> dict[str, float]:
    """A PCS box around an object, anchored at its top-left corner."""
    x0, y0, x1, y1 = item.box
    return {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}


def corner_box(item: SceneObject) -> dict[str, float]:
    """A PCS box around an object, by two corners."""
    return dict(zip(("x0", "y0", "x1", "y1"), map(float, item.box), strict=True))


def iou(one: Plane, other: Plane) -> float:
    """Intersection over union; 1 for two empty masks."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def plane(prediction: Mapping[str, Any], size: tuple[int, int]) -> Plane:
    """The mask of a prediction, as the clients of the contract read it.

    Polygons have no holes: of a ring they give the disc.
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
    """The IoU of each true mask with the prediction that finds it best, each used once."""
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
    """Exactly the true masks, each with at least this IoU, the most confident first.

    How good the demo's masks are is measured by the evaluation; here they are to be the right ones,
    in the right place.
    """
    confidences = [prediction["confidence"] for prediction in predictions]
    assert confidences == sorted(confidences, reverse=True)
    found = overlaps(predictions, truth, size)
    assert len(predictions) == len(truth), (confidences, found)
    assert min(found, default=1.0) >= at_least, found


@dataclass
class Gallery:
    """A web server with pictures.

    Attributes:
        url: where it is.
        pictures: files by path.
        visits: paths that were asked for.
    """

    url: str
    pictures: dict[str, bytes] = field(default_factory=dict)
    visits: list[str] = field(default_factory=list)

    def hang(self, path: str, data: bytes) -> dict[str, str]:
        """Shows a file, and gives the image of a request that names it."""
        self.pictures[path] = data
        return {"type": "url", "value": self.url + path}


@contextmanager
def gallery() -> Iterator[Gallery]:
    """Runs a web server with pictures on 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            shown.visits.append(path)
            data = shown.pictures.get(path)
            self.send_response(404 if data is None else 200)
            self.send_header("content-length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        shown = Gallery(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield shown
        server.shutdown()
