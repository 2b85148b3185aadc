"""PVS by SAM 3's visual head: the results of `Sam3TrackerModel`, at its published size."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    Sam3ImageProcessor,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3TrackerProcessor,
)

from inference_server.engines.base import Candidates, Embedding, Prepared, VisualPrompt, queries
from inference_server.engines.sam3.trunk import TrunkImage
from inference_server.engines.sam3.visual_engine import Sam3VisualEngine
from inference_server.engines.sam3.visual_head import NECK, TRACKER, VisualHead
from inference_server.masks import upsample_masks
from tests.engines.conftest import CPU

SIZE = (600, 900)
"""(height, width) of the image that the prompts are about."""

POINTS = np.array([[300, 200], [500, 410]], np.float32)
LABELS = np.array([1, 0], np.int64)
BOX = np.array([120, 90, 700, 500], np.float32)
NO_POINTS, NO_LABELS = np.empty((0, 2), np.float32), np.empty(0, np.int64)
MASK = np.random.default_rng(0).normal(0, 3, (288, 288)).astype(np.float32)

PROMPTS = {
    "click": VisualPrompt(POINTS[:1], LABELS[:1]),
    "points": VisualPrompt(POINTS, LABELS),
    "box": VisualPrompt(NO_POINTS, NO_LABELS, BOX),
    "box and points": VisualPrompt(POINTS, LABELS, BOX),
    "mask input and click": VisualPrompt(POINTS[:1], LABELS[:1], mask_input=MASK),
    "mask input and box": VisualPrompt(NO_POINTS, NO_LABELS, BOX, MASK),
}


def random_tracker() -> Any:
    """A tracker with random weights, and an image encoder of one layer.

    Neck, prompt encoder and mask decoder have the published sizes. The neck has the three levels
    that are read, because with a fourth `Sam3TrackerModel` loses the "no memory" embedding.
    """
    torch.manual_seed(3)
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 1024,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 16,
    }
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": backbone,
        "scale_factors": [4.0, 2.0, 1.0],
        "backbone_feature_sizes": [[288, 288], [144, 144], [72, 72]],
    }
    model: Any = Sam3TrackerModel(Sam3TrackerConfig(vision_config=vision))
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 or "embed" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.float().eval().requires_grad_(False)


def published(model: Any) -> dict[str, Tensor]:
    """The tracker's tensors as the published checkpoint names them, with some of its others."""
    tensors = {
        f"{TRACKER}memory_attention.layers.0.linear1.weight": torch.zeros(1),
        f"{TRACKER}no_object_pointer": torch.zeros(1, 256),
        f"{NECK}fpn_layers.3.proj1.weight": torch.zeros(1),
    }
    for name, tensor in model.state_dict().items():
        if name.startswith("vision_encoder.neck."):
            tensors[name.replace("vision_encoder.neck.", NECK)] = tensor
        elif not name.startswith("vision_encoder."):
            tensors[TRACKER + name] = tensor
    return tensors


@pytest.fixture(scope="module")
def tracker() -> Any:
    return random_tracker()


@pytest.fixture(scope="module")
def head(tracker: Any) -> VisualHead:
    made = VisualHead(tracker.config, tracker.config.vision_config)
    made.load(published(tracker))
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def encoded(tracker: Any) -> tuple[Tensor, list[Tensor]]:
    """An image's output of the image encoder, and its features by the reference."""
    hidden: list[Tensor] = []
    backbone = tracker.vision_encoder.backbone
    hook = backbone.register_forward_hook(lambda *call: hidden.append(call[2].last_hidden_state))
    with torch.inference_mode():
        features = tracker.get_image_embeddings(torch.randn(1, 3, 1008, 1008))
    hook.remove()
    return hidden[0], features


@pytest.fixture(scope="module")
def engine(head: VisualHead) -> Sam3VisualEngine:
    return Sam3VisualEngine(head, "random", CPU)


@pytest.fixture(scope="module")
def embedding(engine: Sam3VisualEngine, encoded: tuple[Tensor, list[Tensor]]) -> Embedding:
    (made,) = engine.encode([Prepared(TrunkImage(encoded[0]), SIZE)])
    return made


def reference(model: Any, features: list[Tensor], prompt: VisualPrompt, *, multimask: bool) -> Any:
    """The model's output for a prompt whose coordinates its own processor scales."""
    normalize: Any = Sam3TrackerProcessor._normalize_coordinates
    scaled = partial(normalize, None, 1008)
    points = labels = boxes = masks = None
    if len(prompt.points):
        points = scaled(torch.from_numpy(prompt.points), SIZE)[None, None]
        labels = torch.from_numpy(prompt.labels)[None, None]
    if prompt.box is not None:
        boxes = scaled(torch.from_numpy(prompt.box), SIZE, is_bounding_box=True)[None]
    if prompt.mask_input is not None:
        masks = torch.from_numpy(prompt.mask_input)[None, None]
    with torch.inference_mode():
        return model(
            image_embeddings=features,
            input_points=points,
            input_labels=labels,
            input_boxes=boxes,
            input_masks=masks,
            multimask_output=multimask,
        )


def assert_equal(found: Candidates, expected: Any) -> None:
    planes, scores = expected.pred_masks[0, 0].numpy(), expected.iou_scores[0, 0].numpy()
    assert found.planes.shape == planes.shape
    assert np.abs(found.planes - planes).max() <= 1e-4 * np.abs(planes).max()
    assert np.abs(found.scores - scores).max() <= 1e-5
    assert found.threshold == 0
    assert found.logits is not None
    assert np.array_equal(found.logits, found.planes.clip(-32, 32))


@pytest.mark.parametrize("multimask", [True, False], ids=["three masks", "one mask"])
def test_results_are_those_of_the_tracker_model(
    tracker: Any,
    engine: Sam3VisualEngine,
    embedding: Embedding,
    encoded: tuple[Tensor, list[Tensor]],
    multimask: bool,
) -> None:
    asked = queries(embedding, PROMPTS.values(), multimask=multimask)
    for prompt, found in zip(PROMPTS.values(), engine.decode(asked), strict=True):
        assert_equal(found, reference(tracker, encoded[1], prompt, multimask=multimask))


def test_masks_are_those_of_the_trackers_processor(
    tracker: Any,
    engine: Sam3VisualEngine,
    embedding: Embedding,
    encoded: tuple[Tensor, list[Tensor]],
) -> None:
    """It enlarges logits and compares them with 0, and so does Meta's `SAM2Transforms`."""
    processor: Any = Sam3ImageProcessor()
    for prompt in (PROMPTS["click"], PROMPTS["box"]):
        (found,) = engine.decode(queries(embedding, [prompt]))
        expected = reference(tracker, encoded[1], prompt, multimask=True)
        (planes,) = processor.post_process_masks(expected.pred_masks, [SIZE])
        masks = upsample_masks(found.planes, SIZE, found.threshold)
        for mask, plane in zip(masks, planes[0].numpy(), strict=True):
            assert 0 < mask.area < plane.size
            assert np.count_nonzero(mask.to_plane() != plane) <= 0.001 * plane.size


def test_an_image_takes_a_fifth_of_what_concepts_keep(embedding: Embedding) -> None:
    """At SAM 3's size, concepts keep five planes of features at 72, 72, 144 and 288 pixels."""
    concept = 4 * 256 * (2 * 72**2 + 144**2 + 288**2)
    assert embedding.nbytes <= 0.2 * concept


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tracker: Any) -> None:
    tensors = published(tracker)
    del tensors[f"{TRACKER}mask_decoder.transformer.layers.1.mlp.proj_out.weight"]
    made = VisualHead(tracker.config, tracker.config.vision_config)
    with pytest.raises(RuntimeError, match=r"transformer\.layers\.1\.mlp\.layers\.1\.weight"):
        made.load(tensors)
