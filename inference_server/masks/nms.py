"""Non-maximum suppression by mask IoU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference_server.masks.mask import Mask, intersection


def mask_nms(masks: Sequence[Mask], scores: NDArray[np.float32], iou_threshold: float) -> list[int]:
    """Greedy non-maximum suppression by the exact IoU of the masks' pixels.

    From the highest score to the lowest, a mask is kept unless its IoU with one already kept is
    greater than the threshold. Of equal scores the earlier mask goes first.

    At threshold 1 all masks are kept, duplicates too; at 0 a mask is dropped for one shared pixel.
    An empty mask has IoU 0 with every mask, so it is kept and suppresses nothing.

    Args:
        masks: N masks of one image.
        scores: float32 [N].
        iou_threshold: in [0, 1].

    Returns:
        Indices of the kept masks, ascending.

    Raises:
        ValueError: if the threshold is out of [0, 1], the scores are not [N], or the masks are of
            images of different sizes.
    """
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"an IoU threshold is in [0, 1], not {iou_threshold}")
    if scores.shape != (len(masks),):
        raise ValueError(f"{len(masks)} masks need as many scores, not {scores.shape}")
    if len({mask.size for mask in masks}) > 1:
        raise ValueError("the masks are of images of different sizes")
    if not masks:
        return []

    # Boxes of the crops, not of the pixels: a margin only makes the test below less sharp.
    start = np.array([(mask.x0, mask.y0) for mask in masks])
    stop = start + [mask.crop.shape[::-1] for mask in masks]
    area = np.array([mask.area for mask in masks])

    kept: list[int] = []
    remaining = np.argsort(-scores, kind="stable")
    while remaining.size:
        best, remaining = int(remaining[0]), remaining[1:]
        kept.append(best)
        # The two masks share no more than their boxes do, and no more than the smaller one has;
        # the IoU grows with what is shared. Only pairs that may pass are looked at pixel by pixel.
        overlap = np.minimum(stop[remaining], stop[best]) - np.maximum(
            start[remaining], start[best]
        )
        most = overlap.clip(0).prod(axis=1)
        most = np.minimum(most, np.minimum(area[remaining], area[best]))
        total = area[remaining] + area[best]
        survives = most / np.maximum(total - most, 1) <= iou_threshold
        for i in np.flatnonzero(~survives):
            shared = intersection(masks[best], masks[remaining[i]])
            survives[i] = shared / (total[i] - shared) <= iou_threshold
        remaining = remaining[survives]
    return sorted(kept)
