"""Prompts on the image and beside it."""

from __future__ import annotations

import numpy as np
import pytest

from inference_server.engines.base import ConceptPrompt, VisualPrompt
from inference_server.errors import RequestError
from inference_server.places import refuse_outside

SIZE = (480, 640)


def clicks(*points: tuple[float, float]) -> VisualPrompt:
    return VisualPrompt(np.array(points, np.float32).reshape(-1, 2), np.ones(len(points), np.int64))


def drawn(*box: float) -> VisualPrompt:
    return VisualPrompt(*(clicks().points, clicks().labels), box=np.array(box, np.float32))


def alike(*boxes: tuple[float, float, float, float]) -> ConceptPrompt:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return ConceptPrompt("cat", corners, np.ones(len(boxes), np.int64))


def test_what_is_on_the_image_or_its_border() -> None:
    refuse_outside(SIZE, [clicks((0, 0), (640, 480)), clicks(), drawn(-50, 470, 3, 900)])
    refuse_outside(SIZE, [alike(), alike((600, 400, 700, 500), (-9, -9, 0, 0))])


@pytest.mark.parametrize("point", [(640.5, 1), (1, 481), (-0.5, 1), (1, -1)])
def test_points_outside(point: tuple[float, float]) -> None:
    with pytest.raises(RequestError, match=r"The point \(.*640 pixels wide and 480 high"):
        refuse_outside(SIZE, [clicks((1, 1), point)])


@pytest.mark.parametrize("box", [(641, 1, 700, 9), (1, 481, 9, 600), (-9, 1, -1, 9)])
def test_boxes_outside(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(RequestError, match=r"The box \("):
        refuse_outside(SIZE, [drawn(*box)])
    with pytest.raises(RequestError, match=r"The box \("):
        refuse_outside(SIZE, [alike((1, 1, 9, 9), box)])
