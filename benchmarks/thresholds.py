"""Concept masks from enlarged logits, as Meta makes them, and from enlarged probabilities."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.overlap import iou
from benchmarks.report import Cell, Goal, Report, Table
from inference_server.demo.scenes import IMAGE_SIZES, Scene, make_scene
from inference_server.engines.base import ConceptPrompt, queries
from inference_server.engines.device import choose_compute
from inference_server.engines.load_weights import load_sam3
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.engines.weights import find_sam3
from inference_server.masks import Mask, intersection, upsample_mask

PER_SIZE = 25
"""Scenes per image size; 1 with `small`."""

CONFIDENCE = 0.5


@dataclass
class _Figures:
    """Comparison of both masks of each object.

    Attributes:
        share_of_image: Differing pixels as a share of the image's, per mask.
        share_of_mask: Differing pixels as a share of the mask's, per mask.
        alike: IoU of both masks.
        logits: IoU of the mask from logits with the object, if one matches.
        probabilities: The same of the mask from probabilities.
    """

    share_of_image: list[float] = field(default_factory=list)
    share_of_mask: list[float] = field(default_factory=list)
    alike: list[float] = field(default_factory=list)
    logits: list[float] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)

    def add(self, one: Mask, other: Mask, objects: Sequence[Mask]) -> None:
        """Compare the mask from logits with that from probabilities, and both with the truth."""
        pixels = one.size[0] * one.size[1]
        changed = one.area + other.area - 2 * intersection(one, other)
        self.share_of_image.append(changed / pixels)
        self.share_of_mask.append(changed / max(one.area, 1))
        self.alike.append(iou(one, other) if one.area or other.area else 1.0)
        truth = max(objects, key=lambda each: iou(one, each))
        self.logits.append(iou(one, truth))
        self.probabilities.append(iou(other, truth))

    def row(self, name: str) -> dict[str, Cell]:
        return {
            "image": name,
            "masks": len(self.alike),
            "changed, mean (% of image)": 100 * statistics.fmean(self.share_of_image),
            "changed, maximum (% of image)": 100 * max(self.share_of_image),
            "changed, mean (% of mask)": 100 * statistics.fmean(self.share_of_mask),
            "changed, maximum (% of mask)": 100 * max(self.share_of_mask),
            "IoU of both, mean": statistics.fmean(self.alike),
            "IoU of both, minimum": min(self.alike),
            "IoU with truth, logits": statistics.fmean(self.logits),
            "IoU with truth, probabilities": statistics.fmean(self.probabilities),
        }


def _probabilities(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-plane.astype(np.float64)))).astype(np.float32)


def _compare(engine: ConceptEngine, scene: Scene, figures: _Figures) -> None:
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    texts = sorted({f"{item.color} {item.shape}" for item in scene.objects})
    (embedding,) = engine.encode([engine.prepare(scene.image)])
    prompts = [ConceptPrompt(text, *none, CONFIDENCE) for text in texts]
    for text, found in zip(texts, engine.decode(queries(embedding, prompts)), strict=True):
        objects = [Mask.from_plane(item.mask) for item in scene.matching(text)]
        for plane in found.planes:
            figures.add(
                upsample_mask(plane, embedding.size, found.threshold),
                upsample_mask(_probabilities(plane), embedding.size, 0.5),
                objects,
            )


def run(small: bool) -> Report:
    """Count the pixels that differ between both ways, with the demo checkpoint.

    Args:
        small: use one scene per size in place of 25.
    """
    found = find_sam3("demo")
    compute = choose_compute("auto", "float32")
    model, processor = load_sam3(found.source, found.name, compute)
    engine = ConceptEngine(model, processor, found.name, compute)
    rows, gains = [], []
    for width, height in IMAGE_SIZES:
        figures = _Figures()
        for seed in range(1 if small else PER_SIZE):
            _compare(engine, make_scene(seed, (width, height)), figures)
        rows.append(figures.row(f"{width} x {height}"))
        gains += [a - b for a, b in zip(figures.logits, figures.probabilities, strict=True)]
    return Report(
        "thresholds",
        "Masks from logits or from probabilities",
        [Table("Every object of the scenes, named by colour and shape", rows)],
        [
            Goal(
                "gain in IoU with the truth over probabilities",
                statistics.fmean(gains),
                0.0,
                "at least",
                "",
            ),
        ],
        [
            "SAM 3 (demo). The server enlarges a concept's logits to the image and compares them "
            "with 0, as Meta's code does. `post_process_instance_segmentation` of `transformers` "
            "enlarges probabilities and compares them with 0.5. The two agree in the model's own "
            "pixels and differ between them, along edges.",
        ],
    )
