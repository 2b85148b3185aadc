"""The parts that a running server is made of."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from inference_server.auth import KeyRing
from inference_server.engines.registry import ModelRegistry
from inference_server.errors import ModelUnavailableError
from inference_server.metrics import Metrics
from inference_server.segmenter import Segmenter
from inference_server.settings import Settings
from schemas.common import Limits

logger = logging.getLogger(__name__)


@dataclass
class ServerState:
    """What requests are answered with, from start-up to shut-down.

    Attributes:
        settings: of the server.
        limits: bounds of requests.
        keys: who may call.
        models: the models.
        segmenter: images and prompts to masks.
        metrics: what is measured.
        failure: why the configured models could not be loaded.
        ready: the configured models were loaded once; unloading them does not undo that.
    """

    settings: Settings
    limits: Limits
    keys: KeyRing
    models: ModelRegistry
    segmenter: Segmenter
    metrics: Metrics
    failure: str = ""
    ready: bool = False
    _loading: asyncio.Task[None] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Begin loading the configured models."""
        self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        try:
            await self.models.load_configured()
        except ModelUnavailableError as error:
            self.failure = error.message
            logger.error("Not ready, and will not be: %s", error.message)
        except Exception:
            self.failure = "The models could not be loaded; the server's log says why."
            logger.exception("Not ready, and will not be: the models could not be loaded")
        else:
            self.ready = True
            logger.info("Ready")

    def stop(self) -> None:
        """Let go of models and threads."""
        if self._loading is not None:
            self._loading.cancel()
        self.segmenter.close()
