"""Detections, that is numbered boxes, and their list in plain JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inference_server.masks import Mask


@dataclass(frozen=True, slots=True)
class Detection:
    """The box of an object.

    Attributes:
        id: number of the detection, from 1.
        box: (x1, y1, x2, y2) in pixels of the image.
        value: the object's id in rasters; None if it is not stated.
        score: confidence, 0 to 1; None if unknown.
    """

    id: int
    box: tuple[float, float, float, float]
    value: int | None = None
    score: float | None = None


def mask_detections(masks: Sequence[Mask], values: Sequence[int]) -> list[Detection]:
    """Return the extents of masks, numbered from 1; (x2, y2) is inclusive.

    Args:
        masks: the masks, none of them empty.
        values: the id of each in rasters.
    """
    found = []
    for number, (mask, value) in enumerate(zip(masks, values, strict=True), 1):
        x0, y0, x1, y1 = map(float, mask.box)
        found.append(Detection(number, (x0, y0, x1 - 1, y1 - 1), value))
    return found


def detection_list(detections: Sequence[Detection], size: tuple[int, int]) -> dict[str, Any]:
    """Build the JSON object with the image's size and the boxes, rounded to whole pixels.

    Args:
        detections: the detections in output order; `value` and `score` are included if known.
        size: (height, width) of the image in pixels.
    """
    return {
        "image_width": size[1],
        "image_height": size[0],
        "num_detections": len(detections),
        "detections": [plain_detection(detection) for detection in detections],
    }


def plain_detection(detection: Detection) -> dict[str, Any]:
    """Build the entry of a detection in `detection_list`."""
    x1, y1, x2, y2 = (round(side) for side in detection.box)
    item: dict[str, Any] = {"id": detection.id}
    if detection.value is not None:
        item["value"] = detection.value
    item.update(bbox=[x1, y1, x2, y2], width=x2 - x1, height=y2 - y1)
    if detection.score is not None:
        item["score"] = detection.score
    return item
