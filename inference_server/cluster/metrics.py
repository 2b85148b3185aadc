"""A replica's caches and lanes among Ray's own metrics, which each machine has for Prometheus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.samples import Sample
from ray.serve.metrics import Counter, Gauge

logger = logging.getLogger(__name__)

_SECONDS = 5.0
"""Between two readings; Ray itself passes metrics on every ten."""


class ExportedReadings:
    """Hands readings on to Ray, which names deployment and replica with each of them.

    To be made in a replica.

    Args:
        read: reads them: gauges and counters.
    """

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, Counter] = {}
        self._counted: dict[tuple[str, tuple[str, ...]], float] = {}

    async def run(self) -> None:
        """Hand them on again and again, until it is cancelled."""
        while True:
            try:
                self.update()
            except Exception:
                logger.exception("The readings of this replica could not be told to Ray")
            await asyncio.sleep(_SECONDS)

    def update(self) -> None:
        """Hand them on once."""
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
        """Ray's counters take what has come since, and not zero."""
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
    """Of its labels; Ray takes any number of them, where its type hints have one."""
    return tuple(sample.labels)
