"""What is measured: durations of a request's steps, and the Prometheus metrics they end up in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

from inference_server.engines.batch_queue import BatchResult
from inference_server.errors import (
    AuthError,
    CreditsError,
    InferenceServerError,
    ScopeError,
    TransientError,
)

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64)

STAGES = ("fetch", "decode", "queue", "encode", "decode-prompts", "masks", "serialise")
"""The steps of a request, in their order, by their names in `server-timing`."""


class Timings:
    """Seconds that one request spent in each of `STAGES`.

    Attributes:
        seconds: by stage.
        steps: each (stage, begin, end) by `time.perf_counter`, for traces.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.steps: list[tuple[str, float, float]] = []

    def add(self, stage: str, seconds: float, *, before: float = 0.0) -> None:
        """Count seconds towards a stage.

        Args:
            stage: one of `STAGES`.
            seconds: how long it took.
            before: how many seconds ago it ended.
        """
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        end = time.perf_counter() - before
        self.steps.append((stage, end - seconds, end))

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time that the block takes towards a stage."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - begin)

    def header(self) -> str:
        """The value of the `server-timing` header, in milliseconds."""
        known = (stage for stage in STAGES if stage in self.seconds)
        return ", ".join(f"{stage};dur={self.seconds[stage] * 1e3:.2f}" for stage in known)


class Metrics:
    """The server's Prometheus metrics, in a registry of their own so that servers do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "inference_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self.failures = Counter(
            "inference_failures",
            "Failed requests by route and reason.",
            ["route", "reason"],
            registry=self.registry,
        )
        self.duration = Histogram(
            "inference_request_seconds",
            "Seconds a request, by route.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stages = Histogram(
            "inference_stage_seconds",
            "Seconds that a request spent in a step.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "inference_batch_size",
            "Images or prompts done in one forward, by lane.",
            ["lane"],
            buckets=_COUNTS,
            registry=self.registry,
        )
        self.rejections = Counter(
            "inference_rejections",
            "Requests that were refused without work, by reason: what was full, or who asked.",
            ["reason"],
            registry=self.registry,
        )
        self.fetches = Counter(
            "inference_fetches",
            "Images fetched by URL, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self.jobs = Counter(
            "inference_jobs",
            "Attempts at jobs by kind and outcome.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)

    def refused(self, error: InferenceServerError) -> None:
        """Count a request that ended with this error, where that means that it was refused."""
        if isinstance(error, TransientError | AuthError | ScopeError | CreditsError):
            self.rejections.labels(getattr(error, "full", "") or error.reason).inc()

    def count_batches(self, lane: str, done: BatchResult[Any]) -> None:
        """Count each forward once: with the request whose item was its first."""
        for size in done.led:
            self.batches.labels(lane).observe(size)

    def observe(self, timings: Timings) -> None:
        """Count the steps of a finished request."""
        for stage, seconds in timings.seconds.items():
            self.stages.labels(stage).observe(seconds)
