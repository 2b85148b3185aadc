"""A few steps of the training of the demo SAM 3."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from inference_server.demo import WEIGHTS
from inference_server.demo.shapes import COLORS, SHAPES
from inference_server.engines.device import choose_compute
from inference_server.engines.load_weights import load_sam3
from training.concept import ConceptTraining, export
from training.concept_loss import pairwise_giou
from training.concept_model import HIDDEN, IMAGE_SIZE, TOKENS
from training.dense import DenseHeads, DenseTargets
from training.optim import Muon, MuonWithAdamW, schedule
from training.pool import ScenePool, draw
from training.scenes import crowded_scene


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ScenePool:
    folder = tmp_path_factory.mktemp("pool")
    draw(folder, IMAGE_SIZE, 12, seed=3)
    return ScenePool(folder)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> ScenePool:
    folder = tmp_path_factory.mktemp("crowded")
    draw(folder, IMAGE_SIZE, 12, 3, crowded_scene, most=24)
    return ScenePool(folder)


def test_pool_is_reproducible_and_resumable(tmp_path: Path, pool: ScenePool) -> None:
    draw(tmp_path, IMAGE_SIZE, 12, seed=3)
    (tmp_path / "drawn").write_text("7")  # as after an interruption
    draw(tmp_path, IMAGE_SIZE, 12, seed=3)
    again = ScenePool(tmp_path).sample(np.random.default_rng(0), 6)
    first = pool.sample(np.random.default_rng(0), 6)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.ids, again.ids)


def test_a_pool_can_be_read_whenever_it_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path, IMAGE_SIZE, 2, seed=3)
    pool = ScenePool(tmp_path)
    write, seen = Path.write_text, []

    def slowly(path: Path, text: str) -> int:
        path.open("w").close()  # as `write_text` begins
        seen.append(len(pool))
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", slowly)
    write(tmp_path / "drawn", "1")
    draw(tmp_path, IMAGE_SIZE, 2, seed=3)
    assert seen == [1]
    assert len(pool) == 2


def test_boxes_follow_flips(pool: ScenePool) -> None:
    rng = np.random.default_rng(1)
    for _ in range(8):
        batch = pool.sample(rng, 4)
        for image in range(4):
            for item in range(8):
                if batch.shape[image, item] < 0:
                    continue
                ys, xs = torch.nonzero(batch.ids[image] == item + 1, as_tuple=True)
                box = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / IMAGE_SIZE
                torch.testing.assert_close(box, batch.boxes[image, item], atol=1e-5, rtol=0)


def test_shrunk_scenes_are_the_same_scenes(pool: ScenePool) -> None:
    batch = pool.sample(np.random.default_rng(0), 3)
    small = batch.shrunk(IMAGE_SIZE // 2)
    assert small.images.shape[-1] == small.ids.shape[-1] == IMAGE_SIZE // 2
    assert torch.equal(small.ids, batch.ids[:, 1::2, 1::2])
    off = small.images.float().mean() - batch.images.float().mean()
    assert abs(off) < 1
    assert batch.shrunk(IMAGE_SIZE) is batch


def test_crowded_scenes_have_many_objects_of_few_kinds_some_cut(crowded: ScenePool) -> None:
    batch = crowded.sample(np.random.default_rng(0), 12)
    assert batch.shape.shape == batch.color.shape == (12, 24)
    there = batch.shape >= 0
    assert there.sum(dim=1).max() > 10
    kinds = [
        len(set(zip(shapes[is_there].tolist(), colors[is_there].tolist(), strict=True)))
        for shapes, colors, is_there in zip(batch.shape, batch.color, there, strict=True)
    ]
    assert np.median(there.sum(dim=1)) > 2 * np.median(kinds)
    edges = (batch.boxes[there] < 1e-6) | (batch.boxes[there] > 1 - 1e-6)
    assert 0.05 < edges.any(dim=1).float().mean() < 0.6
    targets = DenseTargets.of(batch, TOKENS)
    assert targets.owner.max() > 8


def test_an_improved_model_keeps_its_backbone(
    tmp_path: Path, pool: ScenePool, crowded: ScenePool
) -> None:
    training = ConceptTraining(tmp_path, "cpu", seed=0)
    training.start_from(WEIGHTS / "sam3")
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    training.run("whole", 0.03, pool, compile_model=False, crowded=crowded)
    changed = {
        name.split(".")[0] + "." + name.split(".")[1]
        for name, value in training.model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert "vision_encoder.backbone" not in changed
    assert {"vision_encoder.neck", "geometry_encoder.label_embed"} <= changed


def test_dense_targets_name_the_object_of_a_token(pool: ScenePool) -> None:
    batch = pool.sample(np.random.default_rng(0), 12)
    targets = DenseTargets.of(batch, TOKENS)
    assert targets.shape.shape == (12, TOKENS**2)
    assert targets.shape.max() <= len(SHAPES)
    assert targets.color.max() <= len(COLORS)
    patch = IMAGE_SIZE // TOKENS
    for image, token in torch.nonzero(targets.owner > 0)[:50].tolist():
        y, x = divmod(token, TOKENS)
        tile = batch.ids[image, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
        owner = int(targets.owner[image, token])
        assert (tile == owner).float().mean() > 0.3
        assert targets.shape[image, token] == batch.shape[image, owner - 1] + 1


def test_giou_agrees_with_torchvision() -> None:
    from torchvision.ops import generalized_box_iou

    corners = torch.rand(2, 9, 2, 2, generator=torch.Generator().manual_seed(0))
    boxes = torch.cat([corners.amin(dim=2), corners.amax(dim=2)], dim=-1)
    expected = generalized_box_iou(boxes[0], boxes[1])
    torch.testing.assert_close(pairwise_giou(boxes[0], boxes[1]), expected, atol=1e-3, rtol=1e-3)


def test_muon_equals_that_of_torch() -> None:
    torch.manual_seed(0)
    mine = torch.nn.Parameter(torch.randn(24, 60))
    theirs = torch.nn.Parameter(mine.detach().clone())
    ours = Muon([mine], lr=0.01)
    reference = torch.optim.Muon(
        [theirs], lr=0.01, weight_decay=0.01, momentum=0.95, adjust_lr_fn="original"
    )
    for _ in range(3):
        gradient = torch.randn(24, 60)
        mine.grad, theirs.grad = gradient.clone(), gradient.clone()
        ours.step()
        reference.step()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=0)  # torch's computes in bfloat16


def test_schedule_warms_up_and_decays() -> None:
    assert schedule(0.0, 0) == pytest.approx(0.01)
    assert schedule(0.3, 1000) == 1.0
    assert schedule(0.75, 1000) == pytest.approx(0.5)
    assert schedule(1.0, 1000) == 0.02


def test_dense_stage_learns_a_fixed_batch(pool: ScenePool) -> None:
    torch.manual_seed(0)
    training = ConceptTraining(Path(pool.folder) / "fixed", "cpu", seed=0)
    backbone, heads = training.model.vision_encoder.backbone, DenseHeads(HIDDEN)
    named = [*backbone.named_parameters(), *heads.named_parameters()]
    optimizer = MuonWithAdamW(named)
    batch = pool.sample(np.random.default_rng(0), 2)
    targets = DenseTargets.of(batch, TOKENS)
    losses = []
    for step in range(12):
        tokens = backbone(batch.images.float() / 127.5 - 1).last_hidden_state
        loss, _ = heads(tokens, targets)
        losses.append(loss.item())
        optimizer.step(loss, schedule(0, step, warm_up=4))
    assert losses[-1] < 0.6 * losses[0]


def test_both_stages_can_be_resumed(tmp_path: Path, pool: ScenePool) -> None:
    """Slow (half a minute): runs real steps of both stages."""
    first = ConceptTraining(tmp_path, "cpu", seed=0)
    first.run("backbone", 0.01, pool, compile_model=False)
    state = torch.load(tmp_path / "state.pt", weights_only=False)
    assert state["stage"] == "backbone"
    assert state["step"] >= 1
    second = ConceptTraining(tmp_path, "cpu", seed=1)
    second.run("backbone", 0.01, pool, compile_model=False)  # no time left
    assert torch.load(tmp_path / "state.pt", weights_only=False)["step"] == state["step"]
    second.run("whole", 0.02, pool, compile_model=False)
    after = torch.load(tmp_path / "state.pt", weights_only=False)
    assert after["stage"] == "whole"
    assert all(torch.isfinite(value).all() for value in after["model"].values())
    export(tmp_path, tmp_path / "published")
    assert json.loads((tmp_path / "published" / "config.json").read_text())["model_type"] == "sam3"
    model, processor = load_sam3(
        str(tmp_path / "published"), "test", choose_compute("cpu", "float32")
    )
    weight = "detr_decoder.query_embed.weight"
    torch.testing.assert_close(
        model.state_dict()[weight], after["average"][weight], atol=2e-3, rtol=2e-3
    )
    assert processor.image_processor.size["height"] == IMAGE_SIZE
