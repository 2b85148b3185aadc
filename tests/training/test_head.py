"""A few steps of the training of the demo SAM 3's visual head."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Sam3VideoModel

from inference_server.demo import WEIGHTS
from inference_server.engines.device import choose_compute
from inference_server.engines.load_weights import load_sam3, load_sam3_head
from training.concept import ConceptTraining
from training.concept import export as export_concept
from training.concept_model import IMAGE_SIZE
from training.head import HEAD_SHARPNESS, HeadTraining, export, read_head
from training.pool import SceneBatch, ScenePool, draw
from training.visual import sharpened

CPU = choose_compute("cpu", "float32")


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> SceneBatch:
    folder = tmp_path_factory.mktemp("scenes")
    draw(folder, 2 * IMAGE_SIZE, 4, seed=3)
    return ScenePool(folder).sample(np.random.default_rng(0), 2)


@pytest.fixture
def training(tmp_path: Path) -> HeadTraining:
    return HeadTraining(tmp_path / "run", "cpu", 0, WEIGHTS / "sam3")


@pytest.fixture
def exported(training: HeadTraining, tmp_path: Path) -> Path:
    """A directory with the head of a run that has made no step."""
    training.save()
    target = tmp_path / "sam3"
    shutil.copytree(WEIGHTS / "sam3", target)
    export(tmp_path / "run", target)
    return target


def test_learns_a_fixed_batch_on_a_frozen_encoder(
    training: HeadTraining, batch: SceneBatch
) -> None:
    before = {name: value.clone() for name, value in training._trunk.state_dict().items()}
    seen = []
    for _ in range(8):
        loss, report = training.losses(batch, IMAGE_SIZE, corrected=True)
        assert torch.isfinite(loss)
        training.update(loss, rate=0.3)
        seen.append(report["loss"])
    assert np.mean(seen[-2:]) < 0.7 * np.mean(seen[:2])
    for name, value in training._trunk.state_dict().items():
        assert torch.equal(value, before[name])


def test_export_is_the_published_layout(training: HeadTraining, exported: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    assert config["model_type"] == "sam3_video"
    head = load_sam3_head(str(exported), "test", CPU)
    assert head is not None
    for name, tensor in sharpened(training.average.state_dict(), HEAD_SHARPNESS).items():
        torch.testing.assert_close(head.state_dict()[name], tensor, rtol=2e-3, atol=2e-3)
    kept, _ = load_sam3(str(exported), "test", CPU)
    original, _ = load_sam3(str(WEIGHTS / "sam3"), "test", CPU)
    for name, tensor in original.state_dict().items():
        assert torch.equal(kept.state_dict()[name], tensor), name
    loaded: Any = Sam3VideoModel.from_pretrained(exported, output_loading_info=True)
    _, report = loaded
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]


def test_an_export_of_the_concept_side_keeps_the_head(exported: Path, tmp_path: Path) -> None:
    before = read_head(exported)
    concept = ConceptTraining(tmp_path / "concept", "cpu", seed=0)
    torch.save({"average": concept.average.state_dict()}, tmp_path / "concept" / "state.pt")
    export_concept(tmp_path / "concept", exported)
    after = read_head(exported)
    assert before is not None
    assert after is not None
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    model, _ = load_sam3(str(exported), "test", CPU)
    name = "detr_decoder.query_embed.weight"
    expected = concept.model.state_dict()[name]
    torch.testing.assert_close(model.state_dict()[name], expected, rtol=2e-3, atol=2e-3)
