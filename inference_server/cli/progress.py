"""Progress on standard error: a bar on a terminal, periodic lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

INTERVAL = 10.0
"""Seconds between two progress lines."""


class _Rate(ProgressColumn):
    """Recent throughput in items per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


class Bar:
    """Shows the progress of a run.

    Args:
        noun: name of the items in the plural, such as `images`.
        total: number of items.
        done: number of items done by earlier runs. Default: 0.
        quiet: show nothing. Default: False.
        interval: seconds between two lines if there is no terminal. Default: 10.
    """

    def __init__(
        self,
        noun: str,
        total: int,
        *,
        done: int = 0,
        quiet: bool = False,
        interval: float = INTERVAL,
    ) -> None:
        self._noun, self._total, self._done = noun, total, done
        self._first, self._failed = done, 0
        self._quiet = quiet
        self._interval = interval
        self._begin = self._told = time.monotonic()
        console = Console(stderr=True)
        self._progress: Progress | None = None
        if console.is_terminal and not quiet:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[noun]}"),
                _Rate(),
                TimeRemainingColumn(),
                TextColumn("[red]{task.fields[failed]}"),
                console=console,
            )
            self._task = self._progress.add_task(
                "Segmenting", total=total, completed=done, failed="", noun=noun
            )

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self, *, failed: bool = False) -> None:
        """Count one more item.

        Args:
            failed: whether the item failed. Default: False.
        """
        self._done += 1
        self._failed += failed
        if self._progress is not None:
            told = f"{self._failed} failed" if self._failed else ""
            self._progress.update(self._task, advance=1, failed=told)
        elif not self._quiet:
            now = time.monotonic()
            if self._done == self._total or now - self._told >= self._interval:
                self._told = now
                click.echo(self._line(now), err=True)

    @contextmanager
    def part(self, name: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
        """Show the windows of one item while the block runs, with the time left.

        Args:
            name: the item, such as a file's name.
            total: number of its windows.
            done: number of windows that an earlier run finished.

        Yields:
            A function to call with the number of windows that are done.
        """
        if done and not self._quiet:
            click.echo(f"{name}: resuming at window {done + 1} of {total}.", err=True)
        begin = told = time.monotonic()
        shown = done
        bar = self._progress
        task = (
            None
            if bar is None
            else bar.add_task(name, total=total, completed=done, failed="", noun="windows")
        )

        def reach(count: int) -> None:
            nonlocal told, shown
            if count <= shown:  # repeated from the earlier run
                return
            shown = count
            if bar is not None and task is not None:
                bar.update(task, completed=count)
            elif not self._quiet:
                now = time.monotonic()
                if count == total or now - told >= self._interval:
                    told = now
                    rate = (count - done) / max(now - begin, 1e-9)
                    click.echo(_progress_line(f"{name}: ", count, total, "windows", rate), err=True)

        try:
            yield reach
        finally:
            if bar is not None and task is not None:
                bar.remove_task(task)

    def _line(self, now: float) -> str:
        rate = (self._done - self._first) / max(now - self._begin, 1e-9)
        line = _progress_line("", self._done, self._total, self._noun, rate)
        return f"{line}, {self._failed} failed" if self._failed else line


def _progress_line(name: str, done: int, total: int, noun: str, rate: float) -> str:
    """Format a line such as `40 of 100 images, 2.0/s, 0:30 left`."""
    line = f"{name}{done} of {total} {noun}, {rate:.1f}/s"
    left = (total - done) / rate
    return f"{line}, {_duration(left)} left" if left else line


def _duration(seconds: float) -> str:
    """Format a duration like `1:02:03` or `0:42`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
