"""Accuracy of automatic masks on scenes that were not used in training."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from inference_server.demo.scenes import Scene
from inference_server.engines.registry import ModelRegistry
from inference_server.segmentation.automatic import AutomaticMasks
from inference_server.segmentation.types import AutomaticOptions, Instance
from inference_server.settings import Settings
from training.evaluate import ConceptScore

T = TypeVar("T")


class AutomaticEvaluation:
    """Evaluates automatic masks.

    Each mask without a matching object counts as wrong, including masks of the background.

    Args:
        weights: as in `INFERENCE_SAM2_WEIGHTS`. Default: `demo`.
        device: as in `INFERENCE_DEVICE`. Default: `auto`.
        options: options of the search. Default: those of requests.
    """

    def __init__(
        self,
        weights: str = "demo",
        device: str = "auto",
        options: AutomaticOptions | None = None,
    ) -> None:
        self._settings = Settings(sam2_weights=weights, device=device)
        self._options = options or AutomaticOptions()

    def run(self, scenes: list[Scene], done: Callable[[], None] = lambda: None) -> ConceptScore:
        """Evaluate scenes.

        Args:
            scenes: scenes to segment.
            done: called after each scene. Default: does nothing.
        """
        return asyncio.run(self._run(scenes, done))

    async def _run(self, scenes: list[Scene], done: Callable[[], None]) -> ConceptScore:
        score = ConceptScore()
        models = ModelRegistry(self._settings)
        try:
            model = await models.visual()
            for scene in scenes:
                embedding = (await model.encode(model.prepare(scene.image))).value
                masks = AutomaticMasks(model, embedding, self._options, _in_thread)
                await masks.search(lambda done: None)
                found: list[Instance] = await masks.finish()
                score.add([instance.mask for instance in found], scene.objects)
                done()
        finally:
            models.close()
        return score


async def _in_thread(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)
