"""The models of the benchmarks: a click selects a realistic mask."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from benchmarks.reference_server import read_image
from benchmarks.requests import picture
from benchmarks.sam2_models import demo_config, packaged_config, predictor_of, random_model, soften
from inference_server.demo.scenes import make_scene

CLICKS = ((0.3, 0.4), (0.7, 0.6), (0.5, 0.2))


@pytest.mark.parametrize("size", ["demo", "hiera_tiny"])
def test_a_click_selects_a_blob_around_itself(size: str) -> None:
    model = random_model(demo_config() if size == "demo" else packaged_config(size))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    soften(model)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    predictor = predictor_of(model)
    predictor.set_image(make_scene(3, (320, 180)).image)
    bests = []
    for x, y in CLICKS:
        point = np.array([[x * 320, y * 180]], np.float32)
        masks, scores, _ = predictor.predict(point, np.ones(1), multimask_output=True)
        best = masks[int(np.argmax(scores))].astype(np.uint8)
        assert best[int(point[0, 1]), int(point[0, 0])]
        assert 0.02 <= best.mean() <= 0.3
        parts, _ = cv2.connectedComponents(best)
        assert 1 <= parts - 1 <= 3
        bests.append(best.astype(bool))
    assert (bests[0] & bests[1]).sum() < 0.5 * (bests[0] | bests[1]).sum()


def test_softening_is_repeatable() -> None:
    states = []
    for _ in range(2):
        torch.rand(1)  # independent of torch's random state
        model = random_model(demo_config())
        soften(model)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_unseen_pictures_have_new_files() -> None:
    image = picture(2, (64, 48))
    again, other = image.unseen(1), image.unseen(2)
    assert len({image.jpeg, again.jpeg, other.jpeg}) == 3
    np.testing.assert_array_equal(read_image(image.jpeg), read_image(other.jpeg))
