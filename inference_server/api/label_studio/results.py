"""Segmentation results as Label Studio's regions; rendered in a worker thread."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pybase64

from inference_server.api.label_studio.config import Control
from inference_server.masks import Mask, encode_brush, encode_png, simplified_parts
from inference_server.segmentation.types import Instance

_ID_BYTES = 5


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction of one task.

    Attributes:
        body: what Label Studio gets.
        nbytes: about the bytes of its regions as JSON.
    """

    body: dict[str, Any]
    nbytes: int = 0


def empty(version: str) -> dict[str, Any]:
    """Return a prediction without regions.

    Args:
        version: its version.
    """
    return {"result": [], "score": 0.0, "model_version": version}


def failed(version: str) -> dict[str, Any]:
    """Return the prediction of a task that failed.

    It has another version than the others, so that Label Studio asks for it again.

    Args:
        version: version of the project's predictions.
    """
    return empty(f"{version}-failed")


def prediction(
    found: Sequence[tuple[Instance, str]],
    output: Control,
    version: str,
    *,
    epsilon: float,
    most: int,
) -> Prediction:
    """Render the prediction of one task.

    Args:
        found: objects with their labels, best first; those without a pixel are left out.
        output: the control that gets the regions.
        version: version of the project's predictions.
        epsilon: maximum deviation of polygons in pixels.
        most: maximum number of regions.
    """
    regions: list[dict[str, Any]] = []
    scores: list[float] = []
    nbytes = 0
    for instance, label in found:
        if len(regions) >= most:
            break
        if instance.mask.is_empty:
            continue
        scores.append(instance.score)
        height, width = instance.mask.size
        for shape, size in _shapes(output.kind, instance.mask, epsilon):
            if len(regions) >= most:
                break
            nbytes += size
            regions.append(
                {
                    "id": secrets.token_hex(_ID_BYTES),
                    "from_name": output.name,
                    "to_name": output.image,
                    "type": output.kind,
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "score": instance.score,
                    "value": {**shape, output.kind: [label] if label else []},
                }
            )
    score = float(np.mean(scores)) if scores else 0.0
    return Prediction({"result": regions, "score": score, "model_version": version}, nbytes)


def _shapes(kind: str, mask: Mask, epsilon: float) -> list[tuple[dict[str, Any], int]]:
    """The shapes of a mask, each with about its bytes as JSON; several for polygons."""
    height, width = mask.size
    percent = np.array([100 / width, 100 / height])
    if kind == "brushlabels":
        runs = encode_brush(mask)
        return [({"format": "rle", "rle": runs}, 4 * len(runs))]
    if kind == "bitmasklabels":
        text = pybase64.b64encode_as_string(encode_png(mask))
        return [({"imageDataURL": f"data:image/png;base64,{text}"}, len(text))]
    if kind == "polygonlabels":
        return [
            ({"points": (part * percent).tolist(), "closed": True}, 40 * len(part))
            for part in simplified_parts(mask, epsilon)
        ]
    x0, y0, x1, y1 = mask.box
    left, top, right, bottom = (np.array([x0, y0, x1, y1]) * np.tile(percent, 2)).tolist()
    box = {"x": left, "y": top, "width": right - left, "height": bottom - top, "rotation": 0}
    return [(box, 100)]


def capabilities(model: str) -> dict[str, Any]:
    """Describe the backend to editors that ask for it.

    Args:
        model: label of the model that answers points and boxes.
    """
    return {
        "prompts": ["point", "box"],
        "targets": [{"tag": "BitmaskLabels", "output": "mask"}],
        "model_info": {"name": model},
    }
