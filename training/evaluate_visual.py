"""Accuracy of the demo checkpoints with clicks and boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from inference_server.demo.scenes import Scene
from inference_server.engines.base import (
    Candidates,
    Embedding,
    Prepared,
    Query,
    RGBImage,
    VisualPrompt,
    queries,
)
from inference_server.engines.device import choose_compute
from inference_server.engines.load_weights import load_sam1, load_sam2, load_sam3, load_sam3_head
from inference_server.engines.sam1.engine import Sam1Engine
from inference_server.engines.sam1.weights import find_sam1
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.engines.sam3.trunk import TrunkEngine
from inference_server.engines.sam3.visual_engine import Sam3VisualEngine
from inference_server.engines.weights import find_sam2, find_sam3
from inference_server.masks import Mask, upsample_masks
from training.scores import plane_iou

Family = Literal["sam1", "sam2", "sam3"]
_NO_LABELS = np.empty(0, np.int64)


class PromptedEngine:
    """An engine of any family that answers clicks and boxes.

    Args:
        family: family of the model; `sam3` is SAM 3's visual head.
        weights: as in the family's setting. Default: `demo`.
        device: as in `INFERENCE_DEVICE`. Default: `auto`.

    Raises:
        ValueError: The SAM 3 has no visual head.
    """

    def __init__(self, family: Family, weights: str = "demo", device: str = "auto") -> None:
        compute = choose_compute(device, "auto")
        self._trunk: TrunkEngine | None = None
        self._engine: Sam1Engine | VisualEngine | Sam3VisualEngine
        if family == "sam1":
            sam1 = next(reversed(find_sam1(weights).values()))
            model, processor = load_sam1(sam1, compute)
            self._engine = Sam1Engine(model, processor, sam1.name, compute)
        elif family == "sam2":
            sam2 = next(reversed(find_sam2(weights).values()))
            self._engine = VisualEngine(load_sam2(sam2, compute), sam2.name, compute)
        else:
            found = find_sam3(weights)
            source, name = found.source, found.name
            head = load_sam3_head(source, name, compute)
            if head is None:
                raise ValueError(f"{name} has no visual head")
            self._trunk = TrunkEngine(*load_sam3(source, name, compute), name, compute)
            self._engine = Sam3VisualEngine(head, name, compute)

    def encode(self, image: RGBImage) -> Embedding:
        """Encode an image.

        Args:
            image: `uint8[H, W, 3]`, RGB.
        """
        if self._trunk is None:
            (embedding,) = self._engine.encode([self._engine.prepare(image)])
            return embedding
        (trunk,) = self._trunk.encode([self._trunk.prepare(image)])
        (embedding,) = self._engine.encode([Prepared(trunk.features, trunk.size)])
        return embedding

    def decode(self, asked: list[Query[VisualPrompt]]) -> list[Candidates]:
        """Decode prompts.

        Args:
            asked: prompts with their embeddings.
        """
        return self._engine.decode(asked)


@dataclass
class VisualReport:
    """PVS figures: IoU of each object, by image size.

    Attributes:
        click: IoUs after one click.
        box: IoUs with a box.
        second: IoUs after a second, corrective click.
    """

    click: dict[str, list[float]] = field(default_factory=dict)
    box: dict[str, list[float]] = field(default_factory=dict)
    second: dict[str, list[float]] = field(default_factory=dict)

    def worst_quarter(self) -> tuple[float, float]:
        """Return the mean IoU of the worst quarter of clicks, before and after a second click."""
        first = np.concatenate([np.array(values) for values in self.click.values()])
        second = np.concatenate([np.array(values) for values in self.second.values()])
        worst = first.argsort()[: max(1, len(first) // 4)]
        return float(first[worst].mean()), float(second[worst].mean())


class VisualEvaluation:
    """Evaluates a PVS engine with clicks and boxes.

    Args:
        engine: engine to evaluate.
    """

    def __init__(self, engine: PromptedEngine) -> None:
        self._engine = engine

    def _best(
        self, embedding: Embedding, prompts: list[VisualPrompt], *, multimask: bool
    ) -> list[tuple[Mask, NDArray[np.float32]]]:
        best = []
        for answer in self._engine.decode(queries(embedding, prompts, multimask=multimask)):
            i = int(answer.scores.argmax())
            (mask,) = upsample_masks(answer.planes[i : i + 1], embedding.size, answer.threshold)
            assert answer.logits is not None  # noqa: S101 - all these engines return them
            best.append((mask, answer.logits[i]))
        return best

    def run(self, scene: Scene, size: str, report: VisualReport) -> None:
        """Evaluate one scene: a click, a corrective click and a box for each object.

        Args:
            scene: scene to segment.
            size: name of its size.
            report: report to extend.
        """
        embedding = self._engine.encode(scene.image)
        truth = [item.mask for item in scene.objects]
        clicks = [np.array([item.click()], np.float32) for item in scene.objects]
        one = np.ones(1, np.int64)
        first = self._best(
            embedding, [VisualPrompt(click, one) for click in clicks], multimask=True
        )
        report.click.setdefault(size, []).extend(
            plane_iou(mask, plane) for (mask, _), plane in zip(first, truth, strict=True)
        )
        corrected = []
        for (mask, logits), click, plane in zip(first, clicks, truth, strict=True):
            point, label = correction(mask.to_plane(), plane)
            corrected.append(
                VisualPrompt(
                    np.concatenate([click, [point]]).astype(np.float32),
                    np.array([1, label], np.int64),
                    mask_input=logits,
                )
            )
        second = self._best(embedding, corrected, multimask=False)
        report.second.setdefault(size, []).extend(
            plane_iou(mask, plane) for (mask, _), plane in zip(second, truth, strict=True)
        )
        boxes = [
            VisualPrompt(np.empty((0, 2), np.float32), _NO_LABELS, np.array(item.box, np.float32))
            for item in scene.objects
        ]
        drawn = self._best(embedding, boxes, multimask=True)
        report.box.setdefault(size, []).extend(
            plane_iou(mask, plane) for (mask, _), plane in zip(drawn, truth, strict=True)
        )


def correction(
    found: NDArray[np.bool_], truth: NDArray[np.bool_]
) -> tuple[tuple[float, float], int]:
    """Return a corrective click in the middle of the largest error.

    Args:
        found: current mask, `bool[H, W]`.
        truth: ground truth, `bool[H, W]`.

    Returns:
        Point (x, y) in pixels, and label: 1 for a missing part, 0 for an excess part.
    """
    missing = _deepest(truth & ~found)
    excess = _deepest(found & ~truth)
    depth, point, label = max((*missing, 1), (*excess, 0))
    if depth == 0:
        return _deepest(truth)[1], 1
    return point, label


def _deepest(plane: NDArray[np.bool_]) -> tuple[float, tuple[float, float]]:
    """Return the largest distance to the region's edge, and its pixel (x, y)."""
    padded = np.pad(plane.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(distance[y, x]), (float(x) + 0.5, float(y) + 0.5)
