"""Coordinates in another CRS than the image's."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform, transform_geom

from inference_server.errors import RequestError
from inference_server.geo import (
    Detection,
    GeoReference,
    Reprojection,
    detection_features,
    detection_pieces,
    polygon_features,
    polygon_pieces,
)
from inference_server.masks import Mask
from tests.geo.files import PLACES, reference

SIZE = (40, 50)


def mask(*boxes: tuple[int, int, int, int], holes: Any = ()) -> Mask:
    plane = np.zeros(SIZE, np.bool_)
    for inside, parts in ((True, boxes), (False, holes)):
        for x0, y0, x1, y1 in parts:
            plane[y0:y1, x0:x1] = inside
    return Mask.from_plane(plane)


RING = mask((3, 4, 20, 30), holes=[(8, 9, 12, 15)])


def east(degrees: float, size: tuple[int, int] = SIZE, pixel: float = 0.01) -> GeoReference:
    """An image whose western border is at a longitude."""
    return GeoReference(CRS.from_epsg(4326), Affine(pixel, 0, degrees, 0, -pixel, 10), size)


def rings_of(reference: Any, *masks: Mask) -> list[Any]:
    found = polygon_features(masks, reference)
    pieces = polygon_pieces([(each, {"value": 1}) for each in masks], reference)
    document = orjson.loads(b"".join(pieces))
    assert [each["geometry"] for each in document["features"]] == [
        each["geometry"] for each in found["features"]
    ]
    assert document["crs"] == found["crs"]
    return [feature["geometry"]["coordinates"] for feature in found["features"]]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["4326", " EPSG:4326 ", "EPSG:3857", "ESRI:54009", "32634"])
def test_polygons_are_those_of_gdal(place: str, name: str) -> None:
    image = reference(place, SIZE)
    found = Reprojection.of(image, name)
    code = name.strip() if ":" in name else f"EPSG:{name}"
    crs = CRS.from_string(code)
    [rings] = rings_of(found, RING)
    [own] = rings_of(image, RING)
    expected = transform_geom(image.crs, crs, {"type": "Polygon", "coordinates": own})
    assert len(rings) == 2
    for ring, other in zip(rings, expected["coordinates"], strict=True):
        np.testing.assert_allclose(ring, other, rtol=1e-9)
    named = polygon_features([], found)["crs"]["properties"]["name"]
    assert CRS.from_user_input(named) == CRS.from_user_input(
        "OGC:CRS84" if code == "EPSG:4326" else code
    )
    assert detection_features([], found)["crs"] == code


def test_boxes_keep_their_five_corners() -> None:
    image = reference("utm", SIZE)
    boxes = [Detection(1, (1.5, 2.0, 30.0, 20.25), score=0.5)]
    found = Reprojection.of(image, "4326")
    document = detection_features(boxes, found)
    assert orjson.loads(b"".join(detection_pieces(boxes, found))) == document
    [ring] = document["features"][0]["geometry"]["coordinates"]
    corners = np.array([(1.5, 2), (30, 2), (30, 20.25), (1.5, 20.25), (1.5, 2)])
    x, y = transform(image.crs, "EPSG:4326", *image.to_map(corners).T)
    np.testing.assert_allclose(ring, np.stack([x, y], axis=1), rtol=1e-12)


def test_long_edges_are_divided() -> None:
    """A rectangle of a wide image bulges in another CRS."""
    size = (300, 1000)
    image = GeoReference(CRS.from_epsg(32633), Affine(1000, 0, 0, 0, -1000, 6_000_000), size)
    plane = np.ones(size, np.bool_)
    [[ring]] = rings_of(Reprojection.of(image, "4326"), Mask.from_plane(plane))
    back = np.stack(transform("EPSG:4326", image.crs, *np.array(ring).T), axis=1)
    pixels = (back - image._affine[1]) @ np.linalg.inv(image._affine[0]).T
    steps = np.abs(np.diff(pixels, axis=0)).max(axis=1)
    assert steps.max() < 64 + 1e-6
    middles = np.array(ring)[:-1] / 2 + np.array(ring)[1:] / 2
    back = np.stack(transform("EPSG:4326", image.crs, *middles.T), axis=1)
    pixels = (back - image._affine[1]) @ np.linalg.inv(image._affine[0]).T
    to_border = np.minimum(np.abs(pixels), np.abs(pixels - [1000, 300])).min(axis=1)
    assert to_border.max() < 0.12


@pytest.mark.parametrize(("west", "expected"), [(285.0, -75.0), (-75.0, -75.0), (179.5, 179.5)])
def test_longitudes_begin_within_half_a_turn(west: float, expected: float) -> None:
    """Rasters from 0 to 360 degrees, and across the antimeridian."""
    image = east(west)
    [rings] = rings_of(Reprojection.of(image, "4326"), RING)
    [own] = rings_of(image, RING)
    for ring, other in zip(rings, own, strict=True):
        moved = np.array(other)
        moved[:, 0] += expected - west
        np.testing.assert_allclose(ring, moved, atol=1e-9)


def test_a_polygon_across_the_antimeridian_is_cut() -> None:
    """RFC 7946, section 3.1.9. The hole is cut as well, so that no part has one."""
    mercator = GeoReference(
        CRS.from_epsg(3857), Affine(1000, 0, 20_037_508 - 10_000, 0, -1000, 0), SIZE
    )
    beyond = mask((30, 4, 40, 30))
    west, east_of_it, other = rings_of(Reprojection.of(mercator, "4326"), RING, beyond)
    (outer,), (rest,) = (np.array(part) for part in (west, east_of_it))
    assert 179 < outer[:, 0].min() < outer[:, 0].max() == 180
    assert -180 == rest[:, 0].min() < rest[:, 0].max() < -179
    assert -180 <= np.array(other[0])[:, 0].min() < -179
    features = polygon_features([RING, beyond], Reprojection.of(mercator, "4326"))["features"]
    assert [each["properties"]["value"] for each in features] == [1, 1, 2]


def test_a_box_across_the_antimeridian_is_one() -> None:
    image = east(179.9)
    document = detection_features([Detection(1, (2, 2, 30, 20))], Reprojection.of(image, "4326"))
    [feature] = document["features"]
    assert np.max(feature["geometry"]["coordinates"]) > 180


def test_what_cannot_be_transformed_is_refused() -> None:
    space = CRS.from_string("+proj=ortho +lat_0=0 +lon_0=0 +datum=WGS84")
    image = GeoReference(space, Affine(1e6, 0, -7e6, 0, -1e6, 7e6), (14, 14))
    corner = np.zeros((14, 14), np.bool_)
    corner[0, 0] = True
    with pytest.raises(RequestError, match=r"transformed to EPSG:4326\..*omit geojson_crs"):
        polygon_features([Mask.from_plane(corner)], Reprojection.of(image, "EPSG:4326"))


@pytest.mark.parametrize(
    "name", ["4327x", "", "EPSG:0", "file.prj", "+proj=longlat", "9" * 99, "²"]
)
def test_unknown_names(name: str) -> None:
    with pytest.raises(RequestError, match=r"^geojson_crs .* or omit geojson_crs for the coord"):
        Reprojection.of(reference("utm"), name)


def test_an_image_without_crs() -> None:
    for image in (None, GeoReference(None, Affine.scale(2), SIZE)):
        with pytest.raises(RequestError, match=r"^geojson_crs requires an image with"):
            Reprojection.of(image, "4326")
