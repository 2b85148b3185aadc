"""A client that `openapi-python-client` makes of the committed document, against a server."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.http.pictures import Picture, assert_finds, center_box, iou, noise, plane
from tests.http.rasters import geotiff, ids
from tests.http.serving import ALICE, Running, until
from tests.http.test_segmind import mask_of, pixels

ROOT = Path(__file__).parents[2]
NAME = "inference_server_client"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The generated package's name, ready for import."""
    directory = tmp_path_factory.mktemp("generated")
    command = [
        *(sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning"),
        *("--path", str(ROOT / "openapi" / "openapi.json"), "--meta", "none"),
        *("--config", str(ROOT / "openapi" / "python-client.yaml")),
        *("--output-path", str(directory / NAME)),
    ]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "warning" not in (made.stdout + made.stderr).lower()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        for name in [name for name in sys.modules if name.split(".")[0] == NAME]:
            patch.delitem(sys.modules, name)
        yield NAME


@pytest.fixture(scope="module")
def models(package: str) -> Any:
    return importlib.import_module(f"{package}.models")


@pytest.fixture(scope="module")
def client(package: str, server: Running) -> Any:
    module = importlib.import_module(package)
    return module.AuthenticatedClient(base_url=server.url, token=ALICE, timeout=120)


def endpoint(package: str, name: str) -> Any:
    return importlib.import_module(f"{package}.api.{name}")


def test_concept_segment(package: str, models: Any, client: Any, picture: Picture) -> None:
    request = models.Sam3SegmentationRequest(
        image=models.InferenceRequestImage.from_dict(picture.sent),
        prompts=[
            models.Sam3Prompt(type_="text", text="red circle"),
            models.Sam3Prompt(
                type_="visual",
                boxes=[models.CornerBox(*map(float, picture.one("blue square").box))],
            ),
            models.Sam3Prompt(text="green star"),
        ],
        format_="rle",
    )
    call = endpoint(package, "segmentation.concept_segment")
    answer = call.sync(client=client, body=request)
    assert isinstance(answer, models.Sam3SegmentationResponse)
    texts = ("red circle", "blue square", "green star")
    for result, text in zip(answer.prompt_results, texts, strict=True):
        assert all(isinstance(p.masks, models.CocoRle) for p in result.predictions)
        found = [prediction.to_dict() for prediction in result.predictions]
        assert_finds(found, picture.matching(text), picture.size)
    assert answer.prompt_results[0].echo.text == "red circle"


def test_visual_segment(package: str, models: Any, client: Any, picture: Picture) -> None:
    item = picture.one("red circle")
    x, y = item.click()
    request = models.Sam2SegmentationRequest(
        image=models.InferenceRequestImage.from_dict(picture.sent),
        prompts=models.Sam2PromptSet(
            prompts=[
                models.Sam2Prompt(box=models.CenterBox(**center_box(item))),
                models.Sam2Prompt(points=[models.Point(x=x, y=y, positive=True)]),
            ]
        ),
    )
    call = endpoint(package, "segmentation.visual_segment")
    answer = call.sync(client=client, body=request)
    assert isinstance(answer, models.Sam2SegmentationResponse)
    assert len(answer.predictions) == 2
    for prediction in answer.predictions:
        assert isinstance(prediction.masks, list)
        assert iou(plane(prediction.to_dict(), picture.size), item.mask) > 0.8


def test_embedding_and_ids(package: str, models: Any, client: Any) -> None:
    request = models.EmbeddingRequest(
        image=models.InferenceRequestImage.from_dict(noise(600)), image_id="generated"
    )
    for name in ("embed_image_sam_2", "embed_image_sam_3"):
        answer = endpoint(package, f"segmentation.{name}").sync(client=client, body=request)
        assert answer.image_id == "generated"
    call = endpoint(package, "segmentation.segment_image")
    response = call.sync_detailed(
        client=client, body=models.Sam2SegmentationRequest(image_id="generated")
    )
    assert response.headers["x-embedding-cache"] == "hit"


def test_forms(package: str, models: Any, client: Any, picture: Picture) -> None:
    types = importlib.import_module(f"{package}.types")

    def file() -> Any:
        return types.File(io.BytesIO(geotiff(picture.scene.image)), "image.tif", "image/tiff")

    call = endpoint(package, "rasters.segment_text")
    answers = [
        call.sync(
            client=client,
            body=models.TextRequest(file=file(), prompt="red circle", output_format=form),
        )
        for form in ("geojson", "json", "detections")
    ]
    for answer, kind in zip(
        answers, ("MaskCollection", "DetectionList", "BoxCollection"), strict=True
    ):
        assert isinstance(answer, getattr(models, kind))
    masks, boxes, places = answers
    assert masks.crs.properties.name == "urn:ogc:def:crs:EPSG::3857"
    assert {feature.properties.value for feature in masks.features} == {1, 2}
    assert boxes.num_detections == places.num_detections == 2

    predict = endpoint(package, "rasters.segment_predict")
    item = picture.one("blue square")
    body = models.PredictRequest(
        file=file(), model_version="sam2", boxes=str(list(item.box)), multimask_output=False
    )
    answer = predict.sync(client=client, body=body)
    assert isinstance(answer, models.MaskCollection)
    # This generator types one media type for each status: rasters are read from the response.
    body.file, body.output_format = file(), "png"
    response = client.get_httpx_client().request(**predict._get_kwargs(body=body))
    assert response.status_code == 200
    assert iou(ids(response) > 0, item.mask) > 0.8

    automatic = endpoint(package, "rasters.segment_automatic")
    body = models.AutomaticRequest(file=file(), points_per_side=8, unique=False)
    answer = automatic.sync(client=client, body=body)
    assert {feature.properties.value for feature in answer.features} == {255}
    body = models.AutomaticRequest(file=file(), points_per_side=1000)
    invalid = automatic.sync(client=client, body=body)
    assert invalid.detail[0].loc == ["body", "points_per_side"]
    body = models.AutomaticRequest(file=file(), model_version="sam")
    assert "model_version=sam2" in automatic.sync(client=client, body=body).detail


def test_pictures(package: str, models: Any, client: Any, picture: Picture) -> None:
    types = importlib.import_module(f"{package}.types")
    item = picture.one("blue square")
    image, (x, y) = picture.sent["value"], item.click()

    sam3 = endpoint(package, "segmind.sam_3_image")
    for points in ([[x, y]], [x, y], f"[[{x}, {y}]]"):
        body = models.Sam3ImageRequest(image=image, points_input=points)
        answer = sam3.sync(client=client, body=body)
        assert isinstance(answer, types.File)
        assert iou(mask_of(pixels(answer.payload.read())), item.mask) > 0.8
    # This generator types one media type for each status: JSON is read from the file.
    body = models.Sam3ImageRequest(image=image, text_prompt="red circle", return_masks=True)
    images = models.SegmindImages.from_dict(json.load(sam3.sync(client=client, body=body).payload))
    assert len(images.masks) == len(picture.matching("red circle"))
    body = models.Sam3ImageRequest(image=image, point_labels_input=[[1, 0]])
    assert "points_input" in sam3.sync(client=client, body=body).error

    sam_v2 = endpoint(package, "segmind.sam_v2_image")
    body = models.SamV2ImageRequest(image=image, coordinates=[x, y], overlay_mask=False)
    answer = sam_v2.sync(client=client, body=body)
    assert iou(mask_of(pixels(answer.payload.read())), item.mask) > 0.8


def test_errors_are_typed(package: str, models: Any, client: Any, server: Running) -> None:
    call = endpoint(package, "segmentation.visual_segment")
    unknown = call.sync_detailed(
        client=client, body=models.Sam2SegmentationRequest(image_id="no such image")
    )
    assert unknown.status_code == 404
    assert isinstance(unknown.parsed, models.ErrorMessage)
    invalid = call.sync_detailed(client=client, body=models.Sam2SegmentationRequest())
    assert invalid.status_code == 422
    assert isinstance(invalid.parsed, models.ValidationErrorResponse)
    assert invalid.parsed.detail[0].loc == ["body", "image"]
    module = importlib.import_module(package)
    stranger = module.AuthenticatedClient(base_url=server.url, token="wrong")
    refused = call.sync_detailed(client=stranger, body=models.Sam2SegmentationRequest())
    assert refused.status_code == 401
    assert "wrong" in refused.parsed.message


def test_jobs(package: str, models: Any, client: Any, picture: Picture) -> None:
    def result(job: Any) -> Any:
        assert isinstance(job, models.JobSubmitted)
        call = endpoint(package, "jobs.job_status")
        until(lambda: call.sync(job.request_id, client=client).status == "COMPLETED", 60, 0.1)
        return endpoint(package, "jobs.job_result").sync(job.request_id, client=client)

    sent = picture.sent["value"]
    request = models.Sam3ImageRequest(image=sent, text_prompt="red circle")
    call = endpoint(package, "jobs.submit_sam_3_image")
    done = result(call.sync(client=client, body=request))
    assert isinstance(done, models.JobResult)
    assert done.error is None
    (image,) = done.images
    assert (image.file_name, image.content_type) == ("preview.png", "image/png")
    query = dict(parse_qsl(urlsplit(image.url).query))
    fetch = endpoint(package, "jobs.job_file")
    file = fetch.sync(done.request_id, image.file_name, client=client, **query)
    assert len(file.payload.read()) == image.file_size

    request = models.Sam3SegmentationRequest(
        image=models.InferenceRequestImage.from_dict(picture.sent),
        prompts=[models.Sam3Prompt(text="red circle")],
    )
    call = endpoint(package, "jobs.submit_concept_segment")
    done = result(call.sync(client=client, body=request))
    assert len(done.output["prompt_results"][0]["predictions"]) == 2

    call = endpoint(package, "jobs.submit_sam_v2_image")
    request = models.SamV2ImageRequest(image="AAAA", prompt="circle")
    failed = call.sync(client=client, body=request).request_id
    call = endpoint(package, "jobs.job_status")
    until(lambda: isinstance(call.sync(failed, client=client), models.JobFailed), 60, 0.1)
    for name in ("jobs.job_status", "jobs.job_result"):
        unknown = endpoint(package, name).sync("0" * 32, client=client)
        assert isinstance(unknown, models.SegmindFailure)
        assert "not found" in unknown.error


def test_system(package: str, models: Any, client: Any) -> None:
    ready = endpoint(package, "system.readyz").sync(client=client)
    assert isinstance(ready, models.Health)
    known = endpoint(package, "system.list_models").sync(client=client)
    assert {checkpoint.source for checkpoint in known.checkpoints} == {"demo"}
    assert endpoint(package, "system.server_info").sync(client=client).name == "inference-server"
    assert endpoint(package, "system.livez").sync_detailed(client=client).status_code == 200


def test_space(package: str, models: Any, client: Any, picture: Picture) -> None:
    image = picture.sent["value"]
    request = models.SpaceRequest(
        inputs=models.SpaceInputs(
            image=image,
            text_prompts=["red circle"],
            boxes=[list(map(float, picture.one("blue square").box))],
            box_labels=[1],
            vectorize=True,
        )
    )
    call = endpoint(package, "space.space_segment")
    answer = call.sync(client=client, body=request)
    assert isinstance(answer, models.SpaceResponse)
    assert (answer.success, answer.num_objects) == (True, 3)
    assert len(answer.masks) == len(answer.scores) == len(answer.polygons) == 3
    refused = call.sync(
        client=client, body=models.SpaceRequest(inputs=models.SpaceInputs(image=image))
    )
    assert isinstance(refused, models.SpaceError)
    assert "must be provided" in refused.error

    predict = endpoint(package, "space.space_predict")
    body = models.SpacePredictRequest(data=[image, "red circle", 0.5])
    enveloped = predict.sync(client=client, body=body)
    assert isinstance(enveloped, models.SpacePredictResponse)
    assert enveloped.data[0].num_objects == 2
