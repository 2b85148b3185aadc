"""Worker threads: the CPU's work, away from the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextvars import copy_context
from typing import TypeVar

from inference_server.engines.pool import Pool
from inference_server.engines.worker import BACKGROUND

T = TypeVar("T")


class Threads:
    """Threads for masks and answers, and others for images, which let those go first.

    Images are read in the background, as encoding them is: masks of others need not wait.

    Args:
        count: of either kind; 0 is one a core, at least two.

    Attributes:
        count: of either kind.
    """

    def __init__(self, count: int = 0) -> None:
        self.count = count or max(2, os.cpu_count() or 1)
        self._workers = Pool(self.count, "cpu")
        self._readers = Pool(self.count, "images", BACKGROUND)

    async def run(self, work: Callable[[], T]) -> T:
        """Run CPU work in a worker thread; what it logs is of the caller's request."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, copy_context().run, work)

    async def run_in_background(self, work: Callable[[], T]) -> T:
        """Run CPU work on an image in a thread that lets others go first."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, copy_context().run, work)

    def close(self) -> None:
        """Stop; what waits is dropped."""
        for pool in (self._workers, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)
