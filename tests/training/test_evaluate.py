"""The evaluation, and a small run of it on the included checkpoints.

The full evaluation is `python -m training evaluate` (300 scenes); docs/training.md has its figures.
This one uses fewer scenes and has lower thresholds, but fails if weights and code do not match.
"""

import numpy as np
import pytest

from inference_server.demo.scenes import SceneObject, make_scene
from inference_server.masks import Mask
from inference_server.segmentation.types import AutomaticOptions
from training.evaluate import table
from training.evaluate_automatic import AutomaticEvaluation
from training.evaluate_concept import ConceptEvaluation, ConceptReport
from training.evaluate_visual import (
    Family,
    PromptedEngine,
    VisualEvaluation,
    VisualReport,
    correction,
)
from training.scores import VALIDATION_SEED, ConceptScore, mosaics, plane_iou, scenes


def _square(x: int, y: int, side: int = 10) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    plane = np.zeros((60, 80), bool)
    plane[y : y + side, x : x + side] = True
    return plane


def _object(x: int, y: int) -> SceneObject:
    return SceneObject("square", "red", _square(x, y), (x + 5, y + 5), 5)


def test_plane_iou() -> None:
    assert plane_iou(Mask.from_plane(_square(5, 5)), _square(5, 5)) == 1.0
    assert plane_iou(Mask.from_plane(_square(5, 5)), _square(10, 5)) == pytest.approx(50 / 150)
    assert plane_iou(Mask.empty((60, 80)), _square(5, 5)) == 0.0


def test_score_counts_duplicates_and_misses() -> None:
    score = ConceptScore()
    twice = [Mask.from_plane(_square(5, 5)), Mask.from_plane(_square(6, 5))]
    score.add(twice, [_object(5, 5), _object(40, 30)])
    assert (score.hits, score.predicted, score.wanted) == (1, 2, 2)
    assert score.f1 == 0.5
    assert score.mean_iou == 1.0


def test_mosaics_show_four_scenes() -> None:
    (mosaic,) = mosaics(1, VALIDATION_SEED)
    assert mosaic.image.shape == (640, 640, 3)
    quarters = [(slice(0, 320), slice(0, 320)), (slice(320, 640), slice(320, 640))]
    for each in mosaic.objects:
        x, y = each.center
        assert each.mask.shape == (640, 640)
        assert abs(np.argwhere(each.mask).mean(0) - (y, x)).max() < each.radius
    assert all(any(each.mask[part].any() for each in mosaic.objects) for part in quarters)


def test_correction_clicks_the_largest_error() -> None:
    truth = _square(10, 10, 20)
    point, label = correction(_square(10, 10, 8), truth)
    assert label == 1
    assert truth[int(point[1]), int(point[0])]
    point, label = correction(truth | _square(40, 10, 30), truth)
    assert label == 0
    assert not truth[int(point[1]), int(point[0])]
    assert correction(truth, truth)[1] == 1


def test_evaluation_scenes_differ_from_training_scenes() -> None:
    (name, scene), *_ = scenes(4)
    assert name == "256x256"
    assert {size for size, _ in scenes(4)} == {"256x256", "640x480", "1920x1080", "480x640"}
    assert not np.array_equal(scene.image, make_scene(0).image)


def test_validation_scenes_are_others() -> None:
    (_, first), (_, validation) = next(scenes(1)), next(scenes(1, VALIDATION_SEED))
    assert not np.array_equal(first.image, validation.image)


def test_accuracy_of_demo_concepts() -> None:
    report, rng = ConceptReport(), np.random.default_rng(0)
    evaluation = ConceptEvaluation(device="cpu")
    for size, scene in scenes(40):
        evaluation.run(scene, size, rng, report)
    for mosaic in mosaics(4):
        evaluation.run_mosaic(mosaic, report)
    assert report.all_text.f1 >= 0.95
    assert report.all_text.mean_iou >= 0.88
    assert report.exemplar.f1 >= 0.95
    assert report.with_positive.f1 >= 0.95
    assert report.with_negative.f1 >= 0.92
    assert report.removed >= 0.9 * report.negative
    assert report.only_negative_quiet == report.only_negative > 0
    assert report.quiet >= 0.97 * report.absent
    assert report.mosaics.f1 >= 0.7
    printed = table(report, {}, {})
    assert "| PCS text, F1 at mask IoU 0.5 |" in printed
    assert "| PCS text and a negative box, its kind is removed |" in printed


CLICKS: list[tuple[Family, float, float, float]] = [
    ("sam2", 0.8, 0.87, 0.05),
    ("sam3", 0.92, 0.92, -0.01),  # its first clicks leave little to correct
]


@pytest.mark.parametrize(("family", "click", "box", "gain"), CLICKS)
def test_accuracy_of_demo_clicks(family: Family, click: float, box: float, gain: float) -> None:
    report = VisualReport()
    evaluation = VisualEvaluation(PromptedEngine(family, device="cpu"))
    for size, scene in scenes(12):
        evaluation.run(scene, size, report)
    assert np.concatenate([np.array(v) for v in report.click.values()]).mean() >= click
    assert np.concatenate([np.array(v) for v in report.box.values()]).mean() >= box
    before, after = report.worst_quarter()
    assert after > before + gain
    assert f"| {family} box, mean IoU |" in table(None, {family: report}, {})


def test_accuracy_of_demo_sam1() -> None:
    engine, report = PromptedEngine("sam1", device="cpu"), VisualReport()
    for size, scene in scenes(8):
        VisualEvaluation(engine).run(scene, size, report)
    assert np.concatenate([np.array(v) for v in report.click.values()]).mean() >= 0.84
    assert np.concatenate([np.array(v) for v in report.box.values()]).mean() >= 0.84
    options = AutomaticOptions(points_per_side=16)
    found = AutomaticEvaluation(engine, options).run([scene for _, scene in scenes(2)])
    assert found.score.f1 >= 0.8
    assert found.rectangles == found.found == 3


def test_accuracy_of_demo_automatic_masks() -> None:
    options = AutomaticOptions(points_per_side=24)  # half the time of 32
    evaluation = AutomaticEvaluation(PromptedEngine("sam2", device="cpu"), options=options)
    report = evaluation.run([scene for _, scene in scenes(4)])
    assert report.score.f1 >= 0.85
    assert report.score.mean_iou >= 0.9
    assert report.rectangles == report.found == 3
    assert "| sam2 automatic masks, F1 at mask IoU 0.5 |" in table(None, {}, {"sam2": report})
