"""GeoJSON of masks and boxes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import orjson
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize

from inference_server.geo import Detection, GeoReference, detection_features, polygon_features
from inference_server.masks import LabelPlane
from tests.geo.files import PLACES, on_map, reference

PLANE: LabelPlane = np.array(
    [
        [0, 0, 0, 2, 2],
        [1, 1, 1, 0, 2],
        [1, 0, 1, 0, 0],
        [1, 1, 1, 0, 2],
    ],
    np.uint8,
)


def painted(answer: dict[str, Any], shape: tuple[int, int], transform: Affine) -> NDArray[Any]:
    found = [(f["geometry"], f["properties"]["value"]) for f in answer["features"]]
    if not found:
        return np.zeros(shape, np.int32)
    return np.asarray(rasterize(found, shape, transform=transform, dtype=np.int32))


def test_parts_rings_and_order() -> None:
    answer = polygon_features(PLANE, scores={2: 0.5})
    assert list(answer) == ["type", "name", "features"]
    assert (answer["type"], answer["name"]) == ("FeatureCollection", "output")
    assert [f["properties"] for f in answer["features"]] == [
        {"value": 2, "score": 0.5},
        {"value": 1},
        {"value": 2, "score": 0.5},
    ]
    corner, ring, pixel = (f["geometry"]["coordinates"] for f in answer["features"])
    assert {f["type"] for f in answer["features"]} == {"Feature"}
    assert {f["geometry"]["type"] for f in answer["features"]} == {"Polygon"}
    assert sorted(corner[0][1:]) == [[3, 0], [3, 1], [4, 1], [4, 2], [5, 0], [5, 2]]
    outer, hole = ring
    assert outer[0] == outer[-1]
    assert sorted(outer[1:]) == [[0, 1], [0, 4], [3, 1], [3, 4]]
    assert sorted(hole[1:]) == [[1, 2], [1, 3], [2, 2], [2, 3]]
    assert sorted(pixel[0][1:]) == [[4, 3], [4, 4], [5, 3], [5, 4]]


@pytest.mark.parametrize("place", PLACES)
def test_rings_on_the_map_paint_the_plane(place: str) -> None:
    image = reference(place, (4, 5))
    answer = orjson.loads(orjson.dumps(polygon_features(PLANE, image)))
    assert list(answer) == ["type", "name", "crs", "features"]
    assert answer["crs"] == {"type": "name", "properties": {"name": image.urn}}
    np.testing.assert_array_equal(painted(answer, (4, 5), image.transform), PLANE)
    # The corner of the upper right pixel.
    expected = on_map(image.transform, 5, 0)
    assert expected in [
        pytest.approx(point, rel=1e-14)
        for point in answer["features"][0]["geometry"]["coordinates"][0]
    ]


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.integers(1, 4),
    st.sampled_from(["uint8", "uint16", "uint32"]),
    st.integers(0, 9999),
)
def test_any_plane(size: tuple[int, int], ids: int, dtype: str, seed: int) -> None:
    plane = np.random.default_rng(seed).integers(0, ids, size, endpoint=True).astype(dtype)
    answer = polygon_features(plane)
    np.testing.assert_array_equal(painted(answer, size, Affine.identity()), plane)

    # Each 4-connected part once, in order of its first pixel.
    firsts = []
    for value in range(1, ids + 1):
        count, parts = cv2.connectedComponents((plane == value).astype(np.uint8), connectivity=4)
        flat = parts.ravel()
        firsts += [(int((flat == part).argmax()), value) for part in range(1, count)]
    assert [f["properties"]["value"] for f in answer["features"]] == [v for _, v in sorted(firsts)]
    for feature, (index, _) in zip(answer["features"], sorted(firsts), strict=True):
        row, column = divmod(index, size[1])
        outer = feature["geometry"]["coordinates"][0]
        assert [column, row] in outer
        assert all(ring[0] == ring[-1] for ring in feature["geometry"]["coordinates"])


def test_ids_of_four_bytes() -> None:
    plane = np.array([[0, 70_000]], np.uint32)
    assert [f["properties"]["value"] for f in polygon_features(plane)["features"]] == [70_000]


def test_no_object() -> None:
    answer = polygon_features(np.zeros((3, 4), np.uint8), reference("utm", (3, 4)))
    assert answer["features"] == []
    assert answer["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    assert detection_features([]) == {
        "type": "FeatureCollection",
        "num_detections": 0,
        "features": [],
    }


def test_a_crs_without_a_code_is_not_named_by_polygons() -> None:
    crs = CRS.from_proj4("+proj=aea +lat_1=11 +lat_2=52 +lon_0=3 +datum=WGS84 +units=m")
    image = GeoReference(crs, Affine(10, 0, 7, 0, -10, 9), (4, 5))
    answer = polygon_features(PLANE, image)
    assert "crs" not in answer
    np.testing.assert_array_equal(painted(answer, (4, 5), image.transform), PLANE)
    assert detection_features([], image)["crs"] == image.label


def test_boxes_on_the_map() -> None:
    image = reference("mercator", (1464, 2647))
    found = [Detection(1, (50.0, 80.0, 200.0, 250.0), 1), Detection(2, (0.0, 1.0, 2.0, 3.0), 4)]
    answer = orjson.loads(orjson.dumps(detection_features(found, image)))
    assert list(answer) == ["type", "crs", "num_detections", "features"]
    assert (answer["crs"], answer["num_detections"]) == ("EPSG:3857", 2)
    first, second = answer["features"]
    left, right = -13609328.39 + 0.6 * 50, -13609328.39 + 0.6 * 200
    top, bottom = 4561446.23 - 0.6 * 80, 4561446.23 - 0.6 * 250
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    np.testing.assert_allclose(first["geometry"]["coordinates"], [ring], rtol=1e-14)
    assert first["type"] == "Feature"
    assert first["geometry"]["type"] == "Polygon"
    assert first["properties"] == {"id": 1, "value": 1, "bbox_pixel": [50.0, 80.0, 200.0, 250.0]}
    assert second["properties"] == {"id": 2, "value": 4, "bbox_pixel": [0.0, 1.0, 2.0, 3.0]}


def test_boxes_without_a_georeference() -> None:
    answer = detection_features([Detection(1, (2.5, 1.25, 7.0, 4.0), score=0.887)])
    assert list(answer) == ["type", "num_detections", "features"]
    [feature] = answer["features"]
    assert feature["geometry"]["coordinates"] == [
        [[2.5, 1.25], [7.0, 1.25], [7.0, 4.0], [2.5, 4.0], [2.5, 1.25]]
    ]
    assert feature["properties"] == {"id": 1, "score": 0.887, "bbox_pixel": [2.5, 1.25, 7.0, 4.0]}
