"""Validate and group prompts by where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from inference_server.engines.base import ConceptPrompt, VisualPrompt
from inference_server.errors import RequestError

PromptT = TypeVar("PromptT", ConceptPrompt, VisualPrompt)


def cut_to_image(
    size: tuple[int, int], prompts: Sequence[PromptT], *, refuse: bool
) -> list[PromptT]:
    """Cut boxes at the image's border; the one place where this is done, for every API.

    A model answers a box that reaches past the border with a wrong mask.

    Args:
        size: (height, width) of the image in pixels.
        prompts: prompts in pixels of the image, whose border belongs to it.
        refuse: whether to refuse points outside the image and boxes of which no part is on it. If
            false, they are left unchanged.

    Returns:
        The prompts in the same order.

    Raises:
        RequestError: a prompt lies outside the image, and `refuse` is true.
    """
    limits = np.array(size[::-1], np.float32)
    cut = []
    for prompt in prompts:
        if isinstance(prompt, VisualPrompt) and refuse:
            beside = ((prompt.points < 0) | (prompt.points > limits)).any(axis=1)
            for point in prompt.points[beside]:
                raise _outside_error("point", point, size)
        boxes = prompt.boxes if isinstance(prompt, ConceptPrompt) else prompt.box
        if boxes is not None and boxes.size:
            rows = boxes.reshape(-1, 4)
            beside = ((rows[:, 2:] <= 0) | (rows[:, :2] >= limits)).any(axis=1)
            if refuse:
                for box in rows[beside]:
                    raise _outside_error("box", box, size)
            inside = rows.clip(0, np.tile(limits, 2))
            boxes = np.where(beside.reshape(-1, 1), rows, inside).reshape(boxes.shape)
            if isinstance(prompt, ConceptPrompt):
                prompt = replace(prompt, boxes=boxes)
            else:
                prompt = replace(prompt, box=boxes)
        cut.append(prompt)
    return cut


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
