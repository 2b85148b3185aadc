"""The models of a local service: loaded for requests, listed, and unloaded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from typing import TypeVar

from inference_server.engines.catalog import ModelKey
from inference_server.engines.model import ConceptModel, VisualModel
from inference_server.engines.registry import ModelRegistry
from inference_server.observability.metrics import Timings
from inference_server.segmentation.types import Checkpoint, EmbeddingTarget

T = TypeVar("T")


class ModelAccess:
    """Gets models for requests, and lists and unloads them.

    Args:
        registry: loads the models on demand.
    """

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    async def concept(
        self, named: ModelKey | None, timings: Timings
    ) -> tuple[ConceptModel, ModelKey]:
        """Return the model that answers words and exemplars, and the name that selects it.

        Args:
            named: the model that a request names; None if it names none.
            timings: receives the time that the request waits for the model to be loaded.

        Raises:
            ModelUnavailableError: it is unknown, or its weights cannot be loaded.
        """
        key = self._registry.catalog.concept(named)
        return await self._wait(key, partial(self._registry.concept, named), timings), key

    async def visual(
        self, named: ModelKey | None, timings: Timings
    ) -> tuple[VisualModel, ModelKey]:
        """Return the model that answers points and boxes, and the name that selects it.

        Args:
            named: see `concept`.
            timings: see `concept`.

        Raises:
            ModelUnavailableError: see `concept`.
        """
        catalog = self._registry.catalog
        key = catalog.visual(named)
        model = await self._wait(key, partial(self._registry.visual, named), timings)
        return model, catalog.visual(named)  # another key if the weights have no visual head

    async def of_target(
        self, target: EmbeddingTarget, timings: Timings
    ) -> tuple[ConceptModel | VisualModel, ModelKey]:
        """Return the model that an image is encoded for, and the name that selects it.

        Args:
            target: kind of prompts, and the model that the request names.
            timings: see `concept`.

        Raises:
            ModelUnavailableError: see `concept`.
        """
        if target.prompts == "concept":
            return await self.concept(target.model, timings)
        return await self.visual(target.model, timings)

    async def _wait(self, key: ModelKey, load: Callable[[], Awaitable[T]], timings: Timings) -> T:
        """Wait for a model; that is a stage of the request if the model has to be loaded."""
        if self._registry.is_loaded(key):
            return await load()
        with timings.measure("load"):
            return await load()

    def checkpoints(self) -> list[Checkpoint]:
        """List the checkpoints that requests can use."""
        registry, compute = self._registry, self._registry.compute
        known = []
        for key in registry.catalog.keys:
            weights = registry.find(key)
            known.append(
                Checkpoint(
                    key.family,
                    key.name,
                    registry.catalog.checkpoint(key).name,
                    str(compute.device),
                    compute.dtype_name,
                    weights is not None,
                    compute.cache_dtype_name,
                    **asdict(registry.effort),
                    nbytes=weights.nbytes if weights else 0,
                    last_used=weights.usage.last_used if weights else None,
                    side=weights.models[0].side if weights else None,
                )
            )
        return known

    async def unload(
        self, key: ModelKey | None = None, then: Callable[[], None] = lambda: None
    ) -> None:
        """Unload models, and return their memory to the device.

        Args:
            key: the model; None (the default) for all.
            then: called at once after the models were unloaded, before their memory is returned.

        Raises:
            ModelUnavailableError: the model is unknown.
        """
        from inference_server.engines.device import release_memory

        def on_freed() -> None:
            asyncio.get_running_loop().run_in_executor(None, release_memory)

        self._registry.unload(on_freed, key)
        then()
        await asyncio.to_thread(release_memory)
