"""A few steps of the training of the demo SAM 2."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from inference_server.demo import WEIGHTS
from training.pool import SceneBatch, ScenePool, draw
from training.scenes import plain_scene
from training.visual import SHARPNESS, VisualTraining, export, sharpened
from training.visual_loss import Answer
from training.visual_model import IMAGE_SIZE, visual_config
from training.visual_prompts import correction, first_prompts

SIDE = IMAGE_SIZE // 2


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ScenePool:
    folder = tmp_path_factory.mktemp("scenes")
    draw(folder, IMAGE_SIZE, 6, seed=3)
    return ScenePool(folder)


@pytest.fixture
def batch(pool: ScenePool) -> SceneBatch:
    return pool.sample(np.random.default_rng(0), 2)


def test_learns_a_fixed_batch(batch: SceneBatch, tmp_path: Path) -> None:
    training = VisualTraining(tmp_path, "cpu", seed=0)
    seen = []
    for _ in range(8):
        loss, report = training.losses(batch, SIDE, corrected=True)
        assert torch.isfinite(loss)
        training.update(loss, rate=0.3)
        seen.append(report["loss"])
    assert np.mean(seen[-2:]) < 0.7 * np.mean(seen[:2])


def test_an_interrupted_run_is_resumed(batch: SceneBatch, tmp_path: Path) -> None:
    first = VisualTraining(tmp_path, "cpu", seed=0)
    for _ in range(2):
        first.update(first.losses(batch, SIDE, corrected=False)[0], rate=0.1)
    first.spent = 12.5
    first.save()
    second = VisualTraining(tmp_path, "cpu", seed=1)
    assert (second.step, second.spent) == (2, 12.5)
    assert second.rng.random() == first.rng.random()
    for training in (first, second):
        torch.manual_seed(0)
        training.update(training.losses(batch, SIDE, corrected=False)[0], rate=0.1)
    for before, after in zip(first.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(before, after)


def test_a_run_reports_and_saves(
    pool: ScenePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.promptable._REPORT_EVERY", 1)
    training = VisualTraining(tmp_path, "cpu", seed=0)
    training.run(pool, minutes=0.01)
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve] == list(range(1, training.step + 1))
    assert VisualTraining(tmp_path, "cpu", seed=0).step == training.step


def test_export_loads_into_the_unmodified_model(tmp_path: Path) -> None:
    training = VisualTraining(tmp_path / "run", "cpu", seed=0)
    training.save()
    export(tmp_path / "run", tmp_path)
    assert (tmp_path / "model.pt").stat().st_size <= 4.5e6
    model = instantiate(OmegaConf.load(tmp_path / "config.yaml").model, _recursive_=True)
    state = torch.load(tmp_path / "model.pt", weights_only=True)["model"]
    model.load_state_dict(state, strict=True)
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    for name, tensor in sharpened(training.model.state_dict(), SHARPNESS).items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_sharpened_masks_are_the_same_masks(batch: SceneBatch, tmp_path: Path) -> None:
    training = VisualTraining(tmp_path, "cpu", seed=0)
    training._set_side(SIDE)
    images = F.avg_pool2d(batch.images.float(), 2) / 255
    prompts, _ = first_prompts(batch, np.random.default_rng(0))
    given = 3 * torch.randn(len(prompts.target), SIDE // 4, SIDE // 4)

    def answered(masks: Tensor) -> Answer:
        torch.manual_seed(0)  # selects the prompts that ignore their mask input
        with torch.no_grad():
            return training._decode(training._encode(images)[1], prompts, masks)

    before = answered(given)
    training.model.load_state_dict(sharpened(training.model.state_dict(), 4.0))
    after = answered(4.0 * given)
    torch.testing.assert_close(after.logits, 4 * before.logits)
    torch.testing.assert_close(after.quality, before.quality)


def test_config_keeps_the_published_image_path() -> None:
    model = visual_config().model
    assert model.image_size == IMAGE_SIZE
    assert model.use_high_res_features_in_sam
    assert model.directly_add_no_mem_embed
    assert model.iou_prediction_use_sigmoid
    assert model.pred_obj_scores


def test_first_prompts_lie_on_their_objects(batch: SceneBatch) -> None:
    clicks, boxes = first_prompts(batch, np.random.default_rng(0))
    place = (clicks.points[:, 0] * IMAGE_SIZE).long()
    on = batch.ids[clicks.image, place[:, 1], place[:, 0]]
    assert torch.equal(on, clicks.target)
    assert boxes.labels.tolist() == [[2, 3]] * len(boxes.target)
    meant = batch.boxes[boxes.image, boxes.target - 1]
    assert (boxes.points.flatten(1) - meant).abs().max() < 0.15


@pytest.mark.parametrize(("missing", "label"), [(True, 1), (False, 0)])
def test_correction_clicks_on_the_larger_error(missing: bool, label: int) -> None:
    truth, logits = torch.zeros(1, 16, 16), -torch.ones(1, 16, 16)
    wrong = truth if missing else logits
    wrong[0, 4:8, 10:14] = 1.0
    points, labels = correction(logits, truth, np.random.default_rng(0))
    x, y = (points[0, 0] * 16).tolist()
    assert labels.tolist() == [[label]]
    assert 10 <= x < 14
    assert 4 <= y < 8


def test_plain_scenes_have_plain_objects(tmp_path: Path) -> None:
    draw(tmp_path, IMAGE_SIZE, 6, 1, plain_scene)
    batch = ScenePool(tmp_path).sample(np.random.default_rng(0), 4)
    for image, ids, shapes in zip(batch.images, batch.ids, batch.shape, strict=True):
        assert (shapes >= 0).any()
        for item in np.flatnonzero(shapes.numpy() >= 0) + 1:
            inner = image.float()[:, ids == item]
            assert inner.std(dim=1).max() < 60
            around = image.float()[:, ids == 0].median(dim=1).values
            assert (inner.median(dim=1).values - around).norm() > 25


def test_a_run_improves_exported_weights(tmp_path: Path) -> None:
    training = VisualTraining(tmp_path / "run", "cpu", seed=0)
    training.start_from(WEIGHTS / "sam2" / "model.pt")
    assert training.rate < 1
    assert training.half_size_share == 0
    training.save()
    export(tmp_path / "run", tmp_path)
    before = torch.load(WEIGHTS / "sam2" / "model.pt", weights_only=True)["model"]
    after = torch.load(tmp_path / "model.pt", weights_only=True)["model"]
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
