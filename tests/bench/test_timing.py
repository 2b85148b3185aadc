"""Statistics of durations."""

from __future__ import annotations

from inference_server.bench.timing import Timing


def test_percentiles_are_of_what_was_timed() -> None:
    timing = Timing.of([float(i) for i in range(100, 0, -1)])
    assert (timing.best, timing.median, timing.mean) == (1, 50.5, 50.5)
    assert [timing.percentile(share) for share in (0.01, 0.5, 0.95, 1.0)] == [1, 50, 95, 100]
