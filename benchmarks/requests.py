"""Requests that benchmarks send: paths, generated images and JSON bodies."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import Any

import cv2
import orjson

from inference_server.demo.scenes import make_scene

SEGMENT = "/sam2/segment_image"
EMBED = "/sam2/embed_image"
CONCEPT = "/sam3/concept_segment"


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file.

    Attributes:
        size: (width, height) in pixels.
        jpeg: JPEG file.
    """

    size: tuple[int, int]
    jpeg: bytes

    def unseen(self, number: int) -> Picture:
        """Return the same pixels in a new file, with a unique comment.

        Args:
            number: part of the comment.
        """
        comment = f"{number}-{time.time_ns()}".encode()
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        return Picture(self.size, self.jpeg[:2] + segment + self.jpeg[2:])

    @property
    def field(self) -> dict[str, str]:
        """Value of the field `image` of a request."""
        return {"type": "base64", "value": base64.b64encode(self.jpeg).decode()}

    def at(self, share: tuple[float, float]) -> tuple[float, float]:
        """Convert a relative position to pixels.

        Args:
            share: x and y as shares of width and height, 0 to 1.
        """
        return share[0] * self.size[0], share[1] * self.size[1]


def picture(seed: int, size: tuple[int, int]) -> Picture:
    """Generate a scene; equal arguments give equal files.

    Args:
        seed: seed of the scene.
        size: (width, height) in pixels.
    """
    image = make_scene(seed, size).image
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(size)
    return Picture(size, data.tobytes())


def click_body(
    version: str,
    point: tuple[float, float],
    *,
    image_id: str | None = None,
    image: Picture | None = None,
    form: str = "polygon",
) -> bytes:
    """Build a request for the mask at a point.

    Args:
        version: `sam2_version_id`.
        point: x, y in pixels.
        image_id: id of the image. Default: none.
        image: image to attach. Default: none.
        form: mask format, `polygon` or `rle`. Default: `polygon`.
    """
    body: dict[str, Any] = {
        "prompts": [{"points": [{"x": point[0], "y": point[1], "positive": True}]}],
        "format": form,
        "sam2_version_id": version,
        "multimask_output": True,
    }
    return _with_image(body, image_id, image)


def embed_body(version: str, image: Picture, image_id: str | None = None) -> bytes:
    """Build a request that encodes an image.

    Args:
        version: `sam2_version_id`.
        image: image to attach.
        image_id: id of the image. Default: none.
    """
    return _with_image({"sam2_version_id": version}, image_id, image)


def _with_image(body: dict[str, Any], image_id: str | None, image: Picture | None) -> bytes:
    if image_id is not None:
        body["image_id"] = image_id
    if image is not None:
        body["image"] = image.field
    return orjson.dumps(body)
