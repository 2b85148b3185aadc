"""Prometheus metrics, and the durations of a request's stages."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

from inference_server.errors import (
    AuthError,
    CreditsError,
    InferenceServerError,
    ScopeError,
    TransientError,
)

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64)

STAGES = (
    "load",
    "upload",
    "fetch",
    "decode",
    "queue",
    "encode",
    "decode-prompts",
    "masks",
    "serialise",
)
"""Stages of a request, in order, named as in `server-timing`."""

MAX_STEPS = 1000
"""Steps of a request that its trace shows: a raster has several for each of its windows, and making
a span for each takes time of the event loop."""


class Timings:
    """Seconds that one request spent in each of `STAGES`.

    Attributes:
        seconds: seconds by stage, of all steps.
        steps: (stage, begin, end) of the first `MAX_STEPS` steps, in seconds of
            `time.perf_counter`, for traces.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.steps: list[tuple[str, float, float]] = []

    def add(self, stage: str, seconds: float, *, before: float = 0.0) -> None:
        """Add the duration of a step to a stage.

        Args:
            stage: one of `STAGES`.
            seconds: duration in seconds.
            before: seconds since the step ended. Default: 0.
        """
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        if len(self.steps) < MAX_STEPS:
            end = time.perf_counter() - before
            self.steps.append((stage, end - seconds, end))

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the duration of the block to a stage."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - begin)

    def header(self) -> str:
        """Return the value of the `server-timing` header, in milliseconds."""
        return timing_header(self.seconds)


def timing_header(seconds: Mapping[str, float]) -> str:
    """Return the value of a `server-timing` header, in milliseconds.

    Args:
        seconds: seconds by stage.
    """
    known = (stage for stage in STAGES if stage in seconds)
    return ", ".join(f"{stage};dur={seconds[stage] * 1e3:.2f}" for stage in known)


class Metrics:
    """The server's Prometheus metrics, in a registry of their own: servers may share a process."""

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
            "Request duration in seconds, by route.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stages = Histogram(
            "inference_stage_seconds",
            "Seconds that a request spent in a stage.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "inference_batch_size",
            "Images or prompts per forward pass, by queue.",
            ["lane"],
            buckets=_COUNTS,
            registry=self.registry,
        )
        self.rejections = Counter(
            "inference_rejections",
            "Rejected requests, by reason: what was full, or why the key was refused.",
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
            "Job attempts by kind and outcome.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)

    def refused(self, error: InferenceServerError) -> None:
        """Count a failed request if its error means that it was rejected.

        Args:
            error: the error that the request ended with.
        """
        if isinstance(error, TransientError | AuthError | ScopeError | CreditsError):
            self.rejections.labels(getattr(error, "full", "") or error.reason).inc()

    def count_batches(self, lane: str, sizes: Iterable[int]) -> None:
        """Record the sizes of forward passes.

        Args:
            lane: name of the queue, such as `sam2 decode`.
            sizes: items per forward pass. Each pass is counted once, by the request whose item
                came first in it.
        """
        for size in sizes:
            self.batches.labels(lane).observe(size)

    def observe(self, timings: Timings) -> None:
        """Record the stages of a finished request.

        Args:
            timings: durations of its stages.
        """
        for stage, seconds in timings.seconds.items():
            self.stages.labels(stage).observe(seconds)
