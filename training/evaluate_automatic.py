"""Accuracy of automatic masks on scenes that were not used in training."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from inference_server.demo.scenes import Scene
from inference_server.engines.base import Candidates, Query, RGBImage, VisualPrompt
from inference_server.engines.batch_queue import BatchResult
from inference_server.segmentation.automatic import AutomaticMasks
from inference_server.segmentation.types import AutomaticOptions, Instance
from training.evaluate_visual import PromptedEngine
from training.scores import ConceptScore, plane_iou

T = TypeVar("T")
_RIGHT = 0.9


@dataclass
class AutomaticReport:
    """Figures of automatic masks.

    Attributes:
        score: score of the scenes. Each mask without a matching object counts as wrong, including
            masks of the background.
        rectangles: number of plain rectangles with a mask of IoU 0.9 or more, of three.
        found: number of masks in their image.
    """

    score: ConceptScore = field(default_factory=ConceptScore)
    rectangles: int = 0
    found: int = 0


def plain_rectangles() -> tuple[RGBImage, list[NDArray[np.bool_]]]:
    """Return three bright rectangles on black, 160 x 128 pixels, and their planes."""
    image = np.zeros((128, 160, 3), np.uint8)
    planes = []
    for (x0, y0, x1, y1), color in (
        ((12, 12, 50, 60), (255, 255, 255)),
        ((70, 20, 110, 50), (240, 220, 40)),
        ((90, 70, 150, 115), (60, 200, 240)),
    ):
        image[y0:y1, x0:x1] = color
        plane = np.zeros(image.shape[:2], bool)
        plane[y0:y1, x0:x1] = True
        planes.append(plane)
    return image, planes


class AutomaticEvaluation:
    """Evaluates automatic masks.

    Args:
        engine: engine to evaluate.
        options: options of the search. Default: those of requests.
    """

    def __init__(self, engine: PromptedEngine, options: AutomaticOptions | None = None) -> None:
        self._engine = engine
        self._options = options or AutomaticOptions()

    async def decode(self, queries: Sequence[Query[VisualPrompt]]) -> BatchResult[list[Candidates]]:
        """Decode prompts at once, where a server has a queue."""
        value = await asyncio.to_thread(self._engine.decode, list(queries))
        return BatchResult(value, 0.0, 0.0, len(queries))

    def run(self, scenes: list[Scene], done: Callable[[], None] = lambda: None) -> AutomaticReport:
        """Evaluate scenes, and the plain rectangles.

        Args:
            scenes: scenes to segment.
            done: called after each scene. Default: does nothing.
        """
        report = AutomaticReport()
        for scene in scenes:
            found = asyncio.run(self._masks(scene.image))
            report.score.add([instance.mask for instance in found], scene.objects)
            done()
        image, planes = plain_rectangles()
        found = asyncio.run(self._masks(image))
        report.found = len(found)
        report.rectangles = sum(
            any(plane_iou(instance.mask, plane) >= _RIGHT for instance in found) for plane in planes
        )
        return report

    async def _masks(self, image: RGBImage) -> list[Instance]:
        masks = AutomaticMasks(self, self._engine.encode(image), self._options, _in_thread)
        await masks.search(lambda done: None)
        return await masks.finish()


async def _in_thread(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)
