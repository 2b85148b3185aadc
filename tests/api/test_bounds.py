"""Settings that bound a request reach what they bound."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from rasterio.crs import CRS

from inference_server.geo import crs
from inference_server.segmentation import local
from inference_server.segmentation.automatic import AutomaticMasks
from inference_server.segmentation.image_loader import fetcher_of
from inference_server.settings import MiB, Settings
from tests.api.pictures import Picture, in_base64
from tests.api.rasters import PREDICT, TEXT, geotiff, post
from tests.api.serving import VISUAL, RunningHere, in_process
from tests.images import rasters

ITEMS = 5


@pytest.fixture(scope="module")
def small() -> Iterator[RunningHere]:
    """A server with small bounds."""
    with in_process(
        max_tiff_metadata_items=ITEMS,
        max_transformations=32,
        max_form_fields=16,
        max_form_field_kb=1,
        logits_per_image=2,
        automatic_memory_mb=3,
    ) as running:
        yield running


def test_metadata_items(small: RunningHere) -> None:
    values = np.full((3, 64, 64), 1000, np.uint16)
    for count in (ITEMS - 1, ITEMS + 1):
        data = rasters.write(values, tags={f"key{i}": "value" for i in range(count)})
        answers = [
            small.post(VISUAL, {"image": in_base64(data)}),
            post(small, TEXT, data, prompt="x"),
        ]
        for answer in answers:
            refused = "INFERENCE_MAX_TIFF_METADATA_ITEMS" in answer.text
            assert refused == (count > ITEMS), answer.text
            assert (answer.status_code == 400) == refused, answer.text


def test_metadata_items_of_images_that_are_drawn_on(small: RunningHere) -> None:
    tags = {f"key{i}": "value" for i in range(ITEMS + 1)}
    data = rasters.write(np.full((3, 64, 64), 1000, np.uint16), tags=tags)
    body = {"image": base64.b64encode(data).decode(), "return_overlay": True}
    answer = small.post("/v1/sam3-image", body)
    assert answer.status_code == 400
    assert "INFERENCE_MAX_TIFF_METADATA_ITEMS" in answer.text


def test_transformations(
    small: RunningHere, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def failing(source: CRS, target: CRS, points: object) -> None:
        nonlocal calls
        calls += 1

    monkeypatch.setattr(crs, "_transform", failing)
    points = [[0, 0]] * 100
    data = geotiff(picture.scene.image)
    answer = post(small, PREDICT, data, point_coords=points, point_crs="EPSG:4326")
    assert answer.status_code == 400
    assert "cannot be transformed" in answer.text
    assert 32 <= calls < 40  # a few find out how wide the world is


def test_form_fields(small: RunningHere, picture: Picture) -> None:
    long = {"prompt": "a" * 1500}
    answer = post(small, TEXT, picture.data, **long)
    assert answer.status_code == 400
    assert "maximum size of 1KB" in answer.text
    many = {f"field{i}": "x" for i in range(17)}
    answer = post(small, TEXT, picture.data, **many)
    assert answer.status_code == 400
    assert "Maximum number of fields is 16" in answer.text


def test_caches_and_memory(
    small: RunningHere, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert small.segmenter.logits._max_per_image == 2
    given = []

    def noting(*arguments: Any, max_candidate_bytes: int) -> AutomaticMasks:
        given.append(max_candidate_bytes)
        return AutomaticMasks(*arguments, max_candidate_bytes=max_candidate_bytes)

    monkeypatch.setattr(local, "AutomaticMasks", noting)
    body = {"image": picture.sent["value"], "return_preview": True}
    assert small.post("/v1/sam3-image", body).status_code == 200
    assert given == [3 * MiB]


def test_fetching() -> None:
    fetcher = fetcher_of(Settings(fetch_max_interim=7, fetch_max_addresses=2))
    assert fetcher._max_interim == 7
    assert fetcher._max_addresses == 2
