"""samgeo's endpoints: objects found in all kinds of rasters, in every output format."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_geom

from inference_server.demo.scenes import make_scene
from inference_server.geo import crs as crs_module
from inference_server.geo import georeference as georeference_module
from inference_server.images import gdal as gdal_module
from tests.api.pictures import Picture, encoded, iou, plane
from tests.api.rasters import (
    AUTOMATIC,
    PLACES,
    PREDICT,
    TEXT,
    answer,
    assert_same_objects,
    geotiff,
    ids,
    masks_of,
    masks_of_geojson,
    post,
)
from tests.api.serving import RunningHere

WEB, GEOGRAPHIC, UTM = PLACES


@pytest.fixture(scope="module")
def raster(picture: Picture) -> bytes:
    """The picture as a GeoTIFF."""
    return geotiff(picture.scene.image)


def reaches(mask: NDArray[np.bool_]) -> list[int]:
    """Return the inclusive extent [x1, y1, x2, y2]."""
    y, x = np.nonzero(mask)
    return [int(x.min()), int(y.min()), int(x.max()), int(y.max())]


@pytest.mark.parametrize(
    ("crs", "urn"),
    [
        (WEB, "urn:ogc:def:crs:EPSG::3857"),
        (GEOGRAPHIC, "urn:ogc:def:crs:OGC:1.3:CRS84"),
        (UTM, "urn:ogc:def:crs:EPSG::32633"),
    ],
)
def test_georeference_is_kept(server: RunningHere, picture: Picture, crs: str, urn: str) -> None:
    data = geotiff(picture.scene.image, crs)
    truth = picture.matching("red circle")

    found = answer(server, TEXT, data, prompt="red circle")
    assert found["name"] == "output"
    assert found["crs"] == {"type": "name", "properties": {"name": urn}}
    assert_same_objects(masks_of_geojson(found, picture.size, PLACES[crs]), truth)
    assert all(0.5 <= feature["properties"]["score"] <= 1 for feature in found["features"])

    response = post(server, TEXT, data, prompt="red circle", output_format="geotiff")
    assert response.headers["content-type"] == "image/tiff"
    assert response.headers["content-disposition"] == 'attachment; filename="mask.tif"'
    with MemoryFile(response.content) as file, file.open() as written:
        assert written.crs == rasterio.crs.CRS.from_string(crs)
        assert written.transform == PLACES[crs]
        assert written.dtypes == ("uint8",)
        assert written.compression == rasterio.enums.Compression.deflate
    plane = ids(response)
    assert set(np.unique(plane)) == {0, 1, 2}
    assert_same_objects(masks_of(plane), truth)

    boxes = answer(server, TEXT, data, prompt="red circle", output_format="detections")
    assert boxes["crs"] == crs
    assert boxes["num_detections"] == len(boxes["features"]) == 2
    for feature in boxes["features"]:
        assert set(feature["properties"]) == {"id", "score", "bbox_pixel"}
        x1, y1, x2, y2 = feature["properties"]["bbox_pixel"]
        corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
        expected = [PLACES[crs] @ corner for corner in corners]
        np.testing.assert_allclose(feature["geometry"]["coordinates"][0], expected, rtol=1e-12)


def test_without_a_georeference(server: RunningHere, picture: Picture) -> None:
    truth = picture.matching("blue square")
    for name, data in (("image.png", picture.data), ("a.tif", geotiff(picture.scene.image, None))):
        found = answer(server, TEXT, data, name=name, prompt="blue square")
        assert "crs" not in found
        assert_same_objects(masks_of_geojson(found, picture.size), truth)
        boxes = answer(
            server, TEXT, data, name=name, prompt="blue square", output_format="detections"
        )
        assert "crs" not in boxes
        response = post(server, TEXT, data, prompt="blue square", output_format="png")
        assert response.headers["content-type"] == "image/png"
        assert response.headers["content-disposition"] == 'attachment; filename="mask.png"'
        assert_same_objects(masks_of(ids(response)), truth)


def test_json_of_text(server: RunningHere, picture: Picture) -> None:
    found = answer(server, TEXT, picture.data, prompt="circle", output_format="json")
    height, width = picture.size
    assert (found["image_width"], found["image_height"]) == (width, height)
    assert found["num_detections"] == len(found["detections"]) == 4
    assert [item["id"] for item in found["detections"]] == [1, 2, 3, 4]
    scores = [item["score"] for item in found["detections"]]
    assert scores == sorted(scores, reverse=True)
    truth = [reaches(mask) for mask in picture.matching("circle")]
    for item in found["detections"]:
        assert set(item) == {"id", "bbox", "width", "height", "score"}
        x1, y1, x2, y2 = item["bbox"]
        assert (item["width"], item["height"]) == (x2 - x1, y2 - y1)
        assert min(np.abs(np.subtract(item["bbox"], box)).max() for box in truth) < 12


def test_confidence_and_sizes(server: RunningHere, picture: Picture) -> None:
    def found(**more: Any) -> list[dict[str, Any]]:
        fields: dict[str, Any] = {"prompt": "circle", "output_format": "json", **more}
        response = post(server, TEXT, picture.data, **fields)
        if response.status_code == 404:
            return []
        return list(response.json()["detections"])

    everything = found()
    middle = sorted(item["score"] for item in everything)[2]
    assert [item["score"] for item in found(confidence_threshold=middle - 1e-6)] == [
        item["score"] for item in everything if item["score"] >= middle - 1e-6
    ]
    (circles,) = server.concept(picture.sent, "circle")
    areas = sorted(int(plane(circle, picture.size).sum()) for circle in circles)
    assert len(found(min_size=areas[1])) == 3  # both bounds are inclusive
    assert len(found(min_size=areas[1] + 1)) == 2
    assert len(found(max_size=areas[1])) == 2
    assert len(found(min_size=areas[1], max_size=areas[2])) == 2
    assert len(found(max_size=0)) == len(found(max_size=-1)) == 4  # no limit
    assert found(min_size=areas[-1] + 1) == []


def most_alike(masks: list[NDArray[np.bool_]]) -> float:
    """The highest IoU of two masks."""
    return max((iou(a, b) for i, a in enumerate(masks) for b in masks[:i]), default=0.0)


def test_overlaps_are_suppressed(server: RunningHere, picture: Picture) -> None:
    def found(**more: Any) -> list[NDArray[np.bool_]]:
        fields: dict[str, Any] = {"prompt": "shape", "confidence_threshold": 0, **more}
        return masks_of_geojson(answer(server, TEXT, picture.data, **fields), picture.size)

    everything, clean = found(), found(nms_iou_threshold=0.5)
    assert most_alike(everything) > 0.5 >= most_alike(clean)
    assert 0 < len(clean) < len(everything)
    assert len(found(nms_iou_threshold=1)) == len(everything)


def test_overlaps_of_automatic_masks_are_suppressed(server: RunningHere, picture: Picture) -> None:
    def found(**more: Any) -> list[NDArray[np.bool_]]:
        fields: dict[str, Any] = {"points_per_side": 8, "stability_score_thresh": 0.5, **more}
        return masks_of_geojson(answer(server, AUTOMATIC, picture.data, **fields), picture.size)

    assert most_alike(found()) <= 0.7  # the default
    few = found(nms_iou_threshold=0)
    assert 0 < len(few) <= len(found(nms_iou_threshold=1))
    assert most_alike(few) == 0
    everything = {"model_version": "sam3", "nms_iou_threshold": 0}
    assert most_alike(found(**everything)) == 0


@pytest.mark.parametrize("model_version", ["sam2", "sam3"])
def test_points_select_one_object(
    server: RunningHere, picture: Picture, raster: bytes, model_version: str
) -> None:
    item = picture.one("blue square")
    fields: dict[str, Any] = {
        "model_version": model_version,
        "point_coords": [item.click()],
        "point_labels": [1],
        "output_format": "geotiff",
    }
    (mask,) = masks_of(ids(post(server, PREDICT, raster, **fields)))
    assert iou(mask, item.mask) > 0.8
    del fields["point_labels"]  # on the object, unless it is said otherwise
    (same,) = masks_of(ids(post(server, PREDICT, raster, **fields)))
    assert (mask == same).all()


def test_points_beside_the_object(server: RunningHere, picture: Picture) -> None:
    on, beside = picture.one("red square").click(), picture.one("blue circle").click()
    (mask,) = masks_of(
        ids(
            post(
                server,
                PREDICT,
                picture.data,
                point_coords=[on, beside],
                point_labels=[1, 0],
                output_format="png",
            )
        )
    )
    assert iou(mask, picture.one("red square").mask) > 0.8


def test_boxes_of_sam2_select_objects(server: RunningHere, picture: Picture) -> None:
    items = [picture.one("red square"), picture.one("blue circle"), picture.one("blue square")]
    boxes = [list(map(float, item.box)) for item in items]
    fields: dict[str, Any] = {"model_version": "sam2", "output_format": "png"}
    plane = ids(post(server, PREDICT, picture.data, boxes=boxes, **fields))
    for index, item in enumerate(items, 1):
        assert iou(plane == index, item.mask) > 0.8
    (mask,) = masks_of(ids(post(server, PREDICT, picture.data, boxes=boxes[0], **fields)))
    assert iou(mask, items[0].mask) > 0.8
    # Points are one more object beside several boxes, and refine a single one.
    click = [items[2].click()]
    plane = ids(post(server, PREDICT, picture.data, boxes=boxes[:2], point_coords=click, **fields))
    for index, item in enumerate(items, 1):
        assert iou(plane == index, item.mask) > 0.8
    plane = ids(post(server, PREDICT, picture.data, boxes=boxes[2], point_coords=click, **fields))
    assert plane.max() == 1
    assert iou(plane == 1, items[2].mask) > 0.8


def test_boxes_of_sam3_find_all_that_is_alike(server: RunningHere, picture: Picture) -> None:
    item = picture.one("red circle")
    box = [list(map(float, item.box))]
    found = answer(server, PREDICT, picture.data, boxes=box)  # sam3 is the default
    assert_same_objects(masks_of_geojson(found, picture.size), picture.matching("red circle"))
    with_click = ids(
        post(
            server,
            PREDICT,
            picture.data,
            boxes=box,
            point_coords=[picture.one("blue square").click()],
            output_format="png",
        )
    )
    assert with_click.max() == 3  # nothing that was sent is dropped
    assert iou(with_click == 3, picture.one("blue square").mask) > 0.8


def test_json_and_detections_of_predict(server: RunningHere, picture: Picture) -> None:
    items = [picture.one("red square"), picture.one("blue circle")]
    boxes = [list(map(float, item.box)) for item in items]
    fields: dict[str, Any] = {"model_version": "sam2", "boxes": boxes}
    plane = ids(post(server, PREDICT, picture.data, output_format="png", **fields))
    plain = answer(server, PREDICT, picture.data, output_format="json", **fields)
    assert plain["num_detections"] == 2
    mapped = answer(server, PREDICT, picture.data, output_format="detections", **fields)
    for index, (item, feature) in enumerate(
        zip(plain["detections"], mapped["features"], strict=True), 1
    ):
        assert set(item) == {"id", "value", "bbox", "width", "height"}
        assert item["id"] == item["value"] == index
        assert item["bbox"] == reaches(plane == index)  # inclusive
        assert item["width"] == item["bbox"][2] - item["bbox"][0]
        assert feature["properties"] == {
            "id": index,
            "value": index,
            "bbox_pixel": list(map(float, item["bbox"])),
        }


def test_three_masks_a_prompt(server: RunningHere, picture: Picture) -> None:
    fields: dict[str, Any] = {
        "model_version": "sam2",
        "point_coords": [picture.one("blue square").click()],
        "multimask_output": "true",
    }
    listed = answer(server, PREDICT, picture.data, output_format="json", **fields)
    assert listed["num_detections"] == 3
    shown = answer(server, PREDICT, picture.data, **fields)
    by_value = {f["properties"]["value"]: f["properties"]["score"] for f in shown["features"]}
    assert sorted(by_value) == [1, 2, 3]
    plane = ids(post(server, PREDICT, picture.data, output_format="png", **fields))
    best = max(by_value, key=lambda value: by_value[value])
    whole = masks_of_geojson(shown, picture.size)[int(best) - 1]
    assert ((plane == best) == whole).all()  # the best is on top


def test_the_order_of_boxes_changes_nothing(server: RunningHere) -> None:
    """One object inside another: both are whole, and the raster is the same."""
    image = np.full((256, 256, 3), (150, 140, 130), np.uint8)
    image[40:216, 40:216] = (30, 60, 220)
    cv2.circle(image, (128, 128), 30, (230, 30, 30), -1)
    outer, inner = [40, 40, 216, 216], [98, 98, 158, 158]
    data = geotiff(image, None)
    found, rasters = [], []
    for boxes in ([outer, inner], [inner, outer]):
        fields: dict[str, Any] = {"model_version": "sam2", "boxes": boxes}
        shown = masks_of_geojson(answer(server, PREDICT, data, **fields), (256, 256))
        raster = ids(post(server, PREDICT, data, output_format="png", **fields))
        assert answer(server, PREDICT, data, output_format="json", **fields)["num_detections"] == 2
        if boxes[0] == inner:
            shown, raster = shown[::-1], np.where(raster > 0, 3 - raster.astype(int), 0)
        found.append(shown)
        rasters.append(raster)
    for one, other in zip(*found, strict=True):
        assert iou(one, other) > 0.99
    assert iou(found[0][1], np.hypot(*np.mgrid[-128:128, -128:128]) < 30) > 0.7
    assert (rasters[0] != rasters[1]).mean() < 0.01


def test_a_box_that_reaches_past_the_border(server: RunningHere) -> None:
    """It is the same box in pixels and on the map, and as if it ended at the border."""
    scene = make_scene(3, (320, 200))
    item = next(o for o in scene.objects if (o.color, o.shape) == ("red", "circle"))
    data = geotiff(scene.image, UTM)
    x0, _, x1, y1 = map(float, item.box)
    place = PLACES[UTM]
    for far in (50, 500):
        box = [x0, -far, x1 + far, y1]
        (left, top), (right, bottom) = place @ (box[0], box[1]), place @ (box[2], box[3])
        asked: list[dict[str, Any]] = [
            {"boxes": [x0, 0, 320, y1]},
            {"boxes": box},
            {"boxes": [left, bottom, right, top], "point_crs": UTM},
        ]
        cut, *others = (
            ids(post(server, PREDICT, data, model_version="sam2", output_format="png", **fields))
            for fields in asked
        )
        assert iou(cut > 0, item.mask) > 0.8
        for other in others:
            np.testing.assert_array_equal(other, cut)


@pytest.mark.parametrize("crs", ["ESRI:102003", "+proj=moll +lon_0=7 +datum=WGS84 +units=m"])
def test_a_crs_without_an_epsg_code(server: RunningHere, picture: Picture, crs: str) -> None:
    given = rasterio.crs.CRS.from_string(crs)
    data = geotiff(picture.scene.image, crs, PLACES[UTM])
    fields: dict[str, Any] = {"prompt": "red circle"}
    shown = answer(server, TEXT, data, **fields)["crs"]["properties"]["name"]
    boxes = answer(server, TEXT, data, output_format="detections", **fields)["crs"]
    assert rasterio.crs.CRS.from_user_input(shown) == given
    assert rasterio.crs.CRS.from_user_input(boxes) == given
    response = post(server, TEXT, data, output_format="geotiff", **fields)
    with MemoryFile(response.content) as file, file.open() as written:
        assert written.crs == given


def test_prompts_on_both_sides_of_the_antimeridian(server: RunningHere, picture: Picture) -> None:
    item = picture.one("blue square")
    (x, y), (x0, y0, x1, y1) = item.click(), item.box
    place = rasterio.transform.from_origin(180 - x * 1e-5, 52.6, 1e-5, 1e-5)  # within the object
    data = geotiff(picture.scene.image, GEOGRAPHIC, place)
    fields: dict[str, Any] = {
        "model_version": "sam2",
        "point_crs": GEOGRAPHIC,
        "output_format": "geotiff",
    }
    (west, north), (east, south) = place @ (x0, y0), place @ (x1, y1)
    assert west < 180 < east
    for prompt in (
        {"point_coords": [(179.999999 - 360, (place @ (x, y))[1])]},
        {"boxes": [west, south, east - 360, north]},
        {"boxes": [west, south, east, north]},
    ):
        (mask,) = masks_of(ids(post(server, PREDICT, data, **fields, **prompt)))
        assert iou(mask, item.mask) > 0.8
    wrong = post(server, PREDICT, data, boxes=[west, north, east - 360, south], **fields)
    assert wrong.status_code == 400
    assert "boxes[0] is empty or inverted" in wrong.json()["detail"]


def test_gdal_reads_and_transforms_in_threads_for_slow_work(
    server: RunningHere, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forms that keep GDAL busy take no thread of other requests."""
    threads = set()
    gdal = gdal_module.gdal

    @contextmanager
    def noting() -> Iterator[None]:
        threads.add(threading.current_thread().name.partition("_")[0])
        with gdal():
            yield

    for module in (gdal_module, crs_module, georeference_module):
        monkeypatch.setattr(module, "gdal", noting)
    image = picture.scene.image.copy()
    image[0, 0] = (9, 8, 7)  # not in the cache
    data = geotiff(image, UTM, nodata=3)
    fields = {"model_version": "sam2", "point_crs": GEOGRAPHIC, "output_format": "json"}
    response = post(server, PREDICT, data, point_coords=[[500, 95]], **fields)
    assert response.status_code == 400
    assert "cannot be transformed" in response.json()["detail"]
    fields = {"model_version": "sam2", "output_format": "json"}
    post(server, PREDICT, data, point_coords=[[5, 5]], **fields)
    assert threads == {"slow"}


@pytest.mark.parametrize("image_crs", [WEB, UTM, GEOGRAPHIC])
def test_prompts_in_degrees(server: RunningHere, picture: Picture, image_crs: str) -> None:
    data = geotiff(picture.scene.image, image_crs)
    item, place = picture.one("blue square"), PLACES[image_crs]

    def degrees(*points: tuple[float, float]) -> list[tuple[float, float]]:
        x, y = zip(*(place @ point for point in points), strict=True)
        return list(zip(*transform_points(image_crs, GEOGRAPHIC, x, y), strict=True))

    fields: dict[str, Any] = {
        "model_version": "sam2",
        "point_crs": GEOGRAPHIC,
        "output_format": "geotiff",
    }
    (mask,) = masks_of(
        ids(post(server, PREDICT, data, point_coords=degrees(item.click()), **fields))
    )
    assert iou(mask, item.mask) > 0.8
    x0, y0, x1, y1 = map(float, item.box)
    (west, north), (east, south) = degrees((x0, y0), (x1, y1))
    box = [[west, south, east, north]]
    (mask,) = masks_of(ids(post(server, PREDICT, data, boxes=box, **fields)))
    assert iou(mask, item.mask) > 0.8


@pytest.mark.parametrize("image_crs", [WEB, UTM, GEOGRAPHIC])
@pytest.mark.parametrize("name", ["4326", "EPSG:4326"])
def test_geojson_in_another_crs(
    server: RunningHere, picture: Picture, image_crs: str, name: str
) -> None:
    data = geotiff(picture.scene.image, image_crs)
    fields = {"prompt": "red circle", "geojson_crs": name}
    own = answer(server, TEXT, data, prompt="red circle")
    found = answer(server, TEXT, data, **fields)
    assert found["crs"]["properties"]["name"] == "urn:ogc:def:crs:OGC:1.3:CRS84"
    assert len(found["features"]) == len(own["features"]) == 2
    for feature, other in zip(found["features"], own["features"], strict=True):
        assert feature["properties"] == other["properties"]
        geometry = transform_geom(image_crs, GEOGRAPHIC, other["geometry"])
        for ring, expected in zip(
            feature["geometry"]["coordinates"], geometry["coordinates"], strict=True
        ):
            np.testing.assert_allclose(ring, expected, rtol=1e-12)
    boxes = answer(server, TEXT, data, output_format="detections", **fields)
    assert boxes["crs"] == GEOGRAPHIC
    pixels = answer(server, TEXT, data, output_format="detections", prompt="red circle")
    assert [f["properties"] for f in boxes["features"]] == [
        f["properties"] for f in pixels["features"]
    ]
    response = post(server, TEXT, data, output_format="geotiff", **fields)
    with MemoryFile(response.content) as file, file.open() as written:
        assert written.crs == rasterio.crs.CRS.from_string(image_crs)  # it is about GeoJSON


@pytest.mark.parametrize("path", [TEXT, AUTOMATIC, PREDICT])
def test_a_crs_of_the_response_that_cannot_be(
    server: RunningHere, picture: Picture, raster: bytes, path: str
) -> None:
    fields: dict[str, Any] = {"prompt": "x", "point_coords": [[5, 5]]}
    looked_up = ("inference_embedding_cache_hits_total", "inference_embedding_cache_misses_total")
    answer(server, TEXT, raster, prompt="red circle")
    before = [server.metric(name) for name in looked_up]
    assert sum(before) > 0
    response = post(server, path, raster, geojson_crs="EPSG:0", **fields)
    assert response.status_code == 400
    assert "geojson_crs 'EPSG:0' is not a known coordinate" in response.json()["detail"]
    for data in (picture.data, geotiff(picture.scene.image, None)):
        response = post(server, path, data, geojson_crs="4326", **fields)
        assert response.status_code == 400
        assert response.json()["detail"].startswith("geojson_crs requires an image with a coord")
    assert [server.metric(name) for name in looked_up] == before  # no image was encoded


def deep(image: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return image.astype(np.uint16) * 11 + 300


@pytest.mark.parametrize(
    "bands",
    [
        pytest.param(deep, id="16 bits"),
        pytest.param(lambda image: image.astype(np.float32) / 255, id="fractions"),
        pytest.param(lambda image: np.dstack([image, 255 - image, image[..., :1]]), id="7 bands"),
        pytest.param(lambda image: np.dstack([deep(image), deep(255 - image)]), id="6 deep bands"),
    ],
)
def test_rasters_of_every_kind(server: RunningHere, picture: Picture, bands: Any) -> None:
    data = geotiff(np.ascontiguousarray(bands(picture.scene.image)))
    response = post(server, TEXT, data, prompt="red circle", output_format="geotiff")
    assert_same_objects(masks_of(ids(response)), picture.matching("red circle"))


def test_nothing_is_found_where_there_is_no_data(server: RunningHere, picture: Picture) -> None:
    image = deep(picture.scene.image)
    item = picture.one("blue square")
    _, y0, _, y1 = item.box
    middle = (y0 + y1) // 2
    image[:middle] = 0
    data = geotiff(image, nodata=0)
    fields: dict[str, Any] = {"boxes": list(map(float, item.box)), "model_version": "sam2"}
    plane = ids(post(server, PREDICT, data, output_format="geotiff", **fields))
    assert not plane[:middle].any()
    assert iou(plane > 0, item.mask & (np.arange(len(plane)) >= middle)[:, None]) > 0.7
    response = post(server, PREDICT, geotiff(np.zeros_like(image), nodata=0), **fields)
    assert response.status_code == 404, response.text


class TestAutomatic:
    def test_finds_the_objects(self, server: RunningHere, picture: Picture, raster: bytes) -> None:
        response = post(server, AUTOMATIC, raster, output_format="geotiff")
        found = masks_of(ids(response))
        truth = [item.mask for item in picture.scene.objects]
        matched = sum(max(iou(mask, other) for other in found) > 0.5 for mask in truth)
        assert 2 * matched / (len(found) + len(truth)) >= 0.85
        areas = [int(mask.sum()) for mask in found]
        assert areas == sorted(areas)  # the largest has the highest id

    def test_plain_rectangles_pass_the_default_thresholds(self, server: RunningHere) -> None:
        image = np.zeros((128, 160, 3), np.uint8)
        places = [np.s_[12:60, 12:50], np.s_[20:50, 70:110], np.s_[70:115, 90:150]]
        for place, color in zip(
            places, [(255, 255, 255), (240, 220, 40), (60, 200, 240)], strict=True
        ):
            image[place] = color
        fields: dict[str, Any] = {"points_per_side": 12, "output_format": "geotiff"}
        found = masks_of(ids(post(server, AUTOMATIC, encoded(image), **fields)))
        assert len(found) == 3
        for place in places:
            truth = np.zeros((128, 160), bool)
            truth[place] = True
            assert max(iou(mask, truth) for mask in found) > 0.9

    def test_every_form_tells_the_same(
        self, server: RunningHere, picture: Picture, raster: bytes
    ) -> None:
        fields: dict[str, Any] = {"points_per_side": 8}
        found = masks_of(ids(post(server, AUTOMATIC, raster, output_format="geotiff", **fields)))
        polygons = answer(server, AUTOMATIC, raster, **fields)
        drawn = masks_of_geojson(polygons, picture.size, PLACES[WEB])
        for index, (whole, shown) in enumerate(zip(drawn, found, strict=True)):
            smaller = np.any(drawn[:index], axis=0) if index else np.zeros_like(whole)
            assert (shown == (whole & ~smaller)).all()  # the smaller object is on top
        boxes = answer(server, AUTOMATIC, raster, output_format="json", **fields)
        assert [item["value"] for item in boxes["detections"]] == list(range(1, len(found) + 1))
        assert [item["bbox"] for item in boxes["detections"]] == list(map(reaches, drawn))

    def test_one_raster_for_all(self, server: RunningHere, picture: Picture) -> None:
        fields: dict[str, Any] = {"points_per_side": 8, "output_format": "png"}
        numbered = ids(post(server, AUTOMATIC, picture.data, **fields))
        union = ids(post(server, AUTOMATIC, picture.data, unique="false", **fields))
        assert set(np.unique(union)) == {0, 255}
        assert ((union > 0) == (numbered > 0)).all()
        full = ids(
            post(server, AUTOMATIC, picture.data, unique="false", foreground="false", **fields)
        )
        outlines = full == 0
        assert outlines.any()
        assert not (outlines & (numbered == 0)).any()
        assert outlines.sum() < 0.5 * (numbered > 0).sum()
        same = ids(post(server, AUTOMATIC, picture.data, foreground="false", **fields))
        assert (same == numbered).all()  # it matters with unique=false alone

    def test_sizes_and_thresholds(self, server: RunningHere, picture: Picture) -> None:
        fields: dict[str, Any] = {"points_per_side": 8, "output_format": "json"}

        def count(**more: Any) -> int:
            found = answer(server, AUTOMATIC, picture.data, **{**fields, **more})
            return int(found["num_detections"])

        everything = count()
        plane = ids(post(server, AUTOMATIC, picture.data, **{**fields, "output_format": "png"}))
        areas = sorted(int(mask.sum()) for mask in masks_of(plane))
        assert everything == len(areas) >= 6
        assert 0 < count(max_size=areas[-1] - 1) < everything
        assert count(min_size=480 * 640) == 0  # which is no error here
        assert count(pred_iou_thresh=1, stability_score_thresh=1) == 0
        assert count(points_per_side=1) <= 3

    def test_by_sam3(self, server: RunningHere, picture: Picture) -> None:
        response = post(server, AUTOMATIC, picture.data, model_version="sam3", output_format="png")
        assert_same_objects(masks_of(ids(response)), [item.mask for item in picture.scene.objects])


def test_the_same_file_is_encoded_once(server: RunningHere, picture: Picture) -> None:
    image = picture.scene.image.copy()
    image[0, 0] = (1, 2, 3)  # nobody has sent this one
    data = geotiff(image)
    before = server.metric("inference_batch_size_sum", lane="sam3 encode")
    first = post(server, TEXT, data, prompt="red circle")
    again = post(server, TEXT, data, prompt="blue circle")
    assert [each.headers["x-embedding-cache"] for each in (first, again)] == ["miss", "hit"]
    assert first.headers["x-model"] == "sam3/demo"
    assert server.metric("inference_batch_size_sum", lane="sam3 encode") == before + 1
