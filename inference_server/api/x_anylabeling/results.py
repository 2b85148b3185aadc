"""Segmentation results as X-AnyLabeling's shapes; call these functions in a worker thread."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.masks import mask_polygons, simplify_rings
from inference_server.segmentation.types import Instance

PREVIEW = "AUTOLABEL_OBJECT"
"""Label of a shape that the user has not named; the program replaces it at the next click."""

_GROUPS = 999_999


def response_body(
    instances: Sequence[Instance], labels: Sequence[str], epsilon_factor: float
) -> dict[str, Any]:
    """Build a response.

    Args:
        instances: the objects found.
        labels: label of the objects of each prompt.
        epsilon_factor: how far polygons may deviate from outlines, as a part of their length.
    """
    shapes = [
        shape
        for instance in instances
        for shape in _shapes(instance, labels[instance.prompt], epsilon_factor)
    ]
    data: dict[str, Any] = {"shapes": shapes, "description": ""}
    # Without `replace`, the program may remove what is on the image. An empty answer must not, nor
    # may a preview.
    if not shapes or all(shape["label"] == PREVIEW for shape in shapes):
        data["replace"] = False
    return {"success": True, "data": data}


def _shapes(instance: Instance, label: str, epsilon_factor: float) -> list[dict[str, Any]]:
    """Return a shape per part of an object; parts without an area are left out."""
    polygons = [
        simplify_rings([part], epsilon_factor * cv2.arcLength(part, True))[0]
        for part in mask_polygons(instance.mask)
        if cv2.contourArea(part) > 0
    ]
    shape = {"label": label, "shape_type": "polygon", "score": instance.score}
    if len(polygons) > 1:
        shape["group_id"] = _group_id(polygons)
    return [{**shape, "points": polygon} for polygon in polygons]


def _group_id(polygons: Sequence[NDArray[np.int64]]) -> int:
    """Return a number for an object: others on the same image, found earlier, have other ones."""
    return 1 + zlib.crc32(np.concatenate(polygons).tobytes()) % _GROUPS
