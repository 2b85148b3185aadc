"""Durations and memory, taken side by side."""

from __future__ import annotations

import ctypes
import math
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from inference_server.bench.timing import Timing

Work = Callable[[], object]


def timed(work: Work) -> float:
    """Seconds that one call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compare(ways: Mapping[str, Work], *, rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Time several ways in turns, so that whatever disturbs the machine disturbs all of them.

    Args:
        ways: work by name.
        rounds: how often each is timed.
        warmup: how often each is done before that.

    Returns:
        Durations by name.
    """
    for work in ways.values():
        for _ in range(warmup):
            work()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            taken[name].append(timed(work))
    return {name: Timing.of(seconds) for name, seconds in taken.items()}


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The k of the power law `cost = a * size ** k` that fits best (least squares of logarithms).

    Args:
        sizes: at least two different ones, over 0.
        costs: of each size, over 0.
    """
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    return statistics.linear_regression(x, y).slope


def _resident() -> int:
    """Resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def peak_memory(work: Work, *, interval: float = 0.0005) -> int:
    """Resident memory that this process takes at most while it works, less what it had before.

    Sampled from a thread; Linux only. What was freed before goes back to the system first, as it
    would hide what the work takes. Do the work once before, so that what is allocated once and kept
    does not count.

    Args:
        work: what to watch.
        interval: seconds between two looks.

    Returns:
        Bytes, 0 or more.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    before = most = _resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(interval):
            most = max(most, _resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
        most = max(most, _resident())
    finally:
        done.set()
        watcher.join()
    return most - before
