"""Durations of work that is done several times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of the same work, done several times.

    Attributes:
        seconds: of each time, ascending.
    """

    seconds: tuple[float, ...]

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """From durations in any order."""
        return cls(tuple(sorted(seconds)))

    @property
    def median(self) -> float:
        """Half of the times took longer, in seconds."""
        return statistics.median(self.seconds)

    @property
    def mean(self) -> float:
        """Mean in seconds."""
        return statistics.fmean(self.seconds)

    @property
    def best(self) -> float:
        """The shortest, in seconds: what it costs when nothing else disturbs it."""
        return self.seconds[0]

    def percentile(self, share: float) -> float:
        """Nearest-rank percentile in seconds; `share` is in (0, 1], 0.95 for p95."""
        return self.seconds[max(0, math.ceil(share * len(self.seconds)) - 1)]
