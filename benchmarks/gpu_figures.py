"""Timings of the GPU benchmark, by figure and way."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import click

from benchmarks.gpu_service import measured
from benchmarks.report import Cell
from inference_server.bench.timing import Timing

HERE, PLAIN, FLOAT32, BFLOAT16 = "here", "here, no graphs", "eager float32", "eager bfloat16"
WAYS = (HERE, PLAIN, FLOAT32, BFLOAT16)
"""Ways to answer a request."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        size: (width, height) of the image in pixels.
        seconds: duration of each measurement.
        least: minimum repetitions.
        warm: repetitions before, which are not timed.
        batches: images per pass of an encoder.
        texts: texts per request.
        clients: clients at a time.
        grid: points along each side of the automatic grid.
        budget: seconds after which no further measurement begins.
    """

    size: tuple[int, int]
    seconds: float
    least: int
    warm: int
    batches: tuple[int, ...]
    texts: tuple[int, ...]
    clients: tuple[int, ...]
    grid: int
    budget: float


@dataclass(slots=True)
class Figures:
    """Medians by figure and way, and what was skipped because time was up.

    Attributes:
        scale: extent of the run.
        timings: timings by figure, then by way.
        skipped: measurements that were not begun.
        failures: errors, with what failed. The rest is measured nevertheless.
        begin: when the run began.
    """

    scale: Scale
    timings: dict[str, dict[str, Timing]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    begin: float = field(default_factory=time.perf_counter)

    @property
    def is_late(self) -> bool:
        """Whether the time is up."""
        return time.perf_counter() - self.begin > self.scale.budget

    async def add(self, figure: str, way: str, work: Callable[[], Awaitable[object]]) -> None:
        """Measure something.

        Args:
            figure: name of the figure.
            way: one of `WAYS`.
            work: the request.
        """
        if self.is_late:
            self.skipped.append(f"{figure} ({way})")
            return
        click.echo(f"  {figure}: {way}", err=True)
        scale = self.scale
        with self.noting(f"{figure} ({way})"):
            timing = await measured(work, scale.seconds, least=scale.least, warm=scale.warm)
            self.timings.setdefault(figure, {})[way] = timing

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Note an error and go on.

        Args:
            what: what fails then.
        """
        try:
            yield
        except Exception as error:  # such as a kernel that a GPU lacks
            self.failures.append(f"{what}: {type(error).__name__}: {error}".partition("\n")[0])
            click.echo(traceback.format_exc(), err=True)

    def add_eager(self, figure: str, way: str, work: Callable[[], object]) -> None:
        """Measure something that does not wait for others; see `add`."""

        async def call() -> object:
            return work()

        asyncio.run(self.add(figure, way, call))

    def rows(self) -> list[dict[str, Cell]]:
        """One row per figure, in ms."""
        rows: list[dict[str, Cell]] = []
        for figure, ways in self.timings.items():
            row: dict[str, Cell] = {"figure": figure}
            for way in WAYS:
                row[f"{way} (ms)"] = 1e3 * ways[way].median if way in ways else "-"
            row["here, p95 (ms)"] = 1e3 * ways[HERE].percentile(0.95) if HERE in ways else "-"
            both = HERE in ways and BFLOAT16 in ways
            row["eager bfloat16 / here (x)"] = (
                ways[BFLOAT16].median / ways[HERE].median if both else "-"
            )
            rows.append(row)
        return rows
