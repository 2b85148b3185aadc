"""GeoJSON of masks and boxes."""

from __future__ import annotations

from collections.abc import Iterator
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

from inference_server.geo import (
    Detection,
    GeoReference,
    detection_features,
    detection_list,
    detection_list_pieces,
    detection_pieces,
    geojson,
    polygon_features,
    polygon_pieces,
)
from inference_server.geo.crs import authority_of
from inference_server.masks import Mask
from tests.geo.files import PLACES, on_map, reference

PLANE: NDArray[np.uint8] = np.array(
    [
        [0, 0, 0, 2, 2],
        [1, 1, 1, 0, 2],
        [1, 0, 1, 0, 0],
        [1, 1, 1, 0, 2],
    ],
    np.uint8,
)


def masks_of(plane: NDArray[np.uint8], ids: int = 2) -> list[Mask]:
    """The mask of each id of a plane."""
    return [Mask.from_plane(plane == value) for value in range(1, ids + 1)]


def painted(answer: dict[str, Any], shape: tuple[int, int], transform: Affine) -> NDArray[Any]:
    found = [(f["geometry"], f["properties"]["value"]) for f in answer["features"]]
    if not found:
        return np.zeros(shape, np.int32)
    return np.asarray(rasterize(found, shape, transform=transform, dtype=np.int32))


def test_parts_rings_and_order() -> None:
    answer = polygon_features(
        masks_of(PLANE), properties=[{"value": 1}, {"value": 2, "score": 0.5}]
    )
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
    answer = orjson.loads(orjson.dumps(polygon_features(masks_of(PLANE), image)))
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
@given(st.tuples(st.integers(1, 12), st.integers(1, 12)), st.integers(1, 4), st.integers(0, 9999))
def test_any_plane(size: tuple[int, int], ids: int, seed: int) -> None:
    plane = np.random.default_rng(seed).integers(0, ids, size, endpoint=True, dtype=np.uint8)
    answer = polygon_features(masks_of(plane, ids))
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
        assert [column, row] == outer[0]
        assert all(ring[0] == ring[-1] for ring in feature["geometry"]["coordinates"])


def test_masks_that_overlap_are_whole() -> None:
    small, large = np.zeros((4, 5), np.bool_), np.ones((4, 5), np.bool_)
    small[1:3, 1:3] = True
    masks = [Mask.from_plane(each) for each in (small, large, large)]
    answer = polygon_features(masks)
    # In raster order; of parts that begin with the same pixel, the earlier mask comes first.
    assert [f["properties"]["value"] for f in answer["features"]] == [2, 3, 1]
    rings = [f["geometry"]["coordinates"] for f in answer["features"]]
    whole = [[0.0, 0.0], [0.0, 4.0], [5.0, 4.0], [5.0, 0.0], [0.0, 0.0]]
    assert rings[:2] == [[whole], [whole]]
    assert rings[2] == [[[1.0, 1.0], [1.0, 3.0], [3.0, 3.0], [3.0, 1.0], [1.0, 1.0]]]


def test_no_object() -> None:
    answer = polygon_features([Mask.empty((3, 4))], reference("utm", (3, 4)))
    assert answer["features"] == []
    assert answer["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    assert detection_features([]) == {
        "type": "FeatureCollection",
        "num_detections": 0,
        "features": [],
    }


@pytest.mark.parametrize(
    ("crs", "label", "name"),
    [
        ("EPSG:5070", "EPSG:5070", "urn:ogc:def:crs:EPSG::5070"),
        ("ESRI:102003", "ESRI:102003", "urn:ogc:def:crs:ESRI::102003"),
        ("+proj=aea +lat_1=11 +lat_2=52 +lon_0=3 +datum=WGS84 +units=m", None, None),
        ("+proj=lcc +lat_1=33 +lat_2=44 +lat_0=39 +lon_0=-96 +datum=NAD83 +units=m", None, None),
        ("+proj=ob_tran +o_proj=longlat +o_lat_p=39 +lon_0=9 +datum=WGS84", None, None),
    ],
)
def test_every_output_names_the_crs(crs: str, label: str | None, name: str | None) -> None:
    given = CRS.from_string(crs)
    image = GeoReference(given, Affine(10, 0, 7, 0, -10, 9), (4, 5))
    answer = orjson.loads(orjson.dumps(polygon_features(masks_of(PLANE), image)))
    named = answer["crs"]["properties"]["name"]
    boxes = detection_features([], image)["crs"]
    for text in (named, boxes):
        assert CRS.from_user_input(text) == given  # as GDAL's readers interpret it
    if label is not None:
        assert (boxes, named) == (label, name)
    np.testing.assert_array_equal(painted(answer, (4, 5), image.transform), PLANE)


def test_a_code_of_a_similar_crs_is_not_taken() -> None:
    """GDAL proposes codes with a confidence; one of another system would move the objects."""

    class Similar:
        def to_epsg(self) -> None:
            return None

        def to_authority(self) -> tuple[str, str]:
            return "ESRI", "102003"

        def __eq__(self, other: object) -> bool:
            return False

        __hash__ = None  # type: ignore[assignment]

    similar: Any = Similar()
    assert authority_of(similar) is None


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


@pytest.mark.parametrize("points", [1, 9, 20_000])
def test_pieces_are_the_document(monkeypatch: pytest.MonkeyPatch, points: int) -> None:
    monkeypatch.setattr(geojson, "_BATCH_POINTS", points)
    plane = np.random.default_rng(3).integers(0, 4, (9, 12), endpoint=True, dtype=np.uint8)
    image = reference("utm", (9, 12))
    masks = masks_of(plane, 4)
    named = [{"value": number, "score": number / 8} for number in range(1, 5)]
    expected = orjson.loads(orjson.dumps(polygon_features(masks, image, named)))
    written = b"".join(polygon_pieces(zip(masks, named, strict=True), image))
    found = orjson.loads(written)
    assert list(found) == list(expected)
    # By object, and within it in the same order.
    expected["features"].sort(key=lambda feature: feature["properties"]["value"])
    assert found == expected
    assert written.count(b"\n") == len(expected["features"]) + 1
    empty = orjson.loads(b"".join(polygon_pieces([])))
    assert empty == polygon_features([])


def test_pieces_follow_their_objects() -> None:
    """Nothing but the present object is held."""
    large = np.random.default_rng(3).random((256, 256)) < 0.5  # more vertices than a batch has
    asked: list[int] = []

    def objects() -> Iterator[tuple[Mask, dict[str, Any]]]:
        for number in range(3):
            asked.append(number)
            yield Mask.from_plane(large), {"value": number}

    for piece in polygon_pieces(objects()):
        if b'"value":' in piece:
            value = orjson.loads(piece.strip(b",\n"))["properties"]["value"]
            assert asked[-1] <= value + 1


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_pieces_of_boxes_are_the_documents(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(geojson, "_BATCH_BOXES", 2)
    found = [Detection(i, (i, 2.5, i + 4, 9.25), score=0.5) for i in range(1, count + 1)]
    image = reference("mercator")
    expected = orjson.loads(orjson.dumps(detection_features(found, image)))
    assert orjson.loads(b"".join(detection_pieces(found, image))) == expected
    plain = detection_list(found, image.size)
    assert orjson.loads(b"".join(detection_list_pieces(found, image.size))) == plain
