"""Label planes and boxes to GeoJSON, in the image's own coordinate reference system.

That is GeoJSON of 2008, which names a CRS; RFC 7946 knows longitude and latitude alone. Without a
georeference, coordinates are pixels, x to the right and y downwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_server.geo.detection import Detection
from inference_server.geo.georeference import GeoReference
from inference_server.images.gdal import gdal
from inference_server.masks import LabelPlane


def polygon_features(
    plane: LabelPlane,
    reference: GeoReference | None = None,
    scores: Mapping[int, float] | None = None,
) -> dict[str, Any]:
    """One polygon for each 4-connected part of an id, along the edges of its pixels.

    Args:
        plane: [H, W] of ids below 2 ** 31, 0 for the background.
        reference: of the image.
        scores: by id, for those that have one.

    Returns:
        A FeatureCollection of plain Python values: features in raster-scan order of their first
        pixel, with the id as property `value`; the outer ring first, then those of the holes.
    """
    from rasterio.features import shapes

    # GDAL counts in int32 and less.
    source = plane.astype(np.int32) if plane.dtype.itemsize > 2 else plane
    rings: list[NDArray[np.float64]] = []
    parts: list[tuple[float, float, int, int, int]] = []  # row, column, id, first ring, last + 1
    with gdal():
        for geometry, value in shapes(source, mask=plane != 0, connectivity=4):
            first = len(rings)
            rings += (np.array(ring, np.float64) for ring in geometry["coordinates"])
            # Vertices at the top of a part begin and end the edges of its first row's pixels.
            outer = rings[first]
            row = outer[:, 1].min()
            column = outer[outer[:, 1] == row, 0].min()
            parts.append((row, column, int(value), first, len(rings)))
    parts.sort()

    collection: dict[str, Any] = {"type": "FeatureCollection", "name": "output"}
    if reference is not None and reference.urn is not None:
        collection["crs"] = {"type": "name", "properties": {"name": reference.urn}}
    coordinates = _mapped(rings, reference)
    collection["features"] = [
        {
            "type": "Feature",
            "properties": {"value": value}
            if scores is None or value not in scores
            else {"value": value, "score": scores[value]},
            "geometry": {"type": "Polygon", "coordinates": coordinates[first:last]},
        }
        for _, _, value, first, last in parts
    ]
    return collection


def detection_features(
    found: Sequence[Detection], reference: GeoReference | None = None
) -> dict[str, Any]:
    """One box for each detection.

    Args:
        found: in the order of the answer.
        reference: of the image.

    Returns:
        A FeatureCollection of plain Python values. The ring goes through the corners that are top
        left, top right, bottom right and bottom left in the image, and back.
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
    """Rings float64 [n, 2] of pixel coordinates as lists, through the transform if there is one."""
    if reference is None or not rings:
        return [ring.tolist() for ring in rings]
    points = reference.to_map(np.concatenate(rings)).tolist()  # at once: rings are many and short
    ends = np.cumsum([len(ring) for ring in rings]).tolist()
    return [points[start:end] for start, end in zip([0, *ends], ends, strict=False)]
