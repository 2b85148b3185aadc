"""Where prompts lie: on the image, or beside it by mistake; in a box, or alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference_server.engines.base import ConceptPrompt, VisualPrompt
from inference_server.errors import RequestError


def check_inside(
    size: tuple[int, int], prompts: Sequence[ConceptPrompt] | Sequence[VisualPrompt]
) -> None:
    """Refuse points beside the image, and boxes of which no part is on it.

    A model answers them too, with something that nobody meant.

    Args:
        size: (height, width) of the image in pixels.
        prompts: in pixels of the image; its border belongs to it.

    Raises:
        RequestError: a prompt lies outside.
    """
    limits = np.array(size[::-1], np.float32)
    for prompt in prompts:
        if isinstance(prompt, ConceptPrompt):
            boxes = prompt.boxes
        else:
            boxes = np.zeros((0, 4), np.float32) if prompt.box is None else prompt.box[None]
            beside = ((prompt.points < 0) | (prompt.points > limits)).any(axis=1)
            for point in prompt.points[beside]:
                raise _outside("point", point, size)
        beside = ((boxes[:, 2:] < 0) | (boxes[:, :2] > limits)).any(axis=1)
        for box in boxes[beside]:
            raise _outside("box", box, size)


def group_points_by_box(
    points: NDArray[np.float32],
    labels: NDArray[np.int64],
    boxes: NDArray[np.float32],
    threshold: float,
) -> list[VisualPrompt]:
    """One object a box, with the points in it, and one for the points in no box.

    Args:
        points: [N, 2], x, y in pixels.
        labels: [N], 1 on an object, 0 beside it.
        boxes: [M, 4], x0, y0, x1, y1 in pixels.
        threshold: an object's predicted IoU is greater than this.

    Returns:
        The boxes' objects in their order, then that of the points, unless none of these is on it.
    """
    x, y = points.T
    x0, y0, x1, y1 = boxes.T[..., None]
    held = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)  # [boxes, points]
    found = [
        VisualPrompt(points[mine], labels[mine], box=box, threshold=threshold)
        for box, mine in zip(boxes, held, strict=True)
    ]
    alone = ~held.any(axis=0)
    if labels[alone].any():  # negative points alone show no object
        found.append(VisualPrompt(points[alone], labels[alone], threshold=threshold))
    return found


def _outside(noun: str, place: NDArray[np.float32], size: tuple[int, int]) -> RequestError:
    numbers = ", ".join(f"{value:g}" for value in place)
    return RequestError(
        f"The {noun} ({numbers}) lies outside of the image, which is {size[1]} pixels wide and "
        f"{size[0]} high. Send pixels of the image as it was sent, x before y."
    )
