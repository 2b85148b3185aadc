"""Segmind's client, unmodified: asynchronous jobs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
import segmind
from PIL import Image
from segmind import InferenceFailed, InferenceTimeout, SegmindClient, SegmindError
from segmind.v2 import AsyncJob

from tests.api.pictures import Picture, iou
from tests.api.serving import ALICE, BOB, TIMEOUT, Running, serving, until

KEY = {"x-api-key": ALICE}


@contextmanager
def connected(server: Running, key: str = ALICE) -> Iterator[SegmindClient]:
    client = SegmindClient(key, base_url=f"{server.url}/v1", timeout=TIMEOUT)
    with client._client:
        yield client


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[SegmindClient]:
    with connected(server) as client:
        yield client


def assert_shows(url: str, picture: Picture, text: str) -> None:
    with Image.open(io.BytesIO(httpx.get(url, timeout=TIMEOUT).content)) as image:
        found = np.asarray(image) > 127
    assert iou(found, np.any(picture.matching(text), axis=0)) > 0.8


def test_run(client: SegmindClient, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call of the vendor's documentation."""
    monkeypatch.setattr(segmind, "_default_client", client)
    result = segmind.run(
        "sam3-image",
        image=picture.sent["value"],
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
    assert result["status"] == "COMPLETED"
    assert result["metrics"]["inference_time"] > 0
    assert_shows(result["output"], picture, "red circle")


def test_submit_and_wait(client: SegmindClient, picture: Picture) -> None:
    job = client.submit_async(
        "sam-v2-image", image=picture.sent["value"], prompt="blue square", overlay_mask=False
    )
    assert job.request_id
    result = job.wait(timeout=TIMEOUT, interval=0.1)
    assert_shows(result["output"], picture, "blue square")
    assert job.status()["status"] == "COMPLETED"
    assert job.result() == result


def test_a_roboflow_task_through_the_same_client(client: SegmindClient, picture: Picture) -> None:
    job = client.submit_async(
        "sam3/concept_segment", image=picture.sent, prompts=[{"text": "red circle"}]
    )
    result = job.wait(timeout=TIMEOUT, interval=0.1)
    assert len(result["output"]["prompt_results"][0]["predictions"]) == 2


def test_a_failure_is_reported(client: SegmindClient) -> None:
    job = client.submit_async("sam3-image", image="AAAA", text_prompt="circle")
    with pytest.raises(InferenceFailed) as caught:
        job.wait(timeout=TIMEOUT, interval=0.1)
    assert caught.value.detail is not None
    assert caught.value.detail.startswith("Could not load input image")
    assert caught.value.status_body["request_id"] == job.request_id


def test_errors_of_a_submission_are_reported(client: SegmindClient, server: Running) -> None:
    with pytest.raises(SegmindError) as caught:
        client.submit_async("sam3-image", image="AAAA", threshold=7)
    assert caught.value.status == 400
    assert caught.value.detail is not None
    assert caught.value.detail.startswith("threshold: ")
    with connected(server, "wrong") as other, pytest.raises(SegmindError) as caught:
        other.submit_async("sam3-image", image="AAAA")
    assert caught.value.status == 401
    assert caught.value.detail is not None
    assert "The API key is wrong" in caught.value.detail


def test_unknown_jobs_and_jobs_of_other_tenants(
    client: SegmindClient, server: Running, picture: Picture
) -> None:
    job = client.submit_async("sam3-image", image=picture.sent["value"], text_prompt="circle")
    url = f"{server.url}/v2/requests/{'0' * 32}"
    unknown = AsyncJob("0" * 32, f"{url}/status", url, {}, client)
    with connected(server, BOB) as other:
        others = AsyncJob(job.request_id, job.status_url, job.response_url, {}, other)
        for each in (unknown, others):
            with pytest.raises(SegmindError) as caught:
                each.wait(timeout=5)
            assert caught.value.status == 404
            assert caught.value.detail == (
                f"Request {each.request_id} not found: it is unknown or has expired."
            )
    job.wait(timeout=TIMEOUT, interval=0.1)  # so that it does not delay the next tests


def test_a_wait_times_out_and_a_full_queue_is_reported() -> None:
    with (
        serving(ready=False, job_workers=0, job_queue_per_key=1) as server,
        connected(server) as client,
    ):
        job = client.submit_async("sam3-image", image="AAAA")
        with pytest.raises(InferenceTimeout):
            job.wait(timeout=0.2, interval=0.1)
        with pytest.raises(SegmindError) as caught:
            client.submit_async("sam3-image", image="AAAA")
        assert caught.value.status == 429


def test_a_result_that_has_expired(picture: Picture) -> None:
    with serving(job_retention=1) as server, connected(server) as client:
        job = client.submit_async("sam3-image", image=picture.sent["value"], text_prompt="circle")
        # A busy machine may never see it while it is there.
        until(lambda: server.http.get(job.status_url, headers=KEY).status_code == 404, TIMEOUT)
        until(lambda: server.metric("inference_jobs_total", outcome="completed") == 1, TIMEOUT)
        with pytest.raises(SegmindError) as caught:
            job.wait(timeout=5)
        assert caught.value.status == 404
