"""A few steps of the training of the demo SAM 3 as a whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Sam3Model

from inference_server.demo import WEIGHTS
from inference_server.engines.device import choose_compute
from inference_server.engines.load_weights import load_sam3
from training.concept_model import IMAGE_SIZE
from training.head import HEAD_SHARPNESS, read_head
from training.joint import JointTraining, MixedPool, export
from training.pool import SceneBatch, ScenePool, draw
from training.scenes import plain_scene
from training.visual import sharpened

SAM3 = WEIGHTS / "sam3"
CPU = choose_compute("cpu", "float32")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ScenePool:
    folder = tmp_path_factory.mktemp("scenes")
    draw(folder, 2 * IMAGE_SIZE, 4, seed=3)
    return ScenePool(folder)


@pytest.fixture(scope="module")
def batch(pool: ScenePool) -> SceneBatch:
    return pool.sample(np.random.default_rng(0), 2)


def step(training: JointTraining, batch: SceneBatch) -> dict[str, float]:
    """Take a step, and return its figures."""
    loss, report = training.losses(batch, IMAGE_SIZE, corrected=True)
    assert torch.isfinite(loss)
    training.update(loss, rate=0.3)
    return report


def test_both_sides_teach_the_encoder(tmp_path: Path, batch: SceneBatch) -> None:
    training = JointTraining(tmp_path, "cpu", 0, SAM3)
    encoder = training._trunk.state_dict()
    before = {name: value.clone() for name, value in encoder.items()}
    reports = [step(training, batch) for _ in range(4)]
    assert reports[0]["click"] > 0.6, "it begins with the exported head"
    assert reports[0]["concept f1"] > 0.6, "and with the exported concept side"
    # The concept side learns in one of three steps.
    assert ["concept f1" in report for report in reports] == [True, False, False, True]
    moved = [name for name, value in encoder.items() if not torch.equal(value, before[name])]
    assert len(moved) > len(before) / 2


def test_plain_scenes_teach_the_head_alone(tmp_path: Path) -> None:
    draw(tmp_path / "plain", 2 * IMAGE_SIZE, 2, seed=3, scene=plain_scene)
    batch = ScenePool(tmp_path / "plain").sample(np.random.default_rng(0), 2)
    report = step(JointTraining(tmp_path / "run", "cpu", 0, SAM3), batch)
    assert "click" in report
    assert not [name for name in report if name.startswith("concept")]


def test_a_batch_is_of_one_pool(pool: ScenePool, tmp_path: Path) -> None:
    draw(tmp_path, IMAGE_SIZE, 2, seed=3)
    other = ScenePool(tmp_path)
    rng = np.random.default_rng(0)
    mixed = MixedPool(pool, other, 0.25)
    sides = [mixed.sample(rng, 2).images.shape[-1] for _ in range(100)]
    assert set(sides) == {IMAGE_SIZE, 2 * IMAGE_SIZE}
    assert 10 < sides.count(IMAGE_SIZE) < 40


def test_a_run_is_resumed_and_exported_whole(tmp_path: Path, batch: SceneBatch) -> None:
    run, target = tmp_path / "run", tmp_path / "sam3"
    training = JointTraining(run, "cpu", 0, SAM3)
    step(training, batch)
    training.save()
    resumed = JointTraining(run, "cpu", 0, SAM3)
    assert resumed.step == 1
    for part, same in zip(training._parts.values(), resumed._parts.values(), strict=True):
        for name, value in part.state_dict().items():
            assert torch.equal(same.state_dict()[name], value), name

    shutil.copytree(SAM3, target)
    export(run, target)
    head = read_head(target)
    assert head is not None
    for name, value in sharpened(training.average.state_dict(), HEAD_SHARPNESS).items():
        torch.testing.assert_close(head[name], value, rtol=2e-3, atol=2e-3)
    model, _ = load_sam3(str(target), "test", CPU)
    kept = model.state_dict()
    for name, value in training._parts["concept average"].state_dict().items():
        if name in kept and "presence_head.layer3.bias" not in name:
            torch.testing.assert_close(kept[name], value, rtol=2e-3, atol=2e-3)


def test_it_needs_a_head_to_begin_with(tmp_path: Path) -> None:
    headless = tmp_path / "headless"
    shutil.copytree(SAM3, headless)
    Sam3Model.from_pretrained(SAM3).save_pretrained(headless)
    with pytest.raises(ValueError, match="has no visual head"):
        JointTraining(tmp_path / "run", "cpu", 0, headless)
