"""Requests of `inference-sdk`, Roboflow's client, are parsed as intended.

The requests are intercepted before they are sent; the end-to-end tests send them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from inference_sdk.http.client import InferenceHTTPClient
from inference_sdk.http.entities import InferenceConfiguration

from schemas.roboflow import (
    EmbeddingRequest,
    Sam2Prompt,
    Sam2SegmentationRequest,
    Sam3SegmentationRequest,
)
from tests.schemas.checks import mistakes

IMAGE = np.zeros((4, 6, 3), np.uint8)
PROMPT = {
    "box": {"x": 3, "y": 2, "width": 4, "height": 2},
    "points": [{"x": 1, "y": 1, "positive": True}],
}


class Sent:
    """A client with the bodies of its intercepted requests."""

    def __init__(self, api_key: str | None = "s3cret") -> None:
        self.client: Any = InferenceHTTPClient("http://127.0.0.1:9001", api_key)
        self.client.configure(InferenceConfiguration(api_key_transport="legacy"))
        self.bodies: list[dict[str, Any]] = []

    def keep(self, requests_data: list[Any], **_: Any) -> list[Any]:
        self.bodies.extend(request.payload for request in requests_data)
        return []


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    sent = Sent()
    monkeypatch.setattr("inference_sdk.http.client.execute_requests_packages", sent.keep)
    return sent


def test_concept_segment(sent: Sent) -> None:
    prompts = [
        {"type": "text", "text": "dog", "output_prob_thresh": None, "boxes": None},
        {"type": "visual", "boxes": [{"x": 0, "y": 0, "width": 2, "height": 2}], "box_labels": [1]},
    ]
    sent.client.sam3_concept_segment(IMAGE, prompts, output_prob_thresh=0, nms_iou_threshold=0.9)
    request = Sam3SegmentationRequest.model_validate(sent.bodies[0])
    assert request.image is not None
    assert request.image.type == "base64"
    assert request.api_key == "s3cret"
    assert [prompt.kind for prompt in request.prompts] == ["text", "visual"]
    assert (request.thresholds, request.nms_iou_threshold) == ([0, 0], 0.9)


def test_visual_segment(sent: Sent) -> None:
    sent.client.sam3_visual_segment(IMAGE, [PROMPT], mask_input_format="rle")
    request = Sam2SegmentationRequest.model_validate(sent.bodies[0])
    assert request.prompts == [Sam2Prompt.model_validate(PROMPT)]
    assert (request.mask_format, request.sam2_version_id) == ("rle", "hiera_large")


def test_visual_segment_without_prompts(sent: Sent) -> None:
    sent.client.sam3_visual_segment(IMAGE)
    assert Sam2SegmentationRequest.model_validate(sent.bodies[0]).prompts == [Sam2Prompt()]


def test_segment_image(sent: Sent) -> None:
    sent.client.sam2_segment_image(IMAGE, [PROMPT], multimask_output=False)
    request = Sam2SegmentationRequest.model_validate(sent.bodies[0])
    assert request.prompts == [Sam2Prompt.model_validate(PROMPT)]
    assert (request.sam2_version_id, request.multimask_output) == ("hiera_tiny", False)


@pytest.mark.parametrize("image_id", [None, "dog-1"])
def test_embed_image(sent: Sent, image_id: str | None) -> None:
    sent.client.sam3_embed_image(IMAGE, image_id=image_id)
    assert EmbeddingRequest.model_validate(sent.bodies[0]).image_id == image_id


def test_a_client_without_a_key_sends_null(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent(api_key=None)
    monkeypatch.setattr("inference_sdk.http.client.execute_requests_packages", sent.keep)
    sent.client.sam3_embed_image(IMAGE)
    assert sent.bodies[0]["api_key"] is None
    assert EmbeddingRequest.model_validate(sent.bodies[0]).api_key is None


def test_a_batch_of_images_is_rejected(sent: Sent) -> None:
    sent.client.configure(
        InferenceConfiguration(api_key_transport="legacy", max_batch_size=2)
    ).sam3_embed_image([IMAGE, IMAGE])
    assert mistakes(EmbeddingRequest, sent.bodies[0]) == [("image", "one_image")]
