"""Instances: the answers of an engine, as masks of the image's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference_server.engines.base import Candidates
from inference_server.masks import mask_nms, upsample_masks
from inference_server.segmentation.types import Instance


def to_instances(
    size: tuple[int, int], answers: Sequence[tuple[int, Candidates]]
) -> list[Instance]:
    """All candidates of each answer; which of them to make is the engine's choice.

    Args:
        size: (height, width) of the image in pixels.
        answers: with the number of the prompt.
    """
    return [
        Instance(
            index,
            float(score),
            mask,
            logits=None if answer.logits is None else answer.logits[i],
            box=None if answer.boxes is None else _corners(answer.boxes[i], size),
        )
        for index, answer in answers
        for i, (mask, score) in enumerate(
            zip(upsample_masks(answer.planes, size, answer.threshold), answer.scores, strict=True)
        )
    ]


def _corners(box: NDArray[np.float32], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box without what reaches out of the image."""
    height, width = size
    x0, y0, x1, y1 = box.clip(0, (width, height, width, height)).tolist()
    return x0, y0, x1, y1


def suppress_overlaps(found: list[Instance], iou_threshold: float) -> list[Instance]:
    """What is left after non-maximum suppression across all prompts."""
    scores = np.array([instance.score for instance in found], np.float32)
    kept = mask_nms([instance.mask for instance in found], scores, iou_threshold)
    return [found[index] for index in kept]
