"""How far a job is, and what a task tells its worker about the attempt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How much of a job is done.

    Attributes:
        done: windows that are finished, with or without data.
        total: windows of the raster.
        skipped: windows of `done` that have no data.
        objects: objects found so far.
    """

    done: int
    total: int
    skipped: int = 0
    objects: int = 0

    @property
    def share(self) -> float:
        """Part of the windows that is finished, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0

    def dump(self) -> str:
        """Return the value of the column `progress`."""
        return json.dumps(astuple(self))

    @classmethod
    def load(cls, stored: str | None) -> JobProgress | None:
        """Read the column `progress`; None if it is empty."""
        return cls(*json.loads(stored)) if stored else None


class Attempt:
    """A job's attempt, as its task sees it. Use it from the event loop.

    Args:
        seconds: most time of an attempt that works on a raster by windows, in seconds.

    Attributes:
        limit: `seconds` once the attempt works on a raster; None before.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begin = 0.0
        self._deadline: asyncio.Timeout | None = None
        self._news = asyncio.Event()
        self._latest: JobProgress | None = None
        self.limit: float | None = None

    @property
    def latest(self) -> JobProgress | None:
        """What was reported last; None before the first report."""
        return self._latest

    def begin(self, deadline: asyncio.Timeout) -> None:
        """Begin, with the time limit that ends the attempt."""
        self._deadline = deadline
        self._begin = asyncio.get_running_loop().time()

    @contextmanager
    def by_windows(self) -> Iterator[None]:
        """Give the attempt the time of a raster; see `TaskContext.by_windows`."""
        self.extend()
        yield

    def extend(self) -> None:
        """Give the attempt the time of a raster, counted from its begin. Call it once or more."""
        if self.limit is None and self._deadline is not None:
            self.limit = self._seconds
            self._deadline.reschedule(self._begin + self._seconds)

    def report(self, progress: JobProgress) -> None:
        """Tell how far the attempt is; a report of less than the last one is ignored.

        Args:
            progress: finished windows and objects.
        """
        if self._latest is None or progress.share >= self._latest.share:
            self._latest = progress
            self._news.set()

    async def next_report(self) -> JobProgress:
        """Wait for a report that was not returned yet, and return the latest."""
        await self._news.wait()
        self._news.clear()
        assert self._latest is not None  # noqa: S101 - set before the event
        return self._latest
