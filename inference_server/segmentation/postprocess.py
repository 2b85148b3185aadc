"""Turn an engine's results into instances with masks of the image's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference_server.engines.base import Candidates
from inference_server.masks import Mask, Rank, mask_nms, upsample_masks
from inference_server.segmentation.types import Instance


def to_instances(
    size: tuple[int, int], results: Sequence[tuple[int, Candidates]]
) -> list[Instance]:
    """Make the masks of all candidates, unless the engine has made them.

    Args:
        size: (height, width) of the image in pixels.
        results: index of each prompt, with its candidates.

    Returns:
        One instance per candidate, in order.
    """
    return [
        Instance(
            index,
            float(score),
            mask,
            logits=None if result.logits is None else result.logits[i],
            box=None if result.boxes is None else _clip_box(result.boxes[i], size),
        )
        for index, result in results
        for i, (mask, score) in enumerate(zip(_masks(size, result), result.scores, strict=True))
    ]


def _masks(size: tuple[int, int], result: Candidates) -> list[Mask]:
    if result.runs is not None:
        return [Mask(runs, size) for runs in result.runs]
    return upsample_masks(result.planes, size, result.threshold)


def _clip_box(box: NDArray[np.float32], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Clip a box to an image of (height, width)."""
    height, width = size
    x0, y0, x1, y1 = box.clip(0, (width, height, width, height)).tolist()
    return x0, y0, x1, y1


def suppress_overlaps(instances: list[Instance], iou_threshold: float) -> list[Instance]:
    """Non-maximum suppression by mask IoU, across all prompts.

    Args:
        instances: instances of one image, in any order.
        iou_threshold: maximum IoU of two remaining masks, 0 to 1.

    Returns:
        The remaining instances, in their original order.
    """
    scores = np.array([instance.score for instance in instances], np.float32)
    kept = mask_nms([instance.mask for instance in instances], scores, iou_threshold)
    return [instances[index] for index in kept]


def bottom_to_top(found: Sequence[Instance], *, by_area: bool = False) -> list[int]:
    """The order in which masks that overlap are drawn, independent of their order in the list.

    Args:
        found: the instances.
        by_area: whether smaller masks are on top; default false: those of a higher score. The other
            one of the two decides between equals.

    Returns:
        The indices of the instances, the uppermost last.
    """
    return sorted(range(len(found)), key=lambda index: rank_of(found[index], by_area=by_area))


def rank_of(instance: Instance, *, by_area: bool = False) -> Rank:
    """The key by which `bottom_to_top` sorts.

    Args:
        instance: the instance.
        by_area: see `bottom_to_top`. Default false.
    """
    mask, score = instance.mask, instance.score
    first, second = (-mask.area, score) if by_area else (score, -mask.area)
    return first, second, mask.box
