"""Objects that overlap, in every output format."""

from __future__ import annotations

from io import BytesIO
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from inference_server.api.samgeo.results import RenderOptions, SamgeoObjects
from inference_server.masks import Mask
from inference_server.segmentation.types import Instance
from tests.api.rasters import masks_of_geojson

SIZE = (20, 30)
BOXES = {"large": (2, 1, 28, 19), "inside": (8, 5, 18, 12), "beside": (15, 3, 29, 9)}
SCORES = {"large": 0.9, "inside": 0.6, "beside": 0.8}


def plane(name: str) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = BOXES[name]
    pixels = np.zeros(SIZE, np.bool_)
    pixels[y0:y1, x0:x1] = True
    return pixels


def objects(*names: str, **options: Any) -> SamgeoObjects:
    found = [
        Instance(i, SCORES[name], Mask.from_plane(plane(name))) for i, name in enumerate(names)
    ]
    return SamgeoObjects(SIZE, found, None, RenderOptions(**options))


def raster(rendered: object) -> NDArray[Any]:
    assert isinstance(rendered, bytes)
    with rasterio.open(BytesIO(rendered)) as file:
        return np.asarray(file.read(1))


@pytest.mark.parametrize("names", permutations(BOXES))
@pytest.mark.parametrize("by_area", [False, True])
def test_each_object_is_whole_in_vectors(names: tuple[str, ...], by_area: bool) -> None:
    found: Any = objects(*names, by_area=by_area)
    polygons = found.render("geojson")
    assert [f["properties"]["value"] for f in polygons["features"]] == [
        names.index(name) + 1 for name in ("large", "beside", "inside")
    ]
    for feature in polygons["features"]:
        name = names[feature["properties"]["value"] - 1]
        assert feature["properties"]["score"] == SCORES[name]
    for mask, name in zip(masks_of_geojson(polygons, SIZE), names, strict=True):
        np.testing.assert_array_equal(mask, plane(name))
    listed = found.render("json")
    assert listed["num_detections"] == 3
    for number, (item, name) in enumerate(zip(listed["detections"], names, strict=True), 1):
        x0, y0, x1, y1 = BOXES[name]
        assert item == {
            "id": number,
            "value": number,
            "bbox": [x0, y0, x1 - 1, y1 - 1],
            "width": x1 - x0 - 1,
            "height": y1 - y0 - 1,
        }
    boxes = found.render("detections")
    assert [f["properties"]["id"] for f in boxes["features"]] == [1, 2, 3]


@pytest.mark.parametrize("names", permutations(BOXES))
@pytest.mark.parametrize(
    ("by_area", "order"),
    [(False, ("inside", "beside", "large")), (True, ("large", "beside", "inside"))],
)
def test_the_order_of_objects_does_not_change_a_raster(
    names: tuple[str, ...], by_area: bool, order: tuple[str, ...]
) -> None:
    """The better score is on top; with ids by area, the smaller object."""
    expected = np.zeros(SIZE, np.uint8)
    for name in order:
        expected[plane(name)] = names.index(name) + 1
    found = objects(*names, by_area=by_area)
    for form in ("png", "geotiff"):
        np.testing.assert_array_equal(raster(found.render(form)), expected)


def test_equal_scores_are_decided_by_area() -> None:
    for names in permutations(BOXES):
        found = [Instance(0, 0.5, Mask.from_plane(plane(name))) for name in names]
        shown = raster(SamgeoObjects(SIZE, found, None, RenderOptions()).render("png"))
        assert (shown == names.index("inside") + 1).sum() == plane("inside").sum()
        assert (shown == names.index("large") + 1).any()


def test_one_raster_for_all_is_one_object() -> None:
    union = np.any([plane(name) for name in BOXES], axis=0)
    found: Any = objects(*BOXES, unique=False)
    (mask,) = masks_of_geojson(found.render("geojson"), SIZE)
    np.testing.assert_array_equal(mask, union)
    (item,) = found.render("json")["detections"]
    assert (item["value"], item["bbox"]) == (255, [2, 1, 28, 18])
    nothing: Any = objects(unique=False)
    assert nothing.render("geojson")["features"] == nothing.render("json")["detections"] == []
    outlines: Any = objects(*BOXES, unique=False, foreground=False)
    (drawn,) = masks_of_geojson(outlines.render("geojson"), SIZE)
    np.testing.assert_array_equal(drawn, raster(outlines.render("png")) == 255)
