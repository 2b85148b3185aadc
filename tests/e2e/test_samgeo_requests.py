"""Scripts for samgeo's server, with only the URL changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import requests
from rasterio.io import MemoryFile

from tests.api.pictures import Picture, iou
from tests.api.rasters import PLACES, assert_same_objects, geotiff, masks_of, masks_of_geojson
from tests.api.serving import Running

CRS = "EPSG:3857"


@pytest.fixture(scope="module")
def image(picture: Picture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("samgeo") / "image.tif"
    file.write_bytes(geotiff(picture.scene.image, CRS))
    return file


def send(url: str, image: Path, **data: Any) -> requests.Response:
    with image.open("rb") as file:
        response = requests.post(
            url, files={"file": ("image.tif", file, "image/tiff")}, data=data, timeout=120
        )
    response.raise_for_status()
    return response


def test_health_and_models(url: str) -> None:
    health = requests.get(f"{url}/health", timeout=120).json()
    assert health["status"] == "ok"
    assert health["version"]
    models = requests.get(f"{url}/models", timeout=120).json()
    assert "sam2-hiera-large" in models["models"]["sam2"]
    assert models["models"]["sam3"] == ["facebook/sam3"]
    assert ["sam3", "facebook/sam3"] in models["loaded"]


def test_text(url: str, image: Path, picture: Picture) -> None:
    geojson = send(
        f"{url}/segment/text", image, prompt="red circle", output_format="geojson"
    ).json()
    found = masks_of_geojson(geojson, picture.size, PLACES[CRS])
    assert_same_objects(found, picture.matching("red circle"))

    result = send(f"{url}/segment/text", image, prompt="circle", output_format="json").json()
    assert len(result["detections"]) == 4
    for detection in result["detections"]:
        assert f"{detection['score']:.3f}"
        assert detection["width"] == detection["bbox"][2] - detection["bbox"][0]


def test_points_in_degrees(url: str, image: Path, picture: Picture) -> None:
    item = picture.one("blue square")
    with rasterio.open(image) as raster:
        x, y = raster.transform @ item.click()
        degrees = rasterio.warp.transform(raster.crs, "EPSG:4326", [x], [y])
    response = send(
        f"{url}/segment/predict",
        image,
        model_version="sam2",
        point_coords=json.dumps([[degrees[0][0], degrees[1][0]]]),
        point_labels="[1]",
        point_crs="EPSG:4326",
        output_format="geotiff",
    )
    with MemoryFile(response.content) as file, file.open() as mask, rasterio.open(image) as raster:
        assert mask.crs == raster.crs
        assert mask.transform == raster.transform
        assert iou(mask.read(1) > 0, item.mask) > 0.8


def test_boxes_find_similar_objects(url: str, image: Path, picture: Picture) -> None:
    box = list(map(float, picture.one("red circle").box))
    collection = send(
        f"{url}/segment/predict", image, boxes=json.dumps([box]), output_format="detections"
    ).json()
    assert collection["crs"] == CRS
    assert collection["num_detections"] == 2


def test_automatic(url: str, image: Path, picture: Picture) -> None:
    response = send(
        f"{url}/segment/automatic",
        image,
        model_version="sam2",
        points_per_side=16,
        output_format="png",
    )
    with MemoryFile(response.content) as file, file.open() as raster:
        found = masks_of(raster.read(1))
    for item in picture.scene.objects:
        assert max(iou(item.mask, mask) for mask in found) > 0.5
    assert np.all(np.diff([mask.sum() for mask in found]) >= 0)


def test_models_are_unloaded_and_loaded_again(open_server: Running, image: Path) -> None:
    url = open_server.url
    send(f"{url}/segment/text", image, prompt="circle")
    answer = requests.delete(f"{url}/models", timeout=120)
    assert answer.status_code == 200
    assert answer.json() == {"status": "cleared"}
    assert requests.get(f"{url}/models", timeout=120).json()["loaded"] == []
    again = send(f"{url}/segment/text", image, prompt="circle")
    assert again.headers["x-embedding-cache"] == "miss"
    assert len(again.json()["features"]) >= 4
