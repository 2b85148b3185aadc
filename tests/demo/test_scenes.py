"""Generated scenes and their ground truth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from inference_server.demo import SAMPLE, WEIGHTS
from inference_server.demo.scenes import IMAGE_SIZES, make_scene
from inference_server.demo.shapes import COLORS, SHAPES, outline

SEEDS = range(25)


def test_the_same_seed_gives_the_same_pixels() -> None:
    for size in IMAGE_SIZES:
        one, other = make_scene(7, size), make_scene(7, size)
        assert np.array_equal(one.image, other.image)
        assert [(o.shape, o.color, o.box) for o in one.objects] == [
            (o.shape, o.color, o.box) for o in other.objects
        ]
    assert not np.array_equal(make_scene(7).image, make_scene(8).image)


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_images_have_the_size_that_was_asked_for(size: tuple[int, int]) -> None:
    scene = make_scene(3, size)
    assert scene.image.shape == (size[1], size[0], 3)
    assert scene.image.dtype == np.uint8
    assert all(item.mask.shape == (size[1], size[0]) for item in scene.objects)


@pytest.mark.parametrize("seed", SEEDS)
def test_objects_are_as_promised(seed: int) -> None:
    scene = make_scene(seed, (320, 240))
    assert 1 <= len(scene.objects) <= 7
    for item in scene.objects:
        assert item.shape in SHAPES
        assert item.color in COLORS
        assert 0.08 <= item.radius / 240 <= 0.2
        x, y = item.center
        assert item.radius <= x <= 320 - item.radius
        assert item.radius <= y <= 240 - item.radius


@pytest.mark.parametrize("seed", SEEDS)
def test_masks_agree_with_the_outlines(seed: int) -> None:
    """A shape redrawn as a polygon at the best rotation matches the mask's area and position."""
    scene = make_scene(seed, (320, 240))
    for item in scene.objects:
        best = 0.0
        for degrees in range(-28, 29, 2):
            turn = np.deg2rad(degrees)
            matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
            plane = np.zeros(item.mask.shape, np.uint8)
            contours = [
                points @ matrix * item.radius + item.center for points in outline(item.shape)
            ]
            fixed = [np.round((points - 0.5) * 16).astype(np.int32) for points in contours]
            cv2.fillPoly(plane, fixed, 1, shift=4)
            drawn = plane.astype(bool)
            best = max(best, (drawn & item.mask).sum() / (drawn | item.mask).sum())
        assert best > 0.85, (item.shape, item.color)


@pytest.mark.parametrize("seed", SEEDS)
def test_masks_do_not_overlap_and_have_the_color(seed: int) -> None:
    scene = make_scene(seed, (320, 240))
    assert sum(item.mask.astype(int) for item in scene.objects).max() == 1  # type: ignore[union-attr]
    for item in scene.objects:
        inner = cv2.erode(item.mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        mean = scene.image[inner].mean(axis=0)
        distances = {name: np.abs(mean - color).sum() for name, color in COLORS.items()}
        assert min(distances, key=lambda name: float(distances[name])) == item.color


@pytest.mark.parametrize("seed", SEEDS)
def test_boxes_are_tight(seed: int) -> None:
    for item in make_scene(seed, (240, 320)).objects:
        x0, y0, x1, y1 = item.box
        assert item.mask[y0:y1, x0:x1].sum() == item.mask.sum()
        for edge in (item.mask[y0], item.mask[y1 - 1], item.mask[:, x0], item.mask[:, x1 - 1]):
            assert edge.any()


@pytest.mark.parametrize("seed", SEEDS)
def test_clicks_lie_well_inside(seed: int) -> None:
    for item in make_scene(seed, (320, 240)).objects:
        x, y = item.click()
        column, row = int(x), int(y)
        assert (x - column, y - row) == (0.5, 0.5)
        assert item.mask[row - 1 : row + 2, column - 1 : column + 2].all()


def test_concepts() -> None:
    scene = make_scene(5, count=(7, 7))
    assert scene.matching("shape") == scene.objects
    for item in scene.objects:
        for text in (item.shape, item.color, f"{item.color} {item.shape}", f"{item.color} shape"):
            assert any(found is item for found in scene.matching(text))
    assert scene.matching("red zebra") == []
    reds, circles = scene.matching("red shape"), scene.matching("circle")
    both = [item for item in reds if any(item is other for other in circles)]
    assert len(scene.matching("red circle")) == len(both)


def test_the_vocabulary_can_be_narrowed() -> None:
    scene = make_scene(5, count=(4, 4), shapes=("ring",), colors=("blue", "black"))
    assert {item.shape for item in scene.objects} == {"ring"}
    assert {item.color for item in scene.objects} <= {"blue", "black"}


def test_what_the_package_ships() -> None:
    sample = cv2.imread(str(SAMPLE))
    assert sample is not None
    assert sample.shape[2] == 3
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert files
    assert sum(path.stat().st_size for path in files) < 12 * 2**20
