"""The detection: a box with a number, and the plain list of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inference_server.masks import LabelPlane, extents


@dataclass(frozen=True, slots=True)
class Detection:
    """One object, as its box.

    Attributes:
        id: number among the detections, from 1.
        box: (x1, y1, x2, y2) in pixels of the image.
        value: the object's id in the label plane, where the detection is of one.
        score: in [0, 1], where the model told one.
    """

    id: int
    box: tuple[float, float, float, float]
    value: int | None = None
    score: float | None = None


def plane_detections(plane: LabelPlane) -> list[Detection]:
    """The objects of a label plane [H, W], by ascending value; boxes are inclusive extents."""
    return [
        Detection(i + 1, (float(x1), float(y1), float(x2), float(y2)), value)
        for i, (value, (x1, y1, x2, y2)) in enumerate(extents(plane))
    ]


def detection_list(detections: Sequence[Detection], size: tuple[int, int]) -> dict[str, Any]:
    """The plain form: the image's size and the boxes, rounded to whole pixels.

    Args:
        detections: in the order of the answer; `value` and `score` appear where they are known.
        size: (height, width) of the image, in pixels.
    """
    return {
        "image_width": size[1],
        "image_height": size[0],
        "num_detections": len(detections),
        "detections": [_plain(detection) for detection in detections],
    }


def _plain(detection: Detection) -> dict[str, Any]:
    x1, y1, x2, y2 = (round(side) for side in detection.box)
    item: dict[str, Any] = {"id": detection.id}
    if detection.value is not None:
        item["value"] = detection.value
    item.update(bbox=[x1, y1, x2, y2], width=x2 - x1, height=y2 - y1)
    if detection.score is not None:
        item["score"] = detection.score
    return item
