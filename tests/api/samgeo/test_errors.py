"""Error responses of samgeo's endpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.api.pictures import Picture
from tests.api.rasters import AUTOMATIC, PREDICT, TEXT, geotiff, post
from tests.api.serving import RunningHere, serving

FORMATS = "detections, geojson, geotiff, json, png"
CLICK: dict[str, Any] = {"point_coords": [[10, 10]]}


@pytest.mark.parametrize("path", [AUTOMATIC, PREDICT, TEXT])
@pytest.mark.parametrize(
    ("fields", "status", "detail"),
    [
        (
            # before anything else
            {"output_format": "x", "model_id": "y", "model_version": "z"},
            400,
            f"Invalid output_format 'x'. Must be one of: {FORMATS}",
        ),
        (
            {"model_id": "sam4"},
            400,
            "Invalid model_id 'sam4' for {version}. Must be one of: {ids}",
        ),
    ],
)
def test_values_that_there_are_not(
    server: RunningHere, picture: Picture, path: str, fields: Any, status: int, detail: str
) -> None:
    sent = {"prompt": "circle", **CLICK, **fields}
    response = post(server, path, picture.data, **sent)
    version = "sam2" if path == AUTOMATIC else "sam3"
    ids = {
        "sam2": [
            "sam2-hiera-tiny",
            "sam2-hiera-small",
            "sam2-hiera-base-plus",
            "sam2-hiera-large",
        ],
        "sam3": ["facebook/sam3"],
    }
    assert response.status_code == status
    assert response.json()["detail"] == detail.format(version=version, ids=ids[version])


@pytest.mark.parametrize("path", [AUTOMATIC, PREDICT])
def test_versions(server: RunningHere, picture: Picture, path: str) -> None:
    response = post(server, path, picture.data, model_version="sam4", **CLICK)
    assert response.status_code == 400
    assert response.json() == {
        "detail": "Invalid model_version 'sam4'. Must be one of: ['sam', 'sam2', 'sam3']",
        "code": "bad_request",
    }
    wrong = post(server, path, picture.data, model_version="sam", model_id="x", **CLICK)
    assert wrong.status_code == 400
    assert wrong.json()["detail"] == (
        "Invalid model_id 'x' for sam. Must be one of: ['vit_h', 'vit_l', 'vit_b']"
    )


def test_a_version_without_weights(picture: Picture) -> None:
    """A model that is not here is said to be missing: another one does not answer in its place."""
    with serving(ready=False, sam1_weights="none") as server:
        missing = post(server, PREDICT, picture.data, model_version="sam", **CLICK)
    assert missing.status_code == 503
    assert "Use model_version=sam2 or sam3." in missing.json()["detail"]


def test_backend(server: RunningHere, picture: Picture) -> None:
    for backend in ("meta", "transformers"):
        fields: dict[str, Any] = {
            "prompt": "circle",
            "output_format": "json",
            "backend": backend,
        }
        assert post(server, TEXT, picture.data, **fields).status_code == 200
    response = post(server, TEXT, picture.data, prompt="circle", backend="onnx")
    assert response.status_code == 400
    assert response.json()["detail"] == (
        "Invalid backend 'onnx'. Must be one of: ['meta', 'transformers']"
    )


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({}, "At least one of point_coords or boxes must be provided."),
        ({"point_coords": ""}, "At least one of point_coords or boxes must be provided."),
        ({"boxes": "[]"}, "At least one of point_coords or boxes must be provided."),
        ({"point_coords": "[[1, 2]"}, "Invalid JSON in prompt fields: point_coords"),
        ({"boxes": "[[1, 2, 3, NaN]]"}, "Invalid JSON in prompt fields: boxes"),
        ({"point_coords": "[[1, 2], [3]]"}, "point_coords[1][1]"),
        ({"point_coords": '{"x": 1}'}, "Send point_coords as JSON such as [[x, y], ...]"),
        ({"point_coords": "[[1, 1e99]]"}, "point_coords[0][1]"),
        ({"boxes": "[[1, 2, 3]]"}, "boxes[0][3]"),
        ({"boxes": "[[30, 10, 20, 40]]"}, "boxes[0] is empty or inverted"),
        ({"point_coords": "[[1, 2]]", "point_labels": "[1, 1]"}, "2 labels for 1 points"),
        ({"point_coords": "[[1, 2]]", "point_labels": "[2]"}, "point_labels[0]"),
        ({"point_coords": "[[1, 2]]", "point_labels": "1"}, "Send point_labels as JSON such as"),
        ({"point_coords": str([[1, 2]] * 1025)}, "1025 entries; at most 1024 are accepted"),
        ({"boxes": str([[1, 2, 3, 4]] * 65)}, "65 entries; at most 64 are accepted"),
        (
            {"model_version": "sam2", "boxes": str([[1, 2, 3, 4]] * 257)},
            "257 entries; at most 256 are accepted",
        ),
        ({"point_coords": "[[1, 2]]", "point_crs": "EPSG:4326"}, "Omit point_crs"),
        ({"point_coords": "[[9000, 200]]"}, "The point (9000, 200) lies outside the image"),
        ({"point_coords": "[[5, -1]]"}, "640 pixels wide and 480 high"),
        ({"boxes": "[[700, 9, 800, 99]]"}, "The box (700, 9, 800, 99) lies outside"),
        ({"boxes": "[[1, 500, 9, 600]]", "model_version": "sam2"}, "lies outside the image"),
        ({"point_coords": "[[1, 2]]", "point_labels": "[0]"}, "no point is on the object"),
        ({"boxes": "[1, 2, 3, 4]", "min_size": 9, "max_size": 8}, "no object can match"),
    ],
)
def test_prompts(server: RunningHere, picture: Picture, fields: Any, detail: str) -> None:
    response = post(server, PREDICT, picture.data, name="image.png", **fields)
    assert response.status_code == 400, response.text
    assert set(response.json()) == {"detail", "code"}
    assert detail in response.json()["detail"]


@pytest.mark.parametrize(
    ("crs", "point", "detail"),
    [
        ("EPSG:99999", [13.3, 52.6], "EPSG:99999"),
        ("/etc/passwd", [13.3, 52.6], "point_crs"),
        ("EPSG:4326", [52.6, 13.3], "x, y (longitude, latitude)"),
    ],
)
def test_places(
    server: RunningHere, picture: Picture, crs: str, point: list[float], detail: str
) -> None:
    data = geotiff(picture.scene.image, "EPSG:4326")
    response = post(server, PREDICT, data, point_coords=[point], point_crs=crs)
    assert response.status_code == 400, response.text
    assert detail in response.json()["detail"]


@pytest.mark.parametrize(
    ("path", "fields", "location"),
    [
        (TEXT, {}, "prompt"),
        (TEXT, {"prompt": ""}, "prompt"),
        (TEXT, {"prompt": "  "}, "prompt"),
        (TEXT, {"prompt": "x" * 257}, "prompt"),
        (TEXT, {"prompt": "circle", "confidence_threshold": "high"}, "confidence_threshold"),
        (TEXT, {"prompt": "circle", "confidence_threshold": 1.5}, "confidence_threshold"),
        (TEXT, {"prompt": "circle", "nms_iou_threshold": "1.01"}, "nms_iou_threshold"),
        (TEXT, {"prompt": "circle", "nms_iou_threshold": "-0.1"}, "nms_iou_threshold"),
        (AUTOMATIC, {"nms_iou_threshold": "nan"}, "nms_iou_threshold"),
        (TEXT, {"prompt": "circle", "min_size": "1.5"}, "min_size"),
        (AUTOMATIC, {"points_per_side": 0}, "points_per_side"),
        (AUTOMATIC, {"points_per_side": 129}, "points_per_side"),
        (AUTOMATIC, {"pred_iou_thresh": "nan"}, "pred_iou_thresh"),
        (AUTOMATIC, {"unique": "perhaps"}, "unique"),
        (PREDICT, {**CLICK, "multimask_output": "2"}, "multimask_output"),
    ],
)
def test_fields(
    server: RunningHere, picture: Picture, path: str, fields: Any, location: str
) -> None:
    response = post(server, path, picture.data, **fields)
    assert response.status_code == 422, response.text
    (error,) = response.json()["detail"]
    assert error["loc"] == ["body", location]
    assert error["msg"]
    assert error["type"]


def test_empty_fields_are_absent(server: RunningHere, picture: Picture) -> None:
    """Browsers send every field of a form."""
    names = ("model_id", "output_format", "min_size", "confidence_threshold", "nms_iou_threshold")
    fields: dict[str, Any] = dict.fromkeys(names, "")
    response = post(server, TEXT, picture.data, prompt="circle", **fields)
    assert response.status_code == 200
    assert {item["properties"]["value"] for item in response.json()["features"]} == {1, 2, 3, 4}
    fields = dict.fromkeys(("boxes", "point_labels", "point_crs", "multimask_output"), "")
    item = picture.one("blue square")
    response = post(server, PREDICT, picture.data, point_coords=[item.click()], **fields)
    assert response.status_code == 200


@pytest.mark.parametrize("path", [AUTOMATIC, PREDICT, TEXT])
def test_files(server: RunningHere, picture: Picture, path: str) -> None:
    fields = {"prompt": "circle", "point_coords": "[[1, 2]]"}
    missing = [
        server.post(path, b"", content_type="multipart/form-data; boundary=x"),
        server.post(path, b"--x--\r\n", content_type="multipart/form-data; boundary=x"),
        server.post(path, {"prompt": "circle"}),
        server.http.post(path, data=fields, headers={"x-api-key": "inf_alice-s3cret"}),
        # a text in the place of a file
        server.http.post(
            path,
            files={name: (None, text) for name, text in {**fields, "file": "x"}.items()},
            headers={"x-api-key": "inf_alice-s3cret"},
        ),
    ]
    for response in missing:
        assert response.status_code == 422, response.text
        assert ["body", "file"] in [error["loc"] for error in response.json()["detail"]]
    unreadable = [b"", b"no image", picture.data[:500], geotiff(picture.scene.image)[:5000]]
    for data in unreadable:
        response = post(server, path, data, **fields)
        assert response.status_code == 400, response.text
        assert "image" in response.json()["detail"]
    broken = server.post(path, b"--y\r\n", content_type="multipart/form-data; boundary=x")
    assert broken.status_code == 400
    assert "form is invalid" in broken.json()["detail"]


def test_two_files(server: RunningHere, picture: Picture) -> None:
    files = [("file", ("a.png", picture.data)), ("file", ("b.png", picture.data))]
    response = server.http.post(
        TEXT, files=files, data={"prompt": "x"}, headers={"x-api-key": "inf_alice-s3cret"}
    )
    assert response.status_code == 400
    assert "files" in response.json()["detail"]


@pytest.mark.parametrize(
    ("path", "fields", "detail"),
    [
        (
            TEXT,
            {"prompt": "green star"},
            "No objects found for the given prompt. "
            "Please try a different prompt or adjust parameters.",
        ),
        (
            TEXT,
            {"prompt": "circle", "min_size": 300_000},
            "No objects found for the given prompt. "
            "Please try a different prompt or adjust parameters.",
        ),
        (
            PREDICT,
            {"point_coords": "[[5, 5]]", "max_size": 1},
            "No objects found for the given prompts.",
        ),
        (
            AUTOMATIC,
            {"model_version": "sam3", "min_size": 300_000},
            "No objects found for automatic segmentation.",
        ),
    ],
)
def test_nothing_found(
    server: RunningHere, picture: Picture, path: str, fields: Any, detail: str
) -> None:
    response = post(server, path, picture.data, **fields)
    assert response.status_code == 404
    assert response.json()["detail"] == detail


@pytest.mark.parametrize("path", [AUTOMATIC, PREDICT, TEXT])
def test_keys(server: RunningHere, picture: Picture, path: str) -> None:
    fields: dict[str, Any] = {
        "prompt": "green star",
        "point_coords": "[[1, 2]]",
        "points_per_side": 1,
    }
    for key, hint in ((None, "api_key"), ("wrong", "wrong")):
        response = post(server, path, picture.data, key=key, **fields)
        assert response.status_code == 401
        assert hint in response.json()["detail"]
    basic = server.http.post(
        path,
        files={"file": picture.data},
        data={"prompt": "green star", "points_per_side": "1", "point_coords": "[[1, 2]]"},
        auth=("x", "inf_alice-s3cret"),
    )
    assert basic.status_code in (200, 404)


def test_tenants_do_not_share(server: RunningHere, picture: Picture) -> None:
    image = picture.scene.image.copy()
    image[0, 0] = (3, 2, 1)
    data = geotiff(image)
    caches = [
        post(server, TEXT, data, key=key, prompt="circle").headers["x-embedding-cache"]
        for key in ("inf_alice-s3cret", "inf_bob-s3cret", "inf_alice-s3cret")
    ]
    assert caches == ["miss", "miss", "hit"]


def test_images_of_too_many_pixels() -> None:
    with serving(max_image_pixels=10_000, max_upload_mb=1) as server:
        response = post(
            server, TEXT, geotiff(np.zeros((200, 100, 3), np.uint8)), prompt="circle", tiles="never"
        )
        assert response.status_code == 413
        assert "INFERENCE_MAX_IMAGE_PIXELS" in response.json()["detail"]
