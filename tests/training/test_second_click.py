"""A few steps of the training of second clicks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inference_server.demo import WEIGHTS
from training.concept_model import IMAGE_SIZE
from training.head import HEAD_SHARPNESS, read_head
from training.pool import SceneBatch, ScenePool, draw
from training.second_click import SecondClickTraining
from training.visual import sharpened
from training.visual_prompts import correction


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> SceneBatch:
    folder = tmp_path_factory.mktemp("scenes")
    draw(folder, 2 * IMAGE_SIZE, 4, seed=3)
    return ScenePool(folder).sample(np.random.default_rng(0), 2)


def test_the_head_learns_and_the_encoder_stays(tmp_path: Path, batch: SceneBatch) -> None:
    training = SecondClickTraining(tmp_path, "cpu", 0, WEIGHTS / "sam3")
    head = read_head(WEIGHTS / "sam3")
    assert head is not None
    for name, value in sharpened(head, 1 / HEAD_SHARPNESS).items():
        torch.testing.assert_close(training.model.state_dict()[name], value)
    before = {name: value.clone() for name, value in training._trunk.state_dict().items()}
    reports = []
    for _ in range(6):
        loss, report = training.losses(batch, IMAGE_SIZE, corrected=True)
        assert torch.isfinite(loss)
        training.update(loss, rate=0.3)
        reports.append(report)
    assert min(reports[0][name] for name in ("click", "click corrected", "box")) > 0.6
    # Only every second step has the loss of the first clicks.
    assert reports[-1]["loss"] < reports[1]["loss"]
    for name, value in training._trunk.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_click_lies_in_the_middle_of_the_deeper_error() -> None:
    truth = torch.zeros(3, 32, 32)
    truth[:, 4:20, 4:20] = 1
    found = truth.clone()
    found[0, 4:20, 14:20] = 0  # misses six columns
    found[1, 22:32, 22:32] = 1  # and finds what is not there
    points, labels = correction(20 * found - 10, truth, np.random.default_rng(0), deepest=True)
    x, y = (32 * points[0, 0]).tolist()
    assert 16 <= x < 18
    assert 6 <= y < 18
    x, y = (32 * points[1, 0]).tolist()
    assert 26 <= x < 28
    assert 26 <= y < 28
    x, y = (32 * points[2, 0]).tolist()  # nothing is wrong: in the middle of the object
    assert 11 <= x < 13
    assert 11 <= y < 13
    assert labels.flatten().tolist() == [1, 0, 1]
