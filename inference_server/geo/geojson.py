"""Masks and boxes as GeoJSON, in the image's coordinate reference system or another one.

The output is GeoJSON 2008, which can name a CRS; RFC 7946 allows only longitude and latitude.
Without a georeference, coordinates are pixels, x to the right and y downwards.

Documents are dictionaries, or streams of pieces that never hold more than one object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from inference_server.executor import stop_if_cancelled
from inference_server.geo.detection import Detection, plain_detection
from inference_server.geo.reprojection import MapCoordinates
from inference_server.masks import Mask, mask_rings

_BATCH_POINTS = 20_000
"""Vertices that are converted at a time: one call of GDAL takes a millisecond."""

_BATCH_BOXES = 1000
"""Boxes that are converted at a time."""


def polygon_features(
    masks: Sequence[Mask],
    reference: MapCoordinates | None = None,
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
        outer ring precedes the rings of its holes. A part that crosses the antimeridian is several
        features if coordinates are reprojected to longitudes.
    """
    if properties is None:
        properties = [{"value": number} for number in range(1, len(masks) + 1)]
    parts = [
        (index, part) for index, mask in enumerate(masks) for part in mask_rings(mask, epsilon)
    ]
    # An outer ring begins at the top left corner of its part's first pixel.
    parts.sort(key=lambda item: (int(item[1][0][0, 1]), int(item[1][0][0, 0])))

    polygons = _mapped([part for _, part in parts], reference)
    return {
        **_collection_head(reference),
        "features": [
            _polygon(part, properties[index])
            for (index, _), rings in zip(parts, polygons, strict=True)
            for part in _cut(rings, reference)
        ],
    }


def polygon_pieces(
    objects: Iterable[tuple[Mask, Mapping[str, Any]]],
    reference: MapCoordinates | None = None,
    epsilon: float = 0.0,
) -> Iterator[bytes]:
    """Write the document of `polygon_features` in pieces, so that it need not fit into memory.

    Features are in the order of the objects; those of one object are in raster-scan order.

    Args:
        objects: the mask of each object, and the properties of its features.
        reference: the image's georeference; None (the default) for pixel coordinates.
        epsilon: maximum distance in pixels of a simplified ring. Default: 0, not simplified.

    Yields:
        Pieces of the JSON document.
    """
    yield orjson.dumps(_collection_head(reference))[:-1] + b',"features":['
    between = b"\n"
    for batch in _batches(objects, epsilon):
        polygons = _mapped([part for part, _ in batch], reference)
        for rings, (_, properties) in zip(polygons, batch, strict=True):
            for cut in _cut(rings, reference):
                yield between + orjson.dumps(_polygon(cut, properties))
                between = b",\n"
    yield b"]}\n"


def _batches(
    objects: Iterable[tuple[Mask, Mapping[str, Any]]], epsilon: float
) -> Iterator[list[tuple[list[NDArray[np.int64]], Mapping[str, Any]]]]:
    """Trace objects; yield some polygons at a time, because one call of GDAL takes them all."""
    batch: list[tuple[list[NDArray[np.int64]], Mapping[str, Any]]] = []
    points = 0
    for mask, properties in objects:
        stop_if_cancelled()
        for part in mask_rings(mask, epsilon):
            batch.append((part, properties))
            points += sum(map(len, part))
            if points >= _BATCH_POINTS:
                yield batch
                batch, points = [], 0
    if batch:
        yield batch


def _collection_head(reference: MapCoordinates | None) -> dict[str, Any]:
    head: dict[str, Any] = {"type": "FeatureCollection", "name": "output"}
    if reference is not None and reference.urn is not None:
        head["crs"] = {"type": "name", "properties": {"name": reference.urn}}
    return head


def _cut(
    rings: list[list[list[float]]], reference: MapCoordinates | None
) -> list[list[list[list[float]]]]:
    """The parts of a polygon, which the CRS of the coordinates may cut."""
    return [rings] if reference is None else reference.cut(rings)


def _polygon(rings: list[list[list[float]]], properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "Feature",
        "properties": dict(properties),
        "geometry": {"type": "Polygon", "coordinates": rings},
    }


def detection_features(
    found: Sequence[Detection], reference: MapCoordinates | None = None
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
    collection["features"] = _rectangles(found, reference)
    return collection


def detection_pieces(
    found: Iterable[Detection], reference: MapCoordinates | None = None
) -> Iterator[bytes]:
    """Write the document of `detection_features` in pieces; `num_detections` comes last.

    Args:
        found: the detections in output order.
        reference: the image's georeference; None (the default) for pixel coordinates.

    Yields:
        Pieces of the JSON document.
    """
    head: dict[str, Any] = {"type": "FeatureCollection"}
    if reference is not None and reference.label is not None:
        head["crs"] = reference.label
    yield orjson.dumps(head)[:-1] + b',"features":['
    left, count = iter(found), 0
    while batch := list(islice(left, _BATCH_BOXES)):
        stop_if_cancelled()
        for feature in _rectangles(batch, reference):
            yield (b",\n" if count else b"\n") + orjson.dumps(feature)
            count += 1
    yield f'],"num_detections":{count}}}\n'.encode()


def detection_list_pieces(found: Iterable[Detection], size: tuple[int, int]) -> Iterator[bytes]:
    """Write the object of `detection_list` in pieces; `num_detections` comes last.

    Args:
        found: the detections in output order.
        size: (height, width) of the image in pixels.

    Yields:
        Pieces of the JSON document.
    """
    height, width = size
    yield f'{{"image_width":{width},"image_height":{height},"detections":['.encode()
    count = 0
    for count, detection in enumerate(found, 1):
        stop_if_cancelled()
        yield (b",\n" if count > 1 else b"\n") + orjson.dumps(plain_detection(detection))
    yield f'],"num_detections":{count}}}\n'.encode()


def _rectangles(
    found: Sequence[Detection], reference: MapCoordinates | None
) -> list[dict[str, Any]]:
    boxes = np.array([detection.box for detection in found], np.float64).reshape(-1, 4)
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 5, 2)
    parts = _mapped([[ring] for ring in corners], reference, exact=False)
    return [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": rings},
            "properties": _properties(detection),
        }
        for detection, rings in zip(found, parts, strict=True)
    ]


def _properties(detection: Detection) -> dict[str, Any]:
    properties: dict[str, Any] = {"id": detection.id}
    if detection.value is not None:
        properties["value"] = detection.value
    if detection.score is not None:
        properties["score"] = detection.score
    properties["bbox_pixel"] = [float(side) for side in detection.box]
    return properties


def _mapped(
    parts: Sequence[Sequence[NDArray[Any]]],
    reference: MapCoordinates | None,
    *,
    exact: bool = True,
) -> list[list[list[list[float]]]]:
    """Convert polygons of pixel coordinates to lists of output coordinates."""
    floats = [[ring.astype(np.float64) for ring in part] for part in parts]
    if reference is None:
        return [[ring.tolist() for ring in part] for part in floats]
    return reference.map_parts(floats, exact=exact)
