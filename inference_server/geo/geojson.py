"""Label planes and boxes as GeoJSON, in the image's coordinate reference system.

The output is GeoJSON 2008, which can name a CRS; RFC 7946 allows only longitude and latitude.
Without a georeference, coordinates are pixels, x to the right and y downwards.
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
    """Trace each 4-connected part of an id as a polygon along the edges of its pixels.

    Args:
        plane: `[H, W]` of ids below 2 ** 31; 0 is the background.
        reference: the image's georeference; None (the default) for pixel coordinates.
        scores: score by id, added as property `score`; default none.

    Returns:
        A FeatureCollection of plain Python values, in raster-scan order of each part's first pixel,
        with the id as property `value`. A polygon's outer ring precedes the rings of its holes.
    """
    from rasterio.features import shapes

    # GDAL supports at most int32 here.
    source = plane.astype(np.int32) if plane.dtype.itemsize > 2 else plane
    rings: list[NDArray[np.float64]] = []
    parts: list[tuple[float, float, int, int, int]] = []  # row, column, id, first ring, last + 1
    with gdal():
        for geometry, value in shapes(source, mask=plane != 0, connectivity=4):
            first = len(rings)
            rings += (np.array(ring, np.float64) for ring in geometry["coordinates"])
            # The leftmost vertex at the top is the corner of the part's first pixel.
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
