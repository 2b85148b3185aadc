"""Statistics of repeated durations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of repetitions of the same work.

    Attributes:
        seconds: duration of each repetition in seconds, ascending.
    """

    seconds: tuple[float, ...]

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Create a timing from durations.

        Args:
            seconds: durations in seconds, in any order; at least one.
        """
        return cls(tuple(sorted(seconds)))

    @property
    def median(self) -> float:
        """Median in seconds."""
        return statistics.median(self.seconds)

    @property
    def mean(self) -> float:
        """Mean in seconds."""
        return statistics.fmean(self.seconds)

    @property
    def best(self) -> float:
        """Minimum in seconds: the duration without disturbance by other work."""
        return self.seconds[0]

    def percentile(self, share: float) -> float:
        """Return the nearest-rank percentile in seconds.

        Args:
            share: rank in (0, 1], such as 0.95 for the 95th percentile.
        """
        return self.seconds[max(0, math.ceil(share * len(self.seconds)) - 1)]
