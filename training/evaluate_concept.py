"""Accuracy of the demo SAM 3 with texts and exemplar boxes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from inference_server.demo.scenes import Scene, SceneObject
from inference_server.demo.shapes import COLORS, SHAPES
from inference_server.engines.base import ConceptPrompt, Embedding, queries
from inference_server.engines.device import choose_compute
from inference_server.engines.load_weights import load_sam3
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.engines.weights import find_sam3
from inference_server.masks import Mask, upsample_masks
from training.concept_model import PRESENCE_BIAS
from training.scores import MATCH, ConceptScore, plane_iou

_NO_BOXES = np.empty((0, 4), np.float32)
_NO_LABELS = np.empty(0, np.int64)


@dataclass
class ConceptReport:
    """PCS figures.

    Attributes:
        text: scores by kind of prompt (`red circle`, `circle`, `red shape`, `shape`).
        by_size: scores of all text prompts by image size.
        exemplar: score of prompts with one positive box.
        with_positive: score of each text with a positive box on one of its objects.
        with_negative: score of texts with a negative box on one of their objects, whose kind is
            not wanted.
        removed: number of these prompts without an object of that kind. Default: 0.
        negative: number of these prompts. Default: 0.
        only_negative: number of prompts with one negative box and no text. Default: 0.
        only_negative_quiet: number of these without a prediction. Default: 0.
        quiet: number of absent concepts without a prediction. Default: 0.
        absent: number of absent concepts. Default: 0.
        mosaics: score of colours and shapes on mosaics, absent ones among them.
    """

    text: dict[str, ConceptScore] = field(default_factory=dict)
    by_size: dict[str, ConceptScore] = field(default_factory=dict)
    exemplar: ConceptScore = field(default_factory=ConceptScore)
    with_positive: ConceptScore = field(default_factory=ConceptScore)
    with_negative: ConceptScore = field(default_factory=ConceptScore)
    removed: int = 0
    negative: int = 0
    only_negative: int = 0
    only_negative_quiet: int = 0
    quiet: int = 0
    absent: int = 0
    mosaics: ConceptScore = field(default_factory=ConceptScore)

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
        presence_shift: added to the presence logit, to compare such constants. Default: 0.
    """

    def __init__(
        self, weights: str = "demo", device: str = "auto", presence_shift: float = 0.0
    ) -> None:
        compute = choose_compute(device, "auto")
        found = find_sam3(weights)
        source, name = found.source, found.name
        model, processor = load_sam3(source, name, compute)
        with torch.no_grad():
            model.get_parameter(PRESENCE_BIAS).add_(presence_shift)
        self._engine = ConceptEngine(model, processor, name, compute)

    def _ask(self, embedding: Embedding, prompts: list[ConceptPrompt]) -> list[list[Mask]]:
        answers = self._engine.decode(queries(embedding, prompts))
        return [upsample_masks(a.planes, embedding.size, a.threshold) for a in answers]

    def run(self, scene: Scene, size: str, rng: np.random.Generator, report: ConceptReport) -> None:
        """Evaluate one scene: an object named in each way, an absent concept, and boxes.

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
        answers = self._ask(embedding, prompts)
        for (kind, text), found in zip(texts.items(), answers, strict=False):
            for scores, name in ((report.text, kind), (report.by_size, size)):
                scores.setdefault(name, ConceptScore()).add(found, scene.matching(text))
        if absent is not None:
            report.absent += 1
            report.quiet += not answers[len(texts)]
        self._run_exemplars(scene, item, embedding, rng, report)

    def run_mosaic(self, scene: Scene, report: ConceptReport) -> None:
        """Evaluate all colours and all shapes on one mosaic.

        Args:
            scene: mosaic.
            report: report to extend.
        """
        (embedding,) = self._engine.encode([self._engine.prepare(scene.image)])
        texts = [*COLORS, *SHAPES]
        prompts = [ConceptPrompt(text, _NO_BOXES, _NO_LABELS) for text in texts]
        for text, found in zip(texts, self._ask(embedding, prompts), strict=True):
            report.mosaics.add(found, scene.matching(text))

    def _run_exemplars(
        self,
        scene: Scene,
        item: SceneObject,
        embedding: Embedding,
        rng: np.random.Generator,
        report: ConceptReport,
    ) -> None:
        """Evaluate boxes on one object of a scene, alone and with texts that match it."""
        box = np.array([item.box], np.float32)
        positive, negative = np.ones(1, np.int64), np.zeros(1, np.int64)
        kind = f"{item.color} {item.shape}"
        wider = [item.shape, f"{item.color} shape", "shape"]
        same = {id(other) for other in scene.matching(kind)}
        # Prefer a text that has other objects as well.
        texts = [t for t in wider if len(scene.matching(t)) > len(same)] or wider
        excluding = str(rng.choice(texts))
        *with_positive, alone, only_negative, with_negative = self._ask(
            embedding,
            [ConceptPrompt(text, box, positive) for text in (kind, *wider)]
            + [
                ConceptPrompt(None, box, positive),
                ConceptPrompt(None, box, negative),
                ConceptPrompt(excluding, box, negative),
            ],
        )
        for text, found in zip((kind, *wider), with_positive, strict=True):
            report.with_positive.add(found, scene.matching(text))
        report.exemplar.add(alone, scene.matching(kind))
        report.only_negative += 1
        report.only_negative_quiet += not only_negative
        rest = [other for other in scene.matching(excluding) if id(other) not in same]
        report.with_negative.add(with_negative, rest)
        report.negative += 1
        report.removed += not any(
            plane_iou(mask, other.mask) >= MATCH
            for mask in with_negative
            for other in scene.matching(kind)
        )
