"""Accuracy of the demo checkpoints on scenes that were not used in training.

The scenes come from `inference_server.demo.scenes`, not from the training's generator, and use the
server's own engines and masks, so the figures apply to the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # type: ignore[attr-defined]

from inference_server.demo.scenes import IMAGE_SIZES, Scene, SceneObject, make_scene
from inference_server.demo.shapes import COLORS, SHAPES
from inference_server.engines.base import ConceptPrompt, Embedding, VisualPrompt, queries
from inference_server.engines.device import choose_compute
from inference_server.engines.load_weights import load_sam2, load_sam3
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.engines.weights import find_sam2, find_sam3
from inference_server.masks import Mask, upsample_masks

FIRST_SEED = 1_000_000
_NO_BOXES = np.empty((0, 4), np.float32)
_NO_LABELS = np.empty(0, np.int64)
_MATCH = 0.5


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
            if table[row, column] >= _MATCH:
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


@dataclass
class ConceptReport:
    """PCS figures.

    Attributes:
        text: scores by kind of prompt (`red circle`, `circle`, `red shape`, `shape`).
        by_size: scores of all text prompts by image size.
        exemplar: score of prompts with one exemplar box.
        quiet: number of absent concepts without a prediction. Default: 0.
        absent: number of absent concepts. Default: 0.
    """

    text: dict[str, ConceptScore] = field(default_factory=dict)
    by_size: dict[str, ConceptScore] = field(default_factory=dict)
    exemplar: ConceptScore = field(default_factory=ConceptScore)
    quiet: int = 0
    absent: int = 0

    @property
    def all_text(self) -> ConceptScore:
        """Score of all text prompts."""
        total = ConceptScore()
        for score in self.text.values():
            total.hits += score.hits
            total.predicted += score.predicted
            total.wanted += score.wanted
            total.ious += score.ious
        return total


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


def scenes(count: int) -> Iterator[tuple[str, Scene]]:
    """Yield evaluation scenes with the names of their sizes, which cycle through `IMAGE_SIZES`.

    Args:
        count: number of scenes.
    """
    for i in range(count):
        width, height = IMAGE_SIZES[i % len(IMAGE_SIZES)]
        yield f"{width}x{height}", make_scene(FIRST_SEED + i, (width, height))


def _absent_concept(scene: Scene, rng: np.random.Generator) -> str | None:
    """Return a concept that the scene lacks; half share a colour or shape with an object."""
    near = rng.random() < 0.5 and scene.objects
    for _ in range(50):
        color, shape = str(rng.choice(list(COLORS))), str(rng.choice(SHAPES))
        if near:
            item = scene.objects[int(rng.integers(len(scene.objects)))]
            color, shape = (item.color, shape) if rng.random() < 0.5 else (color, item.shape)
        elif any(item.color == color or item.shape == shape for item in scene.objects):
            continue
        text = f"{color} {shape}"
        if not scene.matching(text):
            return text
    return None


class ConceptEvaluation:
    """Evaluates a PCS engine.

    Args:
        weights: as in `INFERENCE_SAM3_WEIGHTS`. Default: `demo`.
        device: as in `INFERENCE_DEVICE`. Default: `auto`.
    """

    def __init__(self, weights: str = "demo", device: str = "auto") -> None:
        compute = choose_compute(device, "auto")
        found = find_sam3(weights)
        source, name = found.source, found.name
        model, processor = load_sam3(source, name, compute)
        self._engine = ConceptEngine(model, processor, name, compute)

    def _ask(self, embedding: Embedding, prompts: list[ConceptPrompt]) -> list[list[Mask]]:
        answers = self._engine.decode(queries(embedding, prompts))
        return [upsample_masks(a.planes, embedding.size, a.threshold) for a in answers]

    def run(self, scene: Scene, size: str, rng: np.random.Generator, report: ConceptReport) -> None:
        """Evaluate one scene: a present object named in each way, an absent concept, a box.

        Args:
            scene: scene to segment.
            size: name of its size.
            rng: source of random choices.
            report: report to extend.
        """
        (embedding,) = self._engine.encode([self._engine.prepare(scene.image)])
        item = scene.objects[int(rng.integers(len(scene.objects)))]
        texts = {
            "red circle": f"{item.color} {item.shape}",
            "circle": item.shape,
            "red shape": f"{item.color} shape",
            "shape": "shape",
        }
        prompts = [ConceptPrompt(text, _NO_BOXES, _NO_LABELS) for text in texts.values()]
        absent = _absent_concept(scene, rng)
        if absent is not None:
            prompts.append(ConceptPrompt(absent, _NO_BOXES, _NO_LABELS))
        box = np.array([item.box], np.float32)
        prompts.append(ConceptPrompt(None, box, np.ones(1, np.int64)))
        answers = self._ask(embedding, prompts)
        for (kind, text), found in zip(texts.items(), answers, strict=False):
            for scores, name in ((report.text, kind), (report.by_size, size)):
                scores.setdefault(name, ConceptScore()).add(found, scene.matching(text))
        if absent is not None:
            report.absent += 1
            report.quiet += not answers[len(texts)]
        report.exemplar.add(answers[-1], scene.matching(texts["red circle"]))


class VisualEvaluation:
    """Evaluates a PVS engine with clicks and boxes.

    Args:
        weights: as in `INFERENCE_SAM2_WEIGHTS`. Default: `demo`.
        device: as in `INFERENCE_DEVICE`. Default: `auto`.
    """

    def __init__(self, weights: str = "demo", device: str = "auto") -> None:
        compute = choose_compute(device, "auto")
        checkpoint = next(reversed(find_sam2(weights).values()))
        self._engine = VisualEngine(load_sam2(checkpoint, compute), checkpoint.name, compute)

    def _best(
        self, embedding: Embedding, prompts: list[VisualPrompt], *, multimask: bool
    ) -> list[tuple[Mask, NDArray[np.float32]]]:
        best = []
        for answer in self._engine.decode(queries(embedding, prompts, multimask=multimask)):
            i = int(answer.scores.argmax())
            (mask,) = upsample_masks(answer.planes[i : i + 1], embedding.size, answer.threshold)
            assert answer.logits is not None  # noqa: S101 - SAM 2 returns them
            best.append((mask, answer.logits[i]))
        return best

    def run(self, scene: Scene, size: str, report: VisualReport) -> None:
        """Evaluate one scene: a click, a corrective click and a box for each object.

        Args:
            scene: scene to segment.
            size: name of its size.
            report: report to extend.
        """
        (embedding,) = self._engine.encode([self._engine.prepare(scene.image)])
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


def table(
    concept: ConceptReport | None,
    visual: VisualReport | None,
    automatic: ConceptScore | None = None,
) -> str:
    """Format the figures as a Markdown table.

    Args:
        concept: PCS figures; None to omit.
        visual: PVS figures; None to omit.
        automatic: score of automatic masks. Default: omitted.
    """
    lines = ["| metric | value | goal |", "|---|---|---|"]
    if concept is not None:
        total = concept.all_text
        lines += [
            f"| PCS text, F1 at mask IoU 0.5 | {total.f1:.3f} | 0.90 |",
            f"| PCS text, mean IoU of matches | {total.mean_iou:.3f} | 0.85 |",
        ]
        lines += [
            f'| PCS text such as "{kind}", F1 / IoU | {s.f1:.3f} / {s.mean_iou:.3f} | |'
            for kind, s in concept.text.items()
        ]
        lines += [
            f"| PCS text at {size}, F1 / IoU | {s.f1:.3f} / {s.mean_iou:.3f} | |"
            for size, s in concept.by_size.items()
        ]
        lines += [
            f"| PCS absent concept, no prediction | {concept.quiet} of {concept.absent} "
            f"({100 * concept.quiet / max(1, concept.absent):.1f} %) | 95 % |",
            f"| PCS one exemplar box, F1 | {concept.exemplar.f1:.3f} | 0.80 |",
        ]
    if visual is not None:
        before, after = visual.worst_quarter()
        for name, values, goal in (
            ("one click", visual.click, "0.85"),
            ("box", visual.box, "0.90"),
        ):
            every = np.concatenate([np.array(v) for v in values.values()])
            lines.append(f"| PVS {name}, mean IoU | {every.mean():.3f} | {goal} |")
            lines += [
                f"| PVS {name} at {size}, mean IoU | {np.mean(v):.3f} | |"
                for size, v in values.items()
            ]
        lines.append(
            f"| PVS worst quarter of clicks, before / after a second click | {before:.3f} / "
            f"{after:.3f} | raised |"
        )
    if automatic is not None:
        lines += [
            f"| Automatic masks, F1 at mask IoU 0.5 | {automatic.f1:.3f} | 0.85 |",
            f"| Automatic masks, precision / recall | "
            f"{automatic.hits / max(1, automatic.predicted):.3f} / "
            f"{automatic.hits / max(1, automatic.wanted):.3f} | |",
        ]
    return "\n".join(lines)
