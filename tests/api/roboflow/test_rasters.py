"""Typed requests and jobs on rasters that are segmented by windows."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from rasterio.io import MemoryFile

from inference_server.api.roboflow import raster_files
from inference_server.errors import ImageTooLargeError, StorageError
from inference_server.images.raster_source import RasterSource
from inference_server.images.window_reader import RasterLimits
from inference_server.masks import Mask
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.segmentation.tiling import TiledObjects
from inference_server.segmentation.types import Instance
from inference_server.settings import MiB, Settings
from schemas.roboflow import ConceptJobRequest
from tests.api.pictures import iou, plane
from tests.api.rasters import geotiff
from tests.api.serving import ALICE, CONCEPT, VISUAL, RunningHere, serving, until
from tests.api.test_jobs import completed, ended, submitted
from tests.cli.test_segment_rasters import ENOUGH, SIZE, assert_found, world
from tests.full_disk import full_disk

__all__ = ["world"]

LIMIT = 200_000
"""Pixels of an image that is encoded as a whole; the raster of `world` has 460,800."""

COLOURS = [{"text": "red"}, {"text": "blue"}]
TILES: dict[str, Any] = {"tile_size": 256, "tile_overlap": 96}


@pytest.fixture(scope="module")
def data(world: Any) -> bytes:
    return geotiff(world[0], "EPSG:32633", tiled=True, blockxsize=128, blockysize=128)


@pytest.fixture(scope="module")
def image(data: bytes) -> dict[str, str]:
    return {"type": "base64", "value": base64.b64encode(data).decode()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> Iterator[RunningHere]:
    """A server that encodes no large images as a whole, with a directory of rasters."""
    folder = tmp_path_factory.mktemp("rasters")
    (folder / "ortho.tif").write_bytes(data)
    jobs = tmp_path_factory.mktemp("jobs")
    values: dict[str, Any] = {"max_image_pixels": LIMIT, "max_json_objects": 20}
    with serving(data_dir=str(jobs), raster_directory=str(folder), **values) as running:
        yield running


def planes(answer: dict[str, Any]) -> list[NDArray[np.bool_]]:
    """The masks of a concept response, which are RLE."""
    return [
        plane(each, SIZE) for result in answer["prompt_results"] for each in result["predictions"]
    ]


class TestConcepts:
    def test_a_raster_that_is_too_large_as_a_whole(
        self, server: RunningHere, world: Any, image: Any
    ) -> None:
        body = {"image": image, "prompts": COLOURS, "format": "rle", **TILES}
        response = server.post(CONCEPT, body)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert_found(world, planes(answer))
        for result in answer["prompt_results"]:
            scores = [each["confidence"] for each in result["predictions"]]
            assert scores == sorted(scores, reverse=True)
        assert response.headers["x-model"] == "sam3/demo"

    def test_a_form(self, server: RunningHere, world: Any, data: bytes) -> None:
        fields = {"prompts": COLOURS, "format": "rle", **TILES}
        response = server.http.post(
            CONCEPT,
            files={"image": ("a.tif", data), "request": (None, json.dumps(fields))},
            headers={"x-api-key": ALICE},
        )
        assert response.status_code == 200, response.text
        assert_found(world, planes(response.json()))

    def test_never(self, server: RunningHere, image: Any) -> None:
        body = {"image": image, "prompts": COLOURS, "tiles": "never"}
        response = server.post(CONCEPT, body)
        assert response.status_code == 413
        assert "INFERENCE_MAX_IMAGE_PIXELS" in response.json()["message"]

    def test_images_of_other_formats_are_refused_as_before(
        self, server: RunningHere, world: Any
    ) -> None:
        with io.BytesIO() as file:
            Image.fromarray(world[0]).save(file, "PNG")
            sent = base64.b64encode(file.getvalue()).decode()
        body: dict[str, Any] = {"image": {"type": "base64", "value": sent}, "prompts": COLOURS}
        response = server.post(CONCEPT, body)
        assert response.status_code == 413
        assert "INFERENCE_MAX_IMAGE_PIXELS" in response.json()["message"]
        response = server.post(CONCEPT, {**body, "tiles": "always"})
        assert response.status_code == 400
        assert "Only TIFF files are read by windows" in response.json()["message"]

    def test_too_many_objects_for_json(self, image: Any) -> None:
        with serving(max_image_pixels=LIMIT, max_json_objects=3) as server:
            response = server.post(CONCEPT, {"image": image, "prompts": COLOURS, **TILES})
        assert response.status_code == 413
        assert "INFERENCE_MAX_JSON_OBJECTS" in response.json()["message"]
        assert "job" in response.json()["message"]

    def test_exemplars(self, server: RunningHere, world: Any, image: Any) -> None:
        ys, xs = np.nonzero(world[1][0][1])
        box = {"x0": int(xs.min()), "y0": int(ys.min()), "x1": int(xs.max()), "y1": int(ys.max())}
        body: dict[str, Any] = {"image": image, "prompts": [{"boxes": [box]}], "format": "rle"}
        found = planes(server.answer(CONCEPT, **body, **TILES))
        assert max(iou(world[1][0][1], mask) for mask in found) > ENOUGH
        body["prompts"][0]["boxes"][0] |= {"x0": 5000, "x1": 5010}
        assert server.post(CONCEPT, {**body, **TILES}).status_code == 422

    @pytest.mark.parametrize(
        ("fields", "where", "told"),
        [
            ({"tile_size": 63}, "tile_size", "INFERENCE_MIN_TILE_SIZE"),
            ({"tile_size": 5000}, "tile_size", "INFERENCE_MAX_TILE_SIZE"),
            ({"tile_size": True}, "tile_size", "not a boolean"),
            ({"tile_size": 256, "tile_overlap": 128}, "tile_overlap", "less than half"),
            ({"tile_overlap": -1}, "tile_overlap", "0 or more"),
            ({"tiles": "some"}, "tiles", "'auto', 'always' or 'never'"),
            ({"bands": "3,2"}, "bands", "such as 3,2,1"),
        ],
    )
    def test_fields_out_of_range(
        self, server: RunningHere, image: Any, fields: Any, where: str, told: str
    ) -> None:
        response = server.post(CONCEPT, {"image": image, "prompts": COLOURS, **fields})
        assert response.status_code == 422
        (error,) = response.json()["detail"]
        assert error["loc"] == ["body", where]
        assert told in error["msg"]

    def test_bands(self, server: RunningHere, world: Any) -> None:
        swapped = geotiff(np.ascontiguousarray(world[0][..., ::-1]), "EPSG:32633")
        sent = {"type": "base64", "value": base64.b64encode(swapped).decode()}
        body = {"image": sent, "prompts": COLOURS, "format": "rle", "bands": "3,2,1", **TILES}
        assert_found(world, planes(server.answer(CONCEPT, **body)))


def test_a_click_is_answered_in_the_window_around_it(
    server: RunningHere, world: Any, image: Any
) -> None:
    """Objects at both ends of the raster, each at full resolution."""
    chosen = [world[1][0], world[1][-1]]
    prompts = []
    for _, mask in chosen:
        ys, xs = np.nonzero(mask)
        box = {"x0": int(xs.min()), "y0": int(ys.min()), "x1": int(xs.max()), "y1": int(ys.max())}
        width, height = box["x1"] - box["x0"], box["y1"] - box["y0"]
        center = {"x": box["x0"] + width / 2, "y": box["y0"] + height / 2}
        prompts.append({"box": {**center, "width": width, "height": height}})
    answer = server.answer(VISUAL, image=image, prompts=prompts, format="rle")
    for (_, mask), found in zip(chosen, answer["predictions"], strict=True):
        assert iou(plane(found, SIZE), mask) > ENOUGH
    response = server.post(VISUAL, {"image": image, "prompts": prompts, "format": "binary"})
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "format"]


class TestJobs:
    def test_files_and_progress(self, server: RunningHere, world: Any, image: Any) -> None:
        job = completed(
            server,
            f"/v2{CONCEPT}",
            image={"type": "file", "value": "ortho.tif"},
            prompts=COLOURS,
            format="rle",
            files=["coco", "geojson", "geotiff"],
            geojson_crs="4326",
            **TILES,
        )
        assert job["progress"] == {
            "share": 1.0,
            "done": 18,
            "total": 18,
            "skipped": 0,
            "objects": 20,
        }
        names = [each["file_name"] for each in job["images"]]
        assert names == ["coco.json", "objects.geojson", "ids.tif"]
        coco, features, ids = (httpx.get(url).content for url in job["output"])
        document = json.loads(coco)
        assert document["images"] == [
            {"id": 1, "file_name": "ortho.tif", "width": SIZE[1], "height": SIZE[0]}
        ]
        found = [decoded(each["segmentation"]) for each in document["annotations"]]
        assert_found(world, found)
        collection = json.loads(features)
        assert collection["crs"]["properties"]["name"].endswith("CRS84") or "4326" in str(
            collection["crs"]
        )
        with MemoryFile(ids) as file, file.open() as raster:
            assert raster.crs.to_epsg() == 32633
            labels = raster.read(1)
        assert set(np.unique(labels)) == set(range(21))

    def test_json(self, server: RunningHere, world: Any, image: Any) -> None:
        body = {"image": image, "prompts": COLOURS, "format": "rle", **TILES}
        job = completed(server, f"/v2{CONCEPT}", **body)
        assert_found(world, planes(job["output"]))

    def test_files_of_a_whole_image(self, server: RunningHere, world: Any) -> None:
        small = geotiff(np.ascontiguousarray(world[0][:240, :320]), "EPSG:32633")
        sent = {"type": "base64", "value": base64.b64encode(small).decode()}
        job = completed(
            server, f"/v2{CONCEPT}", image=sent, prompts=[{"text": "red"}], files=["geotiff"]
        )
        assert "progress" not in job
        with MemoryFile(httpx.get(job["output"]).content) as file, file.open() as raster:
            assert raster.crs.to_epsg() == 32633
            assert raster.read(1).max() >= 1

    def test_a_click(self, server: RunningHere, world: Any) -> None:
        _, mask = world[1][0]
        ys, xs = np.nonzero(mask)
        point = {"x": float(np.median(xs)), "y": float(np.median(ys)), "positive": True}
        named = {"type": "file", "value": "ortho.tif"}
        job = completed(server, f"/v2{VISUAL}", image=named, prompts=[{"points": [point]}])
        assert len(job["output"]["predictions"]) == 1

    def test_files_that_are_not_there(self, server: RunningHere) -> None:
        named = {"type": "file", "value": "none.tif"}
        job = submitted(server, f"/v2{CONCEPT}", image=named, prompts=COLOURS)
        answer = ended(server, job)
        assert answer.status_code == 422
        assert answer.json()["status"] == "FAILED"

    @pytest.mark.parametrize("name", ["../ortho.tif", "/etc/passwd"])
    def test_names_that_are_no_paths_inside(self, server: RunningHere, name: str) -> None:
        body = {"image": {"type": "file", "value": name}, "prompts": COLOURS}
        response = server.post(f"/v2{CONCEPT}", body)
        assert response.status_code == 400
        assert "not a path inside" in response.json()["message"]

    def test_only_jobs_read_the_directory(self, server: RunningHere) -> None:
        body = {"image": {"type": "file", "value": "ortho.tif"}, "prompts": COLOURS}
        response = server.post(CONCEPT, body)
        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"] == ["body", "image", "type"]

    def test_a_crs_without_its_file(self, server: RunningHere, image: Any) -> None:
        body = {"image": image, "prompts": COLOURS, "geojson_crs": "4326", "files": ["coco"]}
        response = server.post(f"/v2{CONCEPT}", body)
        assert response.status_code == 422
        assert "geojson_crs" in response.json()["detail"][0]["msg"]


def decoded(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """The pixels of COCO's RLE."""
    return np.asarray(coco_mask.decode(rle), bool)


def test_a_running_job_tells_its_progress_and_can_be_cancelled(
    server: RunningHere, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its windows wait for a model that never answers; the workers are free afterwards."""
    waiting, dropped = threading.Semaphore(0), threading.Semaphore(0)
    concept = LocalSegmentationService.concept
    windows: list[int] = []

    async def slow(self: LocalSegmentationService, *arguments: Any, **named: Any) -> Any:
        windows.append(1)
        if len(windows) > 5:
            waiting.release()
            try:
                await asyncio.Event().wait()
            finally:
                dropped.release()
        return await concept(self, *arguments, **named)

    named = {"type": "file", "value": "ortho.tif"}
    with monkeypatch.context() as patch:
        patch.setattr(LocalSegmentationService, "concept", slow)
        job = submitted(server, f"/v2{CONCEPT}", image=named, prompts=COLOURS, **TILES)
        assert waiting.acquire(timeout=60)
        told: list[dict[str, Any]] = []

        def progresses() -> bool:
            status = server.get(job["status_url"]).json()
            assert status["status"] == "PROCESSING"
            told.append(status.get("progress") or {"done": 0})
            return bool(told[-1]["done"] == 5)

        until(progresses)
        assert told[-1]["total"] == 18
        assert told[-1]["share"] == pytest.approx(5 / 18)
        assert [each["done"] for each in told] == sorted(each["done"] for each in told)
        answer = server.delete(job["response_url"])
        assert answer.json() == {"request_id": job["request_id"], "status": "PROCESSING"}
        for _ in range(len(windows) - 5):
            assert dropped.acquire(timeout=60)
        assert server.get(job["status_url"]).status_code == 404
    prompt = {"points": [{"x": 5, "y": 5, "positive": True}]}
    completed(server, f"/v2{VISUAL}", image=named, prompts=[prompt])


def test_files_of_a_result_are_bounded_while_they_are_written(tmp_path: Path) -> None:
    pieces = iter([bytes(MiB // 2)] * 1000)
    with pytest.raises(ImageTooLargeError, match="INFERENCE_JOB_RESULT_MB"):
        raster_files._write(tmp_path / "objects.geojson", pieces, MiB)
    assert len(list(pieces)) == 997


@pytest.mark.parametrize("form", ["coco", "geojson", "geotiff"])
def test_files_of_a_result_on_a_full_disk(data: bytes, form: str) -> None:
    body = ConceptJobRequest.model_validate(
        {
            "image": {"type": "file", "value": "ortho.tif"},
            "prompts": COLOURS,
            "files": [form],
        }
    )
    settings = Settings()
    source = RasterSource(data, RasterLimits.of(settings))
    rng = np.random.default_rng(0)
    with TiledObjects.of(settings, SIZE) as objects:
        for score in (0.5, 0.6):
            objects.add(Instance(0, score, Mask.from_plane(rng.random(SIZE) > 0.5)))
        with (
            full_disk(20_000),
            pytest.raises(StorageError, match="INFERENCE_JOB_RESULT_MB"),
        ):
            raster_files.result_files(source, objects, body, "sam3/demo", settings)
