"""Masks and boxes as GeoJSON, in the image's coordinate reference system.

The output is GeoJSON 2008, which can name a CRS; RFC 7946 allows only longitude and latitude.
Without a georeference, coordinates are pixels, x to the right and y downwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_server.geo.detection import Detection
from inference_server.geo.georeference import GeoReference
from inference_server.masks import Mask, mask_rings


def polygon_features(
    masks: Sequence[Mask],
    reference: GeoReference | None = None,
    properties: Sequence[Mapping[str, Any]] | None = None,
    epsilon: float = 0.0,
) -> dict[str, Any]:
    """Trace each 4-connected part of each mask as a polygon along the edges of its pixels.

    Every mask is traced by itself, so masks that overlap keep their shapes.

    Args:
        masks: masks of one image.
        reference: the image's georeference; None (the default) for pixel coordinates.
        properties: properties of each mask's features; default: its number from 1, as `value`.
        epsilon: maximum distance in pixels of a simplified ring. Default: 0, not simplified.

    Returns:
        A FeatureCollection of plain Python values, in raster-scan order of each part's first pixel;
        of parts that begin with the same pixel, that of the earlier mask comes first. A polygon's
        outer ring precedes the rings of its holes.
    """
    if properties is None:
        properties = [{"value": number} for number in range(1, len(masks) + 1)]
    parts = [
        (index, part) for index, mask in enumerate(masks) for part in mask_rings(mask, epsilon)
    ]
    # An outer ring begins at the top left corner of its part's first pixel.
    parts.sort(key=lambda item: (int(item[1][0][0, 1]), int(item[1][0][0, 0])))

    collection: dict[str, Any] = {"type": "FeatureCollection", "name": "output"}
    if reference is not None and reference.urn is not None:
        collection["crs"] = {"type": "name", "properties": {"name": reference.urn}}
    coordinates = iter(
        _mapped([ring.astype(np.float64) for _, part in parts for ring in part], reference)
    )
    collection["features"] = [
        {
            "type": "Feature",
            "properties": dict(properties[index]),
            "geometry": {"type": "Polygon", "coordinates": list(islice(coordinates, len(part)))},
        }
        for index, part in parts
    ]
    return collection


def detection_features(
    found: Sequence[Detection], reference: GeoReference | None = None
) -> dict[str, Any]:
    """Return the boxes of detections as rectangles.

    Args:
        found: the detections in output order.
        reference: the image's georeference; None (the default) for pixel coordinates.

    Returns:
        A FeatureCollection of plain Python values. Each ring visits the corners that are top left,
        top right, bottom right and bottom left in the image, and closes.
    """
    collection: dict[str, Any] = {"type": "FeatureCollection"}
    if reference is not None and reference.label is not None:
        collection["crs"] = reference.label
    collection["num_detections"] = len(found)
    boxes = np.array([detection.box for detection in found], np.float64).reshape(-1, 4)
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 5, 2)
    rings = _mapped(list(corners), reference)
    collection["features"] = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": _properties(detection),
        }
        for detection, ring in zip(found, rings, strict=True)
    ]
    return collection


def _properties(detection: Detection) -> dict[str, Any]:
    properties: dict[str, Any] = {"id": detection.id}
    if detection.value is not None:
        properties["value"] = detection.value
    if detection.score is not None:
        properties["score"] = detection.score
    properties["bbox_pixel"] = [float(side) for side in detection.box]
    return properties


def _mapped(
    rings: list[NDArray[np.float64]], reference: GeoReference | None
) -> list[list[list[float]]]:
    """Convert rings of pixel coordinates, `float64[n, 2]`, to lists of output coordinates."""
    if reference is None or not rings:
        return [ring.tolist() for ring in rings]
    points = reference.to_map(np.concatenate(rings)).tolist()  # one call: rings are many and short
    ends = np.cumsum([len(ring) for ring in rings]).tolist()
    return [points[start:end] for start, end in zip([0, *ends], ends, strict=False)]
