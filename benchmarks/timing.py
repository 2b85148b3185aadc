"""Durations and memory of alternating implementations."""

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

_SETTLE = 0.005
"""Seconds between two timed calls: OpenMP's threads wait busily for a millisecond after a call, and
would take the cores from the next one if it runs in another process."""


def timed(work: Work) -> float:
    """Return the seconds of one call.

    Args:
        work: function to call.
    """
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compare(ways: Mapping[str, Work], *, rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Time several implementations alternately, so that disturbances affect all of them.

    Args:
        ways: functions by name.
        rounds: timed calls of each.
        warmup: untimed calls of each before. Default: 1.

    Returns:
        Durations by name.
    """
    for work in ways.values():
        for _ in range(warmup):
            work()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            time.sleep(_SETTLE)
            taken[name].append(timed(work))
    return {name: Timing.of(seconds) for name, seconds in taken.items()}


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Fit `cost = a * size ** k` by least squares of logarithms; return k.

    Args:
        sizes: at least two different sizes above 0.
        costs: cost of each size, above 0.
    """
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    return statistics.linear_regression(x, y).slope


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def peak_memory(work: Work, *, interval: float = 0.0005) -> int:
    """Measure the additional peak memory of this process during a call.

    Samples the resident memory from a thread; Linux only. Freed memory is first returned to the
    system, because it would hide the call's memory. Call the function once before, so that
    permanent allocations do not count.

    Args:
        work: function to call.
        interval: seconds between samples. Default: 0.0005.

    Returns:
        Peak resident memory minus that before the call, in bytes.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    before = most = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(interval):
            most = max(most, resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
        most = max(most, resident())
    finally:
        done.set()
        watcher.join()
    return most - before
