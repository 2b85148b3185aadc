"""Exports a replica's gauges and counters through Ray's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.samples import Sample
from ray.serve.metrics import Counter, Gauge

INTERVAL = 5.0
"""Seconds between exports; Ray itself exports every 10 s."""


class ExportedReadings:
    """Copies metrics to Ray, which adds labels for deployment and replica. Created in a replica.

    Args:
        read: returns the current gauges and counters.
    """

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, Counter] = {}
        self._counted: dict[tuple[str, tuple[str, ...]], float] = {}

    async def export(self) -> None:
        """Export once, as a step of a background task."""
        self.update()

    def update(self) -> None:
        """Export once."""
        for metric in self._read():
            for sample in metric.samples:
                if isinstance(metric, CounterMetricFamily):
                    self._count(metric, sample)
                else:
                    self._set(metric, sample)

    def _set(self, metric: Metric, sample: Sample) -> None:
        gauge = self._gauges.get(metric.name)
        if gauge is None:
            gauge = Gauge(metric.name, metric.documentation, _names(sample))
            self._gauges[metric.name] = gauge
        gauge.set(sample.value, sample.labels)

    def _count(self, metric: Metric, sample: Sample) -> None:
        """Add the increase since the last export; Ray's counters do not accept zero."""
        counter = self._counters.get(metric.name)
        if counter is None:
            counter = Counter(metric.name, metric.documentation, _names(sample))
            self._counters[metric.name] = counter
        known = (metric.name, tuple(sample.labels.values()))
        more = sample.value - self._counted.get(known, 0.0)
        if more > 0:
            counter.inc(more, sample.labels)
            self._counted[known] = sample.value


def _names(sample: Sample) -> Any:
    """Return the label names; typed `Any` because Ray's type hints allow one label only."""
    return tuple(sample.labels)
