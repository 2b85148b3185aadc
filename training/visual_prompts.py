"""Random clicks, boxes and corrective clicks that resemble those of users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from training.pool import SceneBatch

_CLICKS, _BOXES = 5, 3


@dataclass
class Prompts:
    """Prompts on the images of a batch, each with the same number of points.

    Attributes:
        points: `float32[P, N, 2]`: x and y as shares of the side.
        labels: `int64[P, N]`: 1 click, 0 negative click, 2 and 3 corners of a box, -1 padding.
        image: index of the image, `int64[P]`.
        target: id of the object, `int64[P]`; 0 for none.
    """

    points: Tensor
    labels: Tensor
    image: Tensor
    target: Tensor

    def to(self, device: str) -> Prompts:
        """Copy the prompts to a device.

        Args:
            device: `cpu` or `cuda`.
        """
        return Prompts(*(t.to(device) for t in (self.points, self.labels, self.image, self.target)))

    def padded(self, count: int) -> Prompts:
        """Add padding points, as in a request with prompts of different lengths.

        Args:
            count: number of padding points.
        """
        return Prompts(
            F.pad(self.points, (0, 0, 0, count)), F.pad(self.labels, (0, count), value=-1),
            self.image, self.target,
        )  # fmt: skip

    def corrected(self, keep: Tensor, points: Tensor, labels: Tensor) -> Prompts:
        """Select prompts and add a point to each.

        Args:
            keep: indices of the prompts, `int64[K]`.
            points: additional points, `float32[K, 1, 2]`.
            labels: their labels, `int64[K, 1]`.
        """
        return Prompts(
            torch.cat([self.points[keep], points], dim=1),
            torch.cat([self.labels[keep], labels], dim=1),
            self.image[keep],
            self.target[keep],
        )


def _point_in(mask: NDArray[np.bool_], rng: np.random.Generator, deepest: float) -> list[float]:
    """Draw a point of a mask, as shares of the side: the deepest with probability `deepest`."""
    if rng.random() < deepest:
        depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)
        place = int(depth[1:-1, 1:-1].argmax())
    else:
        inside = np.flatnonzero(mask)
        place = int(inside[rng.integers(len(inside))]) if len(inside) else 0
    y, x = divmod(place, mask.shape[1])
    return [(x + rng.random()) / mask.shape[1], (y + rng.random()) / mask.shape[0]]


def first_prompts(batch: SceneBatch, rng: np.random.Generator) -> tuple[Prompts, Prompts]:
    """Draw clicks and boxes for a batch.

    Args:
        batch: scenes on the CPU.
        rng: source of randomness.

    Returns:
        Clicks, one in seven of them on the background, and boxes, half of them exact to a pixel
        and half with noise.
    """
    ids, boxes, shapes = batch.ids.numpy(), batch.boxes.numpy(), batch.shape.numpy()
    clicks, clicked, corners, boxed = [], [], [], []
    for plane, edges, shape in zip(ids, boxes, shapes, strict=True):
        present = np.flatnonzero(shape >= 0) + 1
        for _ in range(_CLICKS):
            target = int(rng.choice(present)) if len(present) and rng.random() > 0.15 else 0
            clicks.append([_point_in(plane == target, rng, 0.3 if target else 0.0)])
            clicked.append(target)
        for _ in range(_BOXES):
            target = int(rng.choice(present)) if len(present) else 0
            x0, y0, x1, y1 = edges[target - 1] if target else (0.0, 0.0, 0.0, 0.0)
            noise = rng.uniform(-0.5, 0.5, 4) / plane.shape[0]
            if rng.random() < 0.5:
                noise = rng.normal(0, 0.05, 4) * max(x1 - x0, y1 - y0)
            corners.append((np.array([x0, y0, x1, y1]) + noise).reshape(2, 2))
            boxed.append(target)

    def prompts(points: Any, labels: list[int], targets: list[int]) -> Prompts:
        each = len(targets) // len(ids)
        return Prompts(
            torch.from_numpy(np.asarray(points, np.float32)),
            torch.tensor(labels).expand(len(targets), -1),
            torch.arange(len(ids)).repeat_interleave(each),
            torch.tensor(targets),
        )

    return prompts(clicks, [1], clicked), prompts(corners, [2, 3], boxed)


def correction(
    logits: Tensor, truth: Tensor, rng: np.random.Generator, *, deepest: bool = False
) -> tuple[Tensor, Tensor]:
    """Draw a corrective click for each mask, on a missing or an excess part.

    Args:
        logits: mask logits, `float32[P, S, S]`.
        truth: share of each pixel covered by the object, `float32[P, S, S]`.
        rng: source of randomness.
        deepest: whether the click lies where the error is deepest, as in the evaluation, not
            anywhere in the part with more pixels. Default: false.

    Returns:
        Points `float32[P, 1, 2]` as shares of the side, and labels `int64[P, 1]`.
    """
    extent = _depth if deepest else np.sum
    points, labels = [], []
    for found, meant in zip((logits > 0).cpu().numpy(), (truth > 0.5).cpu().numpy(), strict=True):
        missing, excess = meant & ~found, found & ~meant
        positive = bool(extent(missing) >= extent(excess))
        wrong = missing if positive else excess
        if not wrong.any():
            positive = bool(meant.any())
            wrong = meant if positive else ~meant
        points.append([_point_in(wrong, rng, 1.0 if deepest else 0.5)])
        labels.append([int(positive)])
    return torch.tensor(points), torch.tensor(labels)


def _depth(mask: NDArray[np.bool_]) -> float:
    """Return the largest distance of a mask's pixels to its edge."""
    return float(cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3).max())
