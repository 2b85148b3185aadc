"""Worker threads: the CPU's work, away from the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from inference_server.engines.worker import BACKGROUND, be_nice

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
        self._workers = ThreadPoolExecutor(self.count, thread_name_prefix="cpu")
        self._readers = ThreadPoolExecutor(
            self.count, thread_name_prefix="images", initializer=be_nice, initargs=(BACKGROUND,)
        )

    async def run(self, work: Callable[[], T]) -> T:
        """Run CPU work in a worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)

    async def run_in_background(self, work: Callable[[], T]) -> T:
        """Run CPU work on an image in a thread that lets others go first."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    def close(self) -> None:
        """Stop; what waits is dropped."""
        for pool in (self._workers, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)
