"""Prompts inside and outside the image, and points grouped by box."""

from __future__ import annotations

import numpy as np
import pytest

from inference_server.engines.base import ConceptPrompt, VisualPrompt
from inference_server.errors import RequestError
from inference_server.segmentation.prompts import cut_to_image, group_points_by_box

SIZE = (480, 640)


def clicks(*points: tuple[float, float]) -> VisualPrompt:
    return VisualPrompt(np.array(points, np.float32).reshape(-1, 2), np.ones(len(points), np.int64))


def drawn(*box: float) -> VisualPrompt:
    return VisualPrompt(*(clicks().points, clicks().labels), box=np.array(box, np.float32))


def alike(*boxes: tuple[float, float, float, float]) -> ConceptPrompt:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return ConceptPrompt("cat", corners, np.ones(len(boxes), np.int64))


@pytest.mark.parametrize("refuse", [True, False])
def test_boxes_are_cut_at_the_border(refuse: bool) -> None:
    click, nothing, box = cut_to_image(
        SIZE, [clicks((0, 0), (640, 480)), clicks(), drawn(-50, 470, 3, 900)], refuse=refuse
    )
    assert click.points.tolist() == [[0, 0], [640, 480]]
    assert (click.box, nothing.box) == (None, None)
    assert box.box is not None
    assert box.box.dtype == np.float32
    assert box.box.tolist() == [0, 470, 3, 480]
    given = [alike(), alike((600, 400, 700, 500), (-9, -9, 1, 1), (1, 2, 3, 4))]
    none, several = cut_to_image(SIZE, given, refuse=refuse)
    assert none.boxes.shape == (0, 4)
    assert several.boxes.tolist() == [[600, 400, 640, 480], [0, 0, 1, 1], [1, 2, 3, 4]]
    assert given[1].boxes[0].tolist() == [600, 400, 700, 500]  # the client's stay as they are


@pytest.mark.parametrize("point", [(640.5, 1), (1, 481), (-0.5, 1), (1, -1)])
def test_points_outside(point: tuple[float, float]) -> None:
    with pytest.raises(RequestError, match=r"The point \(.*640 pixels wide and 480 high"):
        cut_to_image(SIZE, [clicks((1, 1), point)], refuse=True)
    (kept,) = cut_to_image(SIZE, [clicks(point)], refuse=False)
    assert kept.points.tolist() == [list(point)]


@pytest.mark.parametrize(
    "box", [(641, 1, 700, 9), (1, 481, 9, 600), (-9, 1, -1, 9), (640, 1, 700, 9), (-9, -9, 0, 0)]
)
def test_boxes_outside(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(RequestError, match=r"The box \("):
        cut_to_image(SIZE, [drawn(*box)], refuse=True)
    with pytest.raises(RequestError, match=r"The box \("):
        cut_to_image(SIZE, [alike((1, 1, 9, 9), box)], refuse=True)
    (kept,) = cut_to_image(SIZE, [alike((600, 1, 700, 9), box)], refuse=False)
    assert kept.boxes.tolist() == [[600, 1, 640, 9], list(box)]


def test_points_go_with_the_box_that_they_lie_in() -> None:
    points = np.array([(5, 5), (15, 15), (50, 50), (60, 60)], np.float32)
    labels = np.array([1, 0, 1, 0])
    boxes = np.array([(0, 0, 10, 10), (10, 10, 20, 20)], np.float32)
    first, second, alone = group_points_by_box(points, labels, boxes, 0.3)
    assert first.box is not None
    assert second.box is not None
    assert (first.box.tolist(), first.points.tolist(), first.labels.tolist()) == (
        [0, 0, 10, 10],
        [[5, 5]],
        [1],
    )
    assert (second.box[0], second.points.tolist(), second.labels.tolist()) == (10, [[15, 15]], [0])
    assert (alone.box, alone.points.tolist(), alone.labels.tolist()) == (
        None,
        [[50, 50], [60, 60]],
        [1, 0],
    )
    assert {each.threshold for each in (first, second, alone)} == {0.3}
    assert (
        len(group_points_by_box(points[3:], labels[3:], boxes, 0)) == 2
    )  # a background point alone selects nothing
