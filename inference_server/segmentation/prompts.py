"""Validate and group prompts by where they lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference_server.engines.base import ConceptPrompt, VisualPrompt
from inference_server.errors import RequestError


def check_inside(
    size: tuple[int, int], prompts: Sequence[ConceptPrompt] | Sequence[VisualPrompt]
) -> None:
    """Refuse points outside the image, and boxes that do not overlap it.

    A model would return a meaningless mask for them.

    Args:
        size: (height, width) of the image in pixels.
        prompts: prompts in pixels of the image; its border counts as inside.

    Raises:
        RequestError: a prompt lies outside the image.
    """
    limits = np.array(size[::-1], np.float32)
    for prompt in prompts:
        if isinstance(prompt, ConceptPrompt):
            boxes = prompt.boxes
        else:
            boxes = np.zeros((0, 4), np.float32) if prompt.box is None else prompt.box[None]
            outside = ((prompt.points < 0) | (prompt.points > limits)).any(axis=1)
            for point in prompt.points[outside]:
                raise _outside_error("point", point, size)
        outside = ((boxes[:, 2:] < 0) | (boxes[:, :2] > limits)).any(axis=1)
        for box in boxes[outside]:
            raise _outside_error("box", box, size)


def group_points_by_box(
    points: NDArray[np.float32],
    labels: NDArray[np.int64],
    boxes: NDArray[np.float32],
    threshold: float,
) -> list[VisualPrompt]:
    """Make one prompt per box with the points inside it, and one for the remaining points.

    Args:
        points: `float32[N, 2]`, x, y in pixels.
        labels: `int64[N]`, 1 for foreground, 0 for background.
        boxes: `float32[M, 4]`, x0, y0, x1, y1 in pixels.
        threshold: minimum predicted IoU of an object, 0 to 1, exclusive.

    Returns:
        The prompts of the boxes in order, then that of the remaining points if one of them is
        foreground.
    """
    x, y = points.T
    x0, y0, x1, y1 = boxes.T[..., None]
    inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)  # [boxes, points]
    prompts = [
        VisualPrompt(points[own], labels[own], box=box, threshold=threshold)
        for box, own in zip(boxes, inside, strict=True)
    ]
    rest = ~inside.any(axis=0)
    if labels[rest].any():  # background points alone select nothing
        prompts.append(VisualPrompt(points[rest], labels[rest], threshold=threshold))
    return prompts


def _outside_error(
    noun: str, coordinates: NDArray[np.float32], size: tuple[int, int]
) -> RequestError:
    numbers = ", ".join(f"{value:g}" for value in coordinates)
    return RequestError(
        f"The {noun} ({numbers}) lies outside the image, which is {size[1]} pixels wide and "
        f"{size[0]} high. Send coordinates in pixels of the original image, x before y."
    )
