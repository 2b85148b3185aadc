"""Scenes of the evaluation, and scores of masks.

The scenes come from `inference_server.demo.scenes`, not from the training's generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # type: ignore[attr-defined]

from inference_server.demo.scenes import IMAGE_SIZES, Scene, SceneObject, make_scene
from inference_server.masks import Mask

FIRST_SEED = 1_000_000
"""Seed of the first scene of the evaluation. No constant is chosen on its scenes."""

VALIDATION_SEED = 2_000_000
"""Seed of the first scene of the validation, on which constants are chosen."""

_MOSAIC_SEEDS = 100_000
"""Distance between the seeds of scenes and those of mosaics."""

_MOSAIC_SIDE = 320

MATCH = 0.5
"""Mask IoU at which a prediction is a hit."""


@dataclass
class ConceptScore:
    """Detections compared with ground truth, over all prompts.

    Attributes:
        hits: number of pairs matched at mask IoU 0.5. Default: 0.
        predicted: number of predictions. Default: 0.
        wanted: number of objects. Default: 0.
        ious: IoU of each matched pair. Default: none.
    """

    hits: int = 0
    predicted: int = 0
    wanted: int = 0
    ious: list[float] = field(default_factory=list)

    def add(self, found: Sequence[Mask], truth: Sequence[SceneObject]) -> None:
        """Add one prompt; pairs are matched one to one for the largest total IoU.

        Args:
            found: predicted masks.
            truth: matching objects.
        """
        self.predicted += len(found)
        self.wanted += len(truth)
        if not found or not truth:
            return
        table = np.array([[plane_iou(mask, item.mask) for item in truth] for mask in found])
        for row, column in zip(*linear_sum_assignment(-table), strict=True):
            if table[row, column] >= MATCH:
                self.hits += 1
                self.ious.append(float(table[row, column]))

    @property
    def f1(self) -> float:
        """F1 at mask IoU 0.5."""
        return 2 * self.hits / max(1, self.predicted + self.wanted)

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the matched pairs; 0 if there are none."""
        return float(np.mean(self.ious)) if self.ious else 0.0


def plane_iou(mask: Mask, truth: NDArray[np.bool_]) -> float:
    """Return the IoU of a mask and a plane of the same image, 0 to 1.

    Args:
        mask: predicted mask.
        truth: `bool[H, W]`.
    """
    x0, y0, x1, y1 = mask.box
    inside = truth[y0:y1, x0:x1]
    both = int(np.count_nonzero(mask.crop & inside))
    either = mask.area + int(np.count_nonzero(truth)) - both
    return both / either if either else 1.0


def scenes(count: int, first_seed: int = FIRST_SEED) -> Iterator[tuple[str, Scene]]:
    """Yield scenes with the names of their sizes, which cycle through `IMAGE_SIZES`.

    Args:
        count: number of scenes.
        first_seed: seed of the first scene. Default: `FIRST_SEED`.
    """
    for i in range(count):
        width, height = IMAGE_SIZES[i % len(IMAGE_SIZES)]
        yield f"{width}x{height}", make_scene(first_seed + i, (width, height))


def mosaics(count: int, first_seed: int = FIRST_SEED) -> Iterator[Scene]:
    """Yield mosaics of 2 x 2 scenes, 640 x 640 pixels, with hard seams as in an orthophoto.

    Args:
        count: number of mosaics.
        first_seed: seed of the first scene; mosaics are made of others. Default: `FIRST_SEED`.
    """
    side = _MOSAIC_SIDE
    for first in range(first_seed + _MOSAIC_SEEDS, first_seed + _MOSAIC_SEEDS + 4 * count, 4):
        image = np.empty((2 * side, 2 * side, 3), np.uint8)
        objects: list[SceneObject] = []
        for i in range(4):
            part = make_scene(first + i, (side, side))
            top, left = side * (i // 2), side * (i % 2)
            image[top : top + side, left : left + side] = part.image
            for item in part.objects:
                mask = np.zeros(image.shape[:2], np.bool_)
                mask[top : top + side, left : left + side] = item.mask
                center = (item.center[0] + left, item.center[1] + top)
                objects.append(replace(item, mask=mask, center=center))
        yield Scene(image, objects)
