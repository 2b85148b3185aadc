"""samgeo's endpoints on rasters that are segmented by windows."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import numpy as np
import pyogrio
import pytest
import rasterio
from rasterio.warp import transform

from inference_server.api.samgeo import routes
from inference_server.segmentation.tiling.around import near_each_other
from tests.api.orthophotos import Orthophoto, f1, orthophoto
from tests.api.pictures import encoded, iou
from tests.api.rasters import (
    AUTOMATIC,
    PLACES,
    PREDICT,
    TEXT,
    answer,
    geotiff,
    ids,
    masks_of,
    masks_of_geojson,
    post,
)
from tests.api.serving import RunningHere, in_process, until
from tests.open_files import Opened

UTM = "EPSG:32633"
SQUARES: dict[str, Any] = {"prompt": "yellow square", "tile_size": 384}


@pytest.fixture(scope="module")
def small() -> Iterator[RunningHere]:
    """A server that encodes 0.4 MP at once."""
    with in_process(max_image_pixels=400_000, max_raster_requests=2) as running:
        yield running


@pytest.fixture(scope="module")
def photo() -> Orthophoto:
    """A raster of 1200 x 900 pixels with 41 shapes."""
    return orthophoto(4)


@pytest.fixture(scope="module")
def tiled(photo: Orthophoto) -> bytes:
    """The raster in compressed tiles."""
    return geotiff(photo.image, UTM, tiled=True, blockxsize=256, blockysize=256, compress="deflate")


@pytest.fixture(scope="module")
def striped(photo: Orthophoto) -> bytes:
    """The raster in strips."""
    return geotiff(photo.image, UTM, tiled=False)


@pytest.mark.parametrize("kind", ["tiled", "striped"])
def test_every_format_has_the_objects_of_the_raster(
    small: RunningHere, photo: Orthophoto, kind: str, request: pytest.FixtureRequest
) -> None:
    data: bytes = request.getfixturevalue(kind)
    truth = photo.matching("yellow square")

    response = post(small, TEXT, data, output_format="geotiff", **SQUARES)
    plane = ids(response)
    assert response.headers["content-disposition"] == 'attachment; filename="mask.tif"'
    assert response.headers["x-model"] == "sam3/demo"
    assert int(response.headers["content-length"]) == len(response.content)
    with rasterio.open(io.BytesIO(response.content)) as raster:
        assert raster.crs == rasterio.crs.CRS.from_string(UTM)
        assert raster.transform == PLACES[UTM]
        assert raster.dtypes == ("uint8",)
        assert raster.compression == rasterio.enums.Compression.deflate
        assert raster.block_shapes == [(256, 256)]
    found = masks_of(plane)
    assert f1(found, truth, 0.7) > 0.9
    assert iou(np.any(found, axis=0), np.any(truth, axis=0)) > 0.8

    polygons = answer(small, TEXT, data, **SQUARES)
    drawn = masks_of_geojson(polygons, photo.size, PLACES[UTM])
    assert len(drawn) == len(found)
    for whole, shown in zip(drawn, found, strict=True):
        np.testing.assert_array_equal(whole, shown)  # none of these overlap
    assert [each["properties"]["value"] for each in polygons["features"]] == list(
        range(1, len(found) + 1)
    )
    tops = [int(np.flatnonzero(mask.any(axis=1))[0]) for mask in found]
    assert tops == sorted(tops)  # ids count from top to bottom
    picture = post(small, TEXT, data, output_format="png", **SQUARES)
    np.testing.assert_array_equal(ids(picture), plane)

    listed = answer(small, TEXT, data, output_format="json", **SQUARES)
    assert (listed["image_width"], listed["image_height"]) == photo.size[::-1]
    assert listed["num_detections"] == len(listed["detections"]) == len(found)
    boxes = answer(small, TEXT, data, output_format="detections", **SQUARES)
    assert boxes["crs"] == UTM
    assert boxes["num_detections"] == len(found)
    for mask, item, feature in zip(found, listed["detections"], boxes["features"], strict=True):
        y, x = np.nonzero(mask)
        x1, y1, x2, y2 = item["bbox"]
        assert np.abs(np.array([x1, y1, x2, y2]) - [x.min(), y.min(), x.max(), y.max()]).max() < 25
        assert feature["properties"]["id"] == item["id"]
        assert feature["properties"]["score"] == item["score"]


def test_both_layouts_have_the_same_answer(
    small: RunningHere, tiled: bytes, striped: bytes
) -> None:
    assert answer(small, TEXT, tiled, **SQUARES) == answer(small, TEXT, striped, **SQUARES)


@pytest.mark.parametrize("crs", [None, "4326", "EPSG:3857"])
def test_gis_software_reads_the_outlines(small: RunningHere, tiled: bytes, crs: str | None) -> None:
    fields = SQUARES if crs is None else {**SQUARES, "geojson_crs": crs}
    response = post(small, TEXT, tiled, **fields)
    assert response.headers["content-type"] == "application/json"
    meta, _, geometry, columns = pyogrio.raw.read(io.BytesIO(response.content))
    expected = {None: UTM, "4326": "OGC:CRS84"}.get(crs, crs)
    read, named = (rasterio.crs.CRS.from_user_input(name) for name in (meta["crs"], expected))
    assert read == named or {read.to_epsg(), named.to_epsg()} <= {4326, None}
    assert meta["geometry_type"] == "Polygon"
    assert len(geometry) == len(response.json()["features"]) > 4
    values = dict(zip(meta["fields"], columns, strict=True))
    assert sorted(values["value"]) == list(range(1, len(geometry) + 1))
    assert (values["score"] > 0.5).all()
    _, bounds = pyogrio.read_bounds(io.BytesIO(response.content))
    corners = [PLACES[UTM] @ corner for corner in ((0, 0), (1200, 900), (0, 900), (1200, 0))]
    x, y = transform(
        UTM, {None: UTM, "4326": "EPSG:4326"}.get(crs, crs), *zip(*corners, strict=True)
    )
    assert min(x) <= bounds[0].min() < bounds[2].max() <= max(x)
    assert min(y) <= bounds[1].min() < bounds[3].max() <= max(y)


def test_windows_are_used_where_they_are_needed(
    server: RunningHere, small: RunningHere, tiled: bytes, striped: bytes
) -> None:
    """By default, only for images over the limit of one encode."""

    def encoded_by(running: RunningHere, **fields: Any) -> int:
        before = running.metric("inference_embedding_cache_misses_total")
        response = post(running, TEXT, tiled, prompt="blue cross", **fields)
        assert response.status_code in (200, 404), response.text
        return int(running.metric("inference_embedding_cache_misses_total") - before)

    assert encoded_by(server) <= 1  # unless another test has sent it before
    assert encoded_by(server, tile_size=1200) == 0
    assert encoded_by(server, tiles="never", tile_size=384) == 0
    assert encoded_by(server, tile_size=600) == 6
    assert encoded_by(server, tiles="always", tile_size=1200) == 1  # as a window
    assert encoded_by(small, tile_size=500) == 6
    assert encoded_by(small, tile_size=500, tile_overlap=200) == 8  # 12; the corners are cached
    response = post(small, TEXT, tiled, prompt="blue cross", tiles="never")
    assert response.status_code == 413
    assert "Send tiles auto" in response.json()["detail"]
    assert "INFERENCE_MAX_IMAGE_PIXELS" in response.json()["detail"]


def test_headers_are_those_of_a_whole_image(server: RunningHere, tiled: bytes) -> None:
    whole = post(server, TEXT, tiled, prompt="yellow square", confidence_threshold=0)
    windows = post(server, TEXT, tiled, tiles="always", **SQUARES)
    assert whole.status_code == windows.status_code == 200
    missing = set(whole.headers) - set(windows.headers)
    assert not missing - {"x-model-load-time"}
    assert windows.headers["content-encoding"] == "gzip"
    plain = post_plain(server, tiled, tiles="always", **SQUARES)
    assert "content-encoding" not in plain.headers
    assert plain.json() == windows.json()
    again = post(server, TEXT, tiled, tiles="always", **SQUARES)
    assert again.headers["x-embedding-cache"] == "hit"


def post_plain(server: RunningHere, data: bytes, **fields: Any) -> httpx.Response:
    """Send a form of a client that takes no compressed responses."""
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
    headers = {"x-api-key": "inf_alice-s3cret", "accept-encoding": "identity"}
    return server.http.post(TEXT, files={"file": ("a.tif", data)}, data=texts, headers=headers)


def test_bands_are_chosen_in_windows_and_in_whole_images(
    server: RunningHere, photo: Orthophoto
) -> None:
    infrared = np.full_like(photo.image[..., :1], 90)
    data = geotiff(np.dstack([photo.image[..., ::-1], infrared]), UTM)  # blue, green, red, infrared
    truth = photo.matching("yellow square")
    found = masks_of(
        ids(post(server, TEXT, data, bands="3,2,1", output_format="geotiff", **SQUARES))
    )
    assert f1(found, truth, 0.7) > 0.9
    fields: dict[str, Any] = {"output_format": "geotiff", "model_version": "sam2"}
    x, y = next(each.center for each in photo.shapes if each.text == "yellow square")
    for bands in ("3,2,1", "1"):
        plane = ids(post(server, PREDICT, data, bands=bands, point_coords=[[x, y]], **fields))
        assert max(iou(plane > 0, mask) for mask in truth) > 0.3
    response = post(server, TEXT, data, bands="5", **SQUARES)
    assert response.status_code == 400
    response = post(server, TEXT, data, bands="red", prompt="x")
    assert response.status_code == 400
    assert "bands 'red' is not valid" in response.json()["detail"]


def test_a_click_costs_one_encode(small: RunningHere, photo: Orthophoto, tiled: bytes) -> None:
    shapes = [each for each in photo.shapes if each.text == "red circle"]
    before = small.metric("inference_embedding_cache_misses_total")
    fields: dict[str, Any] = {"tile_size": 300, "output_format": "geotiff"}
    (mask,) = masks_of(ids(post(small, PREDICT, tiled, point_coords=[shapes[0].center], **fields)))
    assert iou(mask, shapes[0].mask) > 0.8
    assert small.metric("inference_embedding_cache_misses_total") == before + 1
    x, y = PLACES[UTM] @ shapes[1].center
    (lon,), (lat,) = transform(UTM, "EPSG:4326", [x], [y])
    point: dict[str, Any] = {"point_coords": [[lon, lat]], "point_crs": "EPSG:4326"}
    (mask,) = masks_of(ids(post(small, PREDICT, tiled, **point, **fields)))
    assert iou(mask, shapes[1].mask) > 0.8


def test_boxes_select_objects_all_over_the_raster(
    small: RunningHere, photo: Orthophoto, tiled: bytes
) -> None:
    chosen = [photo.shapes[i] for i in (30, 0, 12, 1)]
    boxes = []
    for each in chosen:
        y, x = np.nonzero(each.mask)
        boxes.append([int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1])
    fields: dict[str, Any] = {"model_version": "sam2", "tile_size": 400, "output_format": "png"}
    plane = ids(post(small, PREDICT, tiled, boxes=boxes, **fields))
    for number, each in enumerate(chosen, 1):  # in the order of the boxes
        assert iou(plane == number, each.mask) > 0.8
    three = answer(
        small,
        PREDICT,
        tiled,
        boxes=boxes,
        model_version="sam2",
        tile_size=400,
        multimask_output="true",
        output_format="json",
    )
    assert three["num_detections"] == 12
    outside = post(small, PREDICT, tiled, boxes=[1300, 10, 1400, 90], **fields)
    assert outside.status_code == 400
    assert "outside" in outside.json()["detail"]


@pytest.mark.parametrize("model_version", ["sam2", "sam3"])
@pytest.mark.parametrize("tile_size", [1, 10**12])
def test_windows_around_prompts_keep_the_limits(
    small: RunningHere, tiled: bytes, model_version: str, tile_size: int
) -> None:
    """A window as large as the raster would take all of it into memory."""
    fields: dict[str, Any] = {"tiles": "always", "model_version": model_version}
    response = post(small, PREDICT, tiled, boxes=[10, 10, 90, 90], tile_size=tile_size, **fields)
    assert response.status_code == 422
    assert f"64 to 632 pixels, not {tile_size}" in response.json()["detail"][0]["msg"]


def test_boxes_near_each_other_share_a_window() -> None:
    boxes = [(0.0, 0.0, 9.0, 9.0), (500.0, 0.0, 510.0, 9.0), (20.0, 30.0, 60.0, 80.0)]
    assert near_each_other(boxes, 100) == [[0, 2], [1]]
    assert near_each_other(boxes, 50) == [[0], [1], [2]]
    assert near_each_other(boxes, 600) == [[0, 1, 2]]
    assert near_each_other([(0.0, 0.0, 900.0, 9.0)], 100) == [[0]]


def test_exemplars_find_all_that_is_alike(
    small: RunningHere, photo: Orthophoto, tiled: bytes
) -> None:
    truth = photo.matching("red circle")
    y, x = np.nonzero(truth[0])
    box = [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]
    fields: dict[str, Any] = {"boxes": box, "tile_size": 300, "output_format": "geotiff"}
    found = masks_of(ids(post(small, PREDICT, tiled, **fields)))
    assert f1(found, truth) > 0.8
    click = next(each for each in photo.shapes if each.text == "yellow square")
    both = masks_of(ids(post(small, PREDICT, tiled, point_coords=[click.center], **fields)))
    assert len(both) == len(found) + 1
    assert max(iou(mask, click.mask) for mask in both) > 0.8


def test_everything(small: RunningHere, photo: Orthophoto) -> None:
    """Clicks in each window; an object that several windows see is one."""
    part = photo.image[:450, :600]
    data = geotiff(part, UTM)
    truth = [each.mask[:450, :600] for each in photo.shapes if each.mask[:450, :600].any()]
    fields: dict[str, Any] = {
        "tiles": "always",
        "tile_size": 350,
        "tile_overlap": 100,
        "points_per_side": 6,
        "pred_iou_thresh": 0.7,
    }
    found = masks_of(ids(post(small, AUTOMATIC, data, output_format="geotiff", **fields)))
    assert f1(found, truth) > 0.7
    union = {"unique": "false", **fields}
    filled = ids(post(small, AUTOMATIC, data, output_format="geotiff", **union))
    np.testing.assert_array_equal(filled, np.any(found, axis=0) * 255)
    for form in ("geojson", "json", "detections"):
        response = post(small, AUTOMATIC, data, output_format=form, **union)
        assert response.status_code == 400
        assert "unique=true" in response.json()["detail"]


def test_overlaps_are_suppressed_in_windows_and_across_them(
    small: RunningHere, photo: Orthophoto
) -> None:
    part = photo.image[:450, :600]
    fields: dict[str, Any] = {"prompt": "shape", "confidence_threshold": 0.01, "tile_size": 350}

    def found(**more: Any) -> list[Any]:
        collection = answer(small, TEXT, geotiff(part), **fields, **more)
        return masks_of_geojson(collection, (450, 600), PLACES["EPSG:3857"])

    everything, clean = found(), found(nms_iou_threshold=0.3)
    assert 0 < len(clean) < len(everything)
    assert max(iou(a, b) for i, a in enumerate(clean) for b in clean[:i]) <= 0.3


def test_nothing_remains(small: RunningHere, photo: Orthophoto, tiled: bytes) -> None:
    everything = answer(small, TEXT, tiled, output_format="json", **SQUARES)
    plane = ids(post(small, TEXT, tiled, output_format="png", **SQUARES))
    areas = sorted(int(mask.sum()) for mask in masks_of(plane))
    middle = areas[len(areas) // 2]
    some = answer(small, TEXT, tiled, output_format="json", min_size=middle + 1, **SQUARES)
    assert 0 < some["num_detections"] < everything["num_detections"]
    assert [each["id"] for each in some["detections"]] == list(range(1, some["num_detections"] + 1))
    few = ids(post(small, TEXT, tiled, output_format="png", max_size=middle, **SQUARES))
    small_ones = masks_of(few)
    assert len(small_ones) == everything["num_detections"] - some["num_detections"]
    assert all(mask.sum() <= middle for mask in small_ones)
    response = post(small, TEXT, tiled, min_size=2 * areas[-1], **SQUARES)
    assert response.status_code == 404
    assert response.json()["code"] == "nothing_found"
    blank = geotiff(np.zeros_like(photo.image), UTM, nodata=0)
    assert post(small, TEXT, blank, **SQUARES).status_code == 404


def test_what_has_no_data_has_no_objects(small: RunningHere, photo: Orthophoto) -> None:
    image = photo.image.astype(np.uint16) * 9 + 100
    image[:, 600:] = 0
    data = geotiff(image, UTM, nodata=0, tiled=True, blockxsize=256, blockysize=256)
    plane = ids(post(small, TEXT, data, output_format="geotiff", **SQUARES))
    assert not plane[:, 600:].any()
    truth = [mask for mask in photo.matching("yellow square") if not mask[:, 600:].any()]
    assert f1(masks_of(plane), truth, 0.7) > 0.8


def test_other_formats_are_not_read_by_windows(small: RunningHere, photo: Orthophoto) -> None:
    response = post(small, TEXT, encoded(photo.image), name="a.png", prompt="x")
    assert response.status_code == 413
    assert "only TIFF files are read, by windows" in response.json()["detail"]
    response = post(
        small, TEXT, encoded(photo.image[:200, :200]), name="a.png", prompt="x", tiles="always"
    )
    assert response.status_code == 400
    assert "Only TIFF files are read by windows" in response.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"tile_size": 10}, 422, "64 to 632 pixels, not 10"),
        ({"tile_size": 633}, 422, "64 to 632"),
        ({"tile_size": 0}, 422, "greater than or equal to 1"),
        ({"tile_size": 100, "tile_overlap": 50}, 422, "less than half"),
        ({"tile_overlap": -1}, 422, "greater than or equal to 0"),
        ({"tiles": "perhaps"}, 422, "'auto', 'always' or 'never'"),
        ({"geojson_crs": "EPSG:0"}, 400, "geojson_crs 'EPSG:0'"),
    ],
)
def test_fields_are_checked(
    small: RunningHere, tiled: bytes, fields: dict[str, Any], status: int, message: str
) -> None:
    response = post(small, TEXT, tiled, prompt="x", **fields)
    assert response.status_code == status, response.text
    assert message in json.dumps(response.json()["detail"], ensure_ascii=False)


def test_requests_with_windows_are_bounded(small: RunningHere, tiled: bytes) -> None:
    slots = small.state.raster_slots
    with ExitStack() as taken:
        for _ in range(2):
            taken.enter_context(slots.enter("another"))
        response = post(small, TEXT, tiled, **SQUARES)
        assert response.status_code == 429
        assert "INFERENCE_MAX_RASTER_REQUESTS" in response.json()["detail"]
        assert int(response.headers["retry-after"]) >= 1
    assert post(small, TEXT, tiled, **SQUARES).status_code == 200
    assert len(slots) == 0


def test_a_response_is_bounded(
    small: RunningHere, tiled: bytes, opened_files: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = small.state.settings.model_copy(update={"max_raster_response_mb": 0})
    monkeypatch.setattr(small.state, "settings", changed)
    for form in ("geojson", "png", "geotiff"):
        response = post(small, TEXT, tiled, output_format=form, **SQUARES)
        assert response.status_code == 413, form
        assert "INFERENCE_MAX_RASTER_RESPONSE_MB" in response.json()["detail"]
    until(lambda: not opened_files())


def test_a_damaged_raster_leaves_no_file(
    small: RunningHere, tiled: bytes, opened_files: Opened
) -> None:
    damaged = tiled[: len(tiled) // 2] + bytes(len(tiled) - len(tiled) // 2)
    response = post(small, TEXT, damaged, **SQUARES)
    assert response.status_code == 400
    until(lambda: not opened_files())
    assert len(small.state.raster_slots) == 0


def test_a_request_with_windows_has_more_time(
    server: RunningHere, tiled: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    monkeypatch.setattr(routes, "allow_raster_time", lambda request: given.append("more"))
    whole = post(server, TEXT, tiled, prompt="yellow square")
    assert whole.status_code == 404  # its shapes are too small in one image
    assert given == []
    assert post(server, TEXT, tiled, tiles="always", **SQUARES).status_code == 200
    assert given == ["more"]
