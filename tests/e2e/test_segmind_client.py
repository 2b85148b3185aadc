"""Segmind's client, unmodified, against a running server: synchronous calls."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import segmind
from PIL import Image
from segmind import SegmindClient, SegmindError

from tests.api.pictures import Gallery, Picture, Plane, iou
from tests.api.rasters import assert_same_objects
from tests.api.serving import ALICE, TIMEOUT, Running


@pytest.fixture(scope="module")
def client(server: Running) -> SegmindClient:
    return SegmindClient(ALICE, base_url=f"{server.url}/v1", timeout=TIMEOUT)


@pytest.fixture
def module(client: SegmindClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `segmind.run_sync`, as the vendor's pages call it, use the test server."""
    monkeypatch.setattr(segmind, "_default_client", client)


@pytest.fixture(scope="module")
def url(picture: Picture, gallery: Gallery) -> str:
    return gallery.hang("/segmind-client.png", picture.data)["value"]


def mask(data: bytes) -> Plane:
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        return np.asarray(image) > 127


def test_the_documented_call_of_sam3_image(module: None, picture: Picture, url: str) -> None:
    response = segmind.run_sync(
        "sam3-image",
        image=url,
        text_prompt="red circle",
        point_labels_input="[[1]]",
        return_preview=True,
        return_overlay=False,
        return_masks=False,
        threshold=0.5,
        points_per_side=32,
        pred_iou_thresh=0.88,
        max_masks=0,
    )
    assert response.headers["content-type"] == "image/png"
    truth = np.any(picture.matching("red circle"), axis=0)
    assert iou(mask(response.content), truth) > 0.8


def test_the_documented_call_of_sam_v2_image(module: None, picture: Picture, url: str) -> None:
    response = segmind.run_sync(
        "sam-v2-image", base64=False, image=url, overlay_mask=True, prompt="red circle"
    )
    drawn = np.asarray(Image.open(io.BytesIO(response.content)).convert("RGB"))
    changed = (drawn != picture.scene.image).any(axis=2)
    assert iou(changed, np.any(picture.matching("red circle"), axis=0)) > 0.7


def test_several_images(client: SegmindClient, picture: Picture) -> None:
    response = client.run_sync(
        "sam3-image", image=picture.sent["value"], text_prompt="red circle", return_masks=True
    )
    found = [mask(base64.b64decode(text)) for text in response.json()["masks"]]
    assert_same_objects(found, picture.matching("red circle"))


def test_base64_is_read_in_both_ways(client: SegmindClient, picture: Picture, url: str) -> None:
    item = picture.one("blue square")
    x, y = map(int, item.click())
    response = client.run_sync(
        "sam-v2-image", image=url, coordinates=f"[{x},{y}]", overlay_mask=False, base64=True
    )
    assert iou(mask(base64.b64decode(response.json())), item.mask) > 0.8
    # Python's decoder ignores the quotes.
    assert iou(mask(base64.b64decode(response.content)), item.mask) > 0.8


def test_errors_are_reported(client: SegmindClient, server: Running, url: str) -> None:
    with pytest.raises(SegmindError) as caught:
        client.run_sync("sam3-image", image=url, threshold=2, text_prompt="red circle")
    assert caught.value.status == 400
    assert "threshold" in str(caught.value.detail)
    with pytest.raises(SegmindError) as caught:
        client.run_sync("sam-v2-image", image=url)
    assert caught.value.status == 400
    assert "coordinates" in str(caught.value.detail)
    unauthorised = SegmindClient("wrong", base_url=f"{server.url}/v1", timeout=TIMEOUT)
    with pytest.raises(SegmindError) as caught:
        unauthorised.run_sync("sam-v2-image", image=url, prompt="red circle")
    assert caught.value.status == 401
    assert "key" in str(caught.value.detail)
