"""Which arithmetic is faster on this machine's CPU, measured.

CPU flags do not tell: a CPU may have instructions for bfloat16 that PyTorch's kernels do not use,
or lack them and emulate bfloat16 ten times slower than float32.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's usual name

ADVANTAGE = 1.2
"""How many times faster bfloat16 must be to be chosen. Near 1 the choice would differ between runs,
and with it the masks of the replicas of one cluster."""

_PIXELS, _WIDTH, _HIDDEN = 64, 384, 1536
"""Shape of the measured product: a layer of an image encoder's MLP, for a part of the pixels."""

_SMALL = 8
"""A first product has this many times fewer pixels, in case bfloat16 is emulated slowly."""

_TURNS = 7
"""Measurements of each arithmetic; the best counts, because other work only slows a product."""

_MEASURING = threading.Lock()

_LEAST = 3
"""Turns that are made in any case: one alone may have been interrupted."""

_BUDGET = 0.02
"""Seconds of a size after which no further turn begins."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds that the same product takes in each arithmetic.

    Attributes:
        float32: Seconds in float32.
        bfloat16: Seconds in bfloat16.
    """

    float32: float
    bfloat16: float

    @property
    def prefers_bfloat16(self) -> bool:
        """Whether bfloat16 is faster by the factor `ADVANTAGE`."""
        return self.float32 >= ADVANTAGE * self.bfloat16


def _product(dtype: torch.dtype, pixels: int) -> Callable[[], object]:
    """A linear layer of an image encoder, ready to run."""
    return partial(
        F.linear,
        torch.full((pixels, _WIDTH), 0.5, dtype=dtype),
        torch.full((_HIDDEN, _WIDTH), 0.01, dtype=dtype),
        torch.zeros(_HIDDEN, dtype=dtype),
    )


def measure(
    product: Callable[[torch.dtype, int], Callable[[], object]] = _product,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Measure a product of the models in both arithmetics, in turns; takes about 0.05 seconds.

    Args:
        product: Makes a product from a dtype and a number of pixels. Default: a linear layer.
        clock: Seconds from any start. Default: the machine's.

    Returns:
        The best time of each. If a small product in bfloat16 takes over twice as long as in
        float32, these are its times.
    """

    def seconds(work: Callable[[], object]) -> float:
        start = clock()
        work()
        return clock() - start

    best = (float("inf"), float("inf"))
    with torch.inference_mode():
        for pixels, turns in ((_PIXELS // _SMALL, 3), (_PIXELS, _TURNS)):
            works = [product(dtype, pixels) for dtype in (torch.float32, torch.bfloat16)]
            for work in works:
                work()  # the first call prepares the kernel
            best, begin = (float("inf"), float("inf")), clock()
            for turn in range(turns):
                if turn >= _LEAST and clock() - begin > _BUDGET:
                    break
                best = (min(best[0], seconds(works[0])), min(best[1], seconds(works[1])))
            if best[1] > 2 * best[0]:
                break
    return Speed(*best)


def cpu_speed() -> Speed:
    """The speed of this machine's CPU, measured once per process."""
    with _MEASURING:  # models that load at the same time would slow each other's measurement
        return _measured()


@cache
def _measured() -> Speed:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine, threads that wait for each other measure its load
    try:
        return measure()
    finally:
        torch.set_num_threads(threads)
