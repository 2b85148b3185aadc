"""The demo SAM 1: what it adopts from the demo SAM 3, and a few steps of its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import SamImageProcessor, SamModel

from inference_server.demo import WEIGHTS
from training.pool import SceneBatch, ScenePool, draw
from training.sam1 import Sam1Training, export
from training.sam1_model import IMAGE_SIZE, MEAN, STD, adopt_trunk
from training.visual import SHARPNESS


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ScenePool:
    folder = tmp_path_factory.mktemp("scenes")
    draw(folder, IMAGE_SIZE, 6, seed=3)
    return ScenePool(folder)


@pytest.fixture
def batch(pool: ScenePool) -> SceneBatch:
    return pool.sample(np.random.default_rng(0), 2)


@pytest.fixture
def training(tmp_path: Path) -> Sam1Training:
    return Sam1Training(tmp_path / "run", "cpu", 0, WEIGHTS / "sam3")


def normalized(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std


@torch.no_grad()
def test_the_adopted_encoder_computes_almost_what_that_of_sam3_does(
    training: Sam1Training, batch: SceneBatch
) -> None:
    images = batch.images.float() / 255
    adopt_trunk(training.model, training._teacher, images)
    small = torch.nn.functional.avg_pool2d(images, 2)
    expected = training._teacher(2 * small - 1).last_hidden_state
    found = training.model.tokens(normalized(images)).flatten(1, 2)
    assert (found - expected).square().mean() < 0.4 * expected.var()


def test_learns_from_the_teacher_then_a_fixed_batch(
    training: Sam1Training, pool: ScenePool, batch: SceneBatch
) -> None:
    training.learn_from_teacher(pool, steps=2)
    assert training.step == 0
    seen = []
    for _ in range(6):
        loss, report = training.losses(batch, IMAGE_SIZE, corrected=True)
        assert torch.isfinite(loss)
        training.update(loss, rate=0.3)
        seen.append(report["loss"])
    assert np.mean(seen[-2:]) < np.mean(seen[:2])


def test_padded_scenes_keep_their_objects(training: Sam1Training, batch: SceneBatch) -> None:
    for _ in range(6):
        padded = training._fitted(batch)
        for image in range(2):
            for item in range(8):
                ys, xs = torch.nonzero(padded.ids[image] == item + 1, as_tuple=True)
                if not len(ys):
                    continue
                box = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / IMAGE_SIZE
                off = (box - padded.boxes[image, item]).abs().max()
                assert off <= 2 / IMAGE_SIZE


def test_export_loads_into_the_unmodified_model(
    training: Sam1Training, batch: SceneBatch, tmp_path: Path
) -> None:
    training.save()
    export(tmp_path / "run", tmp_path / "sam1")
    assert (tmp_path / "sam1" / "model.safetensors").stat().st_size <= 5e6
    loaded: Any = SamModel.from_pretrained(
        tmp_path / "sam1", dtype=torch.float32, output_loading_info=True
    )
    model, report = loaded
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    processor = SamImageProcessor.from_pretrained(tmp_path / "sam1")
    assert processor.size["longest_edge"] == IMAGE_SIZE
    images = batch.images.float() / 255
    click = torch.tensor([[100.0, 60.0]])
    with torch.no_grad():
        found = model(
            pixel_values=normalized(images[:1]),
            input_points=click[None, None],
            input_labels=torch.ones(1, 1, 1, dtype=torch.long),
        )
        _, features = training._encode(images[:1])
        encoder = training._prompt_encoder
        sparse, dense = encoder((click[None], torch.ones(1, 1)), boxes=None, masks=None)
        logits, quality, *_ = training._mask_decoder.predict_masks(
            features[0], encoder.get_dense_pe(), sparse, dense, repeat_image=False
        )
    scale = logits.abs().max().item()
    difference = (found.pred_masks[0, 0] - SHARPNESS * logits[0, 1:]).abs().max()
    assert difference < 0.02 * SHARPNESS * scale
    assert torch.allclose(found.iou_scores[0, 0], quality[0, 1:], atol=0.02)
