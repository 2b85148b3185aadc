"""The generated Python client, imported from its source directory, against a server."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

import pytest
from httpx import Timeout
from inference_server_client import AuthenticatedClient, Client, models
from inference_server_client.api.jobs import (
    job_file,
    job_result,
    job_status,
    submit_concept_segment,
    submit_sam_3_image,
    submit_sam_v2_image,
)
from inference_server_client.api.rasters import segment_automatic, segment_predict, segment_text
from inference_server_client.api.segmentation import (
    concept_segment,
    embed_image_sam_2,
    embed_image_sam_3,
    segment_image,
    visual_segment,
)
from inference_server_client.api.segmind import sam_3_image, sam_v2_image
from inference_server_client.api.space import space_predict, space_segment
from inference_server_client.api.system import list_models, livez, metrics, readyz, server_info
from inference_server_client.types import File

from tests.api.pictures import Picture, assert_finds, center_box, iou, noise, plane
from tests.api.rasters import geotiff, ids
from tests.api.segmind.test_routes import mask_of, pixels
from tests.api.serving import ALICE, Running, until

T = TypeVar("T")


@pytest.fixture(scope="module")
def client(server: Running) -> AuthenticatedClient:
    return AuthenticatedClient(base_url=server.url, token=ALICE, timeout=Timeout(120))


def of(kind: type[T], answer: object) -> T:
    """Return the response, asserting its type."""
    assert isinstance(answer, kind), answer
    return answer


def image(sent: dict[str, str]) -> models.InferenceRequestImage:
    return models.InferenceRequestImage.from_dict(sent)


def test_images_as_files(client: AuthenticatedClient, picture: Picture) -> None:
    """The image as a file instead of base64, on all endpoints that take it."""

    def file() -> File:
        return File(io.BytesIO(picture.data), "scene.png", "image/png")

    circles = models.Sam3SegmentationFields([models.Sam3Prompt(text="red circle")], format_="rle")
    asked = models.Sam3SegmentationForm(file(), circles)
    concepts = of(models.Sam3SegmentationResponse, concept_segment.sync(client=client, body=asked))
    found = [prediction.to_dict() for prediction in concepts.prompt_results[0].predictions]
    assert_finds(found, picture.matching("red circle"), picture.size)
    item = picture.one("red square")
    prompt = models.Sam2Prompt(box=models.CenterBox(**center_box(item)))
    visual = models.VisualSegmentationForm(
        file(), models.VisualSegmentationFields(prompts=[prompt], format_="rle")
    )
    sam2 = models.Sam2SegmentationForm(
        file(), models.Sam2SegmentationFields(prompts=[prompt], format_="rle")
    )
    for answer in (
        visual_segment.sync(client=client, body=visual),
        segment_image.sync(client=client, body=sam2),
    ):
        (selected,) = of(models.Sam2SegmentationResponse, answer).predictions
        assert iou(plane(selected.to_dict(), picture.size), item.mask) > 0.8
    named = models.EmbeddingForm(file(), models.EmbeddingFields(image_id="form"))
    sam2_named = models.Sam2EmbeddingForm(file(), models.Sam2EmbeddingFields(image_id="form"))
    for embedded in (
        embed_image_sam_3.sync(client=client, body=named),
        embed_image_sam_2.sync(client=client, body=sam2_named),
    ):
        assert of(models.EmbeddingResponse, embedded).image_id == "form"


def test_concept_segment(client: AuthenticatedClient, picture: Picture) -> None:
    request = models.Sam3SegmentationRequest(
        image=image(picture.sent),
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
    sent = concept_segment.sync(client=client, body=request)
    answer = of(models.Sam3SegmentationResponse, sent)
    texts = ("red circle", "blue square", "green star")
    for result, text in zip(answer.prompt_results, texts, strict=True):
        assert all(isinstance(p.masks, models.CocoRle) for p in result.predictions)
        found = [prediction.to_dict() for prediction in result.predictions]
        assert_finds(found, picture.matching(text), picture.size)
    assert answer.prompt_results[0].echo.text == "red circle"


def test_visual_segment(client: AuthenticatedClient, picture: Picture) -> None:
    item = picture.one("red circle")
    x, y = item.click()
    request = models.VisualSegmentationRequest(
        image=image(picture.sent),
        prompts=models.Sam2PromptSet(
            prompts=[
                models.Sam2Prompt(box=models.CenterBox(**center_box(item))),
                models.Sam2Prompt(points=[models.Point(x=x, y=y, positive=True)]),
            ]
        ),
    )
    answer = of(models.Sam2SegmentationResponse, visual_segment.sync(client=client, body=request))
    assert len(answer.predictions) == 2
    for prediction in answer.predictions:
        assert isinstance(prediction.masks, list)
        assert iou(plane(prediction.to_dict(), picture.size), item.mask) > 0.8


def test_embedding_and_ids(client: AuthenticatedClient) -> None:
    request = models.EmbeddingRequest(image=image(noise(600)), image_id="generated")
    answer = of(models.EmbeddingResponse, embed_image_sam_3.sync(client=client, body=request))
    assert answer.image_id == "generated"
    same = models.Sam2EmbeddingRequest(image_id="generated")
    answer = of(models.EmbeddingResponse, embed_image_sam_2.sync(client=client, body=same))
    assert answer.image_id == "generated"
    response = segment_image.sync_detailed(
        client=client, body=models.Sam2SegmentationRequest(image_id="generated")
    )
    assert response.headers["x-embedding-cache"] == "hit"


def test_forms(client: AuthenticatedClient, picture: Picture) -> None:
    def file() -> File:
        return File(io.BytesIO(geotiff(picture.scene.image)), "image.tif", "image/tiff")

    def text(form: models.TextRequestOutputFormat) -> object:
        body = models.TextRequest(file=file(), prompt="red circle", output_format=form)
        return segment_text.sync(client=client, body=body)

    masks = of(models.MaskCollection, text("geojson"))
    boxes = of(models.DetectionList, text("json"))
    places = of(models.BoxCollection, text("detections"))
    assert isinstance(masks.crs, models.NamedCrs)
    assert masks.crs.properties.name == "urn:ogc:def:crs:EPSG::3857"
    assert {feature.properties.value for feature in masks.features} == {1, 2}
    assert boxes.num_detections == places.num_detections == 2

    item = picture.one("blue square")
    box = models.PredictRequest(
        file=file(), model_version="sam2", boxes=str(list(item.box)), multimask_output=False
    )
    of(models.MaskCollection, segment_predict.sync(client=client, body=box))
    # The generator supports one media type per status, so read the raster from the response.
    box.file, box.output_format = file(), "png"
    response = client.get_httpx_client().request(**segment_predict._get_kwargs(body=box))
    assert response.status_code == 200
    assert iou(ids(response) > 0, item.mask) > 0.8

    body = models.AutomaticRequest(file=file(), points_per_side=8, unique=False)
    found = of(models.MaskCollection, segment_automatic.sync(client=client, body=body))
    assert {feature.properties.value for feature in found.features} == {255}
    body = models.AutomaticRequest(file=file(), points_per_side=1000)
    invalid = of(models.ValidationErrorResponse, segment_automatic.sync(client=client, body=body))
    assert invalid.detail[0].loc == ["body", "points_per_side"]


def test_pictures(client: AuthenticatedClient, picture: Picture) -> None:
    item = picture.one("blue square")
    sent, (x, y) = picture.sent["value"], item.click()

    for points in ([[x, y]], [x, y], f"[[{x}, {y}]]"):
        body = models.Sam3ImageRequest(image=sent, points_input=points)
        answer = of(File, sam_3_image.sync(client=client, body=body))
        assert iou(mask_of(pixels(answer.payload.read())), item.mask) > 0.8
    # The generator supports one media type per status, so parse the JSON from the file.
    body = models.Sam3ImageRequest(image=sent, text_prompt="red circle", return_masks=True)
    several = of(File, sam_3_image.sync(client=client, body=body))
    images = models.SegmindImages.from_dict(json.load(several.payload))
    assert isinstance(images.masks, list)
    assert len(images.masks) == len(picture.matching("red circle"))
    body = models.Sam3ImageRequest(image=sent, point_labels_input="[[1, 0]]")
    refused = of(models.SegmindFailure, sam_3_image.sync(client=client, body=body))
    assert "points_input" in refused.error

    click = models.SamV2ImageRequest(image=sent, coordinates=[x, y], overlay_mask=False)
    answer = of(File, sam_v2_image.sync(client=client, body=click))
    assert iou(mask_of(pixels(answer.payload.read())), item.mask) > 0.8


def test_asynchronous_calls(client: AuthenticatedClient, picture: Picture) -> None:
    async def both() -> list[object]:
        body = [
            models.VisualSegmentationRequest(
                image=image(picture.sent),
                prompts=[models.Sam2Prompt(box=models.CenterBox(**center_box(item)))],
                format_="rle",
            )
            for item in items
        ]
        # A new client, because httpx binds a client to its event loop.
        async with client.with_timeout(Timeout(60)) as own:
            calls = (visual_segment.asyncio(client=own, body=sent) for sent in body)
            return list(await asyncio.gather(*calls))

    items = [picture.one("red circle"), picture.one("blue square")]
    for answer, item in zip(asyncio.run(both()), items, strict=True):
        (found,) = of(models.Sam2SegmentationResponse, answer).predictions
        assert iou(plane(found.to_dict(), picture.size), item.mask) > 0.8


def test_errors_are_typed(client: AuthenticatedClient, server: Running) -> None:
    unknown = visual_segment.sync_detailed(
        client=client, body=models.VisualSegmentationRequest(image_id="no such image")
    )
    assert unknown.status_code == 404
    assert "image" in of(models.ErrorMessage, unknown.parsed).message
    nothing = models.VisualSegmentationRequest()
    invalid = visual_segment.sync_detailed(client=client, body=nothing)
    assert invalid.status_code == 422
    assert of(models.ValidationErrorResponse, invalid.parsed).detail[0].loc == ["body", "image"]
    stranger = AuthenticatedClient(base_url=server.url, token="wrong")
    refused = visual_segment.sync_detailed(client=stranger, body=nothing)
    assert refused.status_code == 401
    assert "wrong" in of(models.ErrorMessage, refused.parsed).message


def test_jobs(client: AuthenticatedClient, picture: Picture) -> None:
    def result(submitted: object) -> models.JobResult:
        job = of(models.JobSubmitted, submitted)

        def completed() -> bool:
            status = of(models.JobStatus, job_status.sync(job.request_id, client=client))
            return status.status == "COMPLETED"

        until(completed, pause=0.1)
        return of(models.JobResult, job_result.sync(job.request_id, client=client))

    sent = picture.sent["value"]
    request = models.Sam3ImageRequest(image=sent, text_prompt="red circle")
    done = result(submit_sam_3_image.sync(client=client, body=request))
    assert done.error is None
    assert isinstance(done.images, list)
    (shown,) = done.images
    assert (shown.file_name, shown.content_type) == ("preview.png", "image/png")
    signature = dict(parse_qsl(urlsplit(shown.url).query))
    file = of(
        File,
        job_file.sync(
            done.request_id,
            shown.file_name,
            client=Client(base_url=str(client.get_httpx_client().base_url)),
            **signature,
        ),
    )
    data = file.payload.read()
    assert len(data) == shown.file_size
    circles = picture.matching("red circle")
    assert iou(mask_of(pixels(data)), circles[0] | circles[1]) > 0.6

    source = models.JobSource("base64", picture.sent["value"])
    words = [models.Sam3Prompt(text="red circle")]
    concept = models.ConceptJobRequest(image=source, prompts=words)
    done = result(submit_concept_segment.sync(client=client, body=concept))
    assert isinstance(done.output, dict)
    found = done.output["prompt_results"][0]["predictions"]
    assert_finds(found, circles, picture.size)

    broken = models.SamV2ImageRequest(image="AAAA", prompt="circle")
    failed = of(models.JobSubmitted, submit_sam_v2_image.sync(client=client, body=broken))
    until(
        lambda: isinstance(job_status.sync(failed.request_id, client=client), models.JobFailed),
        60,
        0.1,
    )
    for answer in (
        job_status.sync("0" * 32, client=client),
        job_result.sync("0" * 32, client=client),
    ):
        assert "not found" in of(models.SegmindFailure, answer).error


def test_system(client: AuthenticatedClient) -> None:
    assert of(models.Health, readyz.sync(client=client)).status == "ok"
    known = of(models.ModelsResponse, list_models.sync(client=client))
    assert {checkpoint.source for checkpoint in known.checkpoints} == {"demo"}
    assert of(models.ServerInfo, server_info.sync(client=client)).name == "inference-server"
    assert livez.sync_detailed(client=client).status_code == 200
    assert "inference" in of(str, metrics.sync(client=client))


def test_space(client: AuthenticatedClient, picture: Picture) -> None:
    sent = picture.sent["value"]
    inputs = models.SpaceInputs(
        image=sent,
        text_prompts=["red circle"],
        boxes=[list(map(float, picture.one("blue square").box))],
        box_labels=[1],
        vectorize=True,
    )
    body = models.SpaceRequest(inputs=inputs)
    answer = of(models.SpaceResponse, space_segment.sync(client=client, body=body))
    assert (answer.success, answer.num_objects) == (True, 3)
    assert isinstance(answer.polygons, list)
    assert len(answer.masks) == len(answer.scores) == len(answer.polygons) == 3
    body = models.SpaceRequest(inputs=models.SpaceInputs(image=sent))
    refused = of(models.SpaceError, space_segment.sync(client=client, body=body))
    assert "must be provided" in refused.error

    predict = models.SpacePredictRequest(data=[sent, "red circle", 0.5])
    enveloped = of(models.SpacePredictResponse, space_predict.sync(client=client, body=predict))
    assert enveloped.data[0].num_objects == 2
