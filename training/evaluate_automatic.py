"""How well automatic masks find the objects of scenes that no training has seen."""

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
    """Segments everything in scenes.

    Every mask that no object matches counts as wrong, also one of the background.

    Args:
        weights: of SAM 2, as the setting.
        device: to compute on, as the setting.
        options: of the search; by default those that requests use by default.
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
        """Look at scenes.

        Args:
            scenes: to look at.
            done: called after each.
        """
        return asyncio.run(self._run(scenes, done))

    async def _run(self, scenes: list[Scene], done: Callable[[], None]) -> ConceptScore:
        score = ConceptScore()
        models = ModelRegistry(self._settings)
        try:
            model = await models.visual(models.default_version)
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
