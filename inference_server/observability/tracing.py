"""Traces by OpenTelemetry: a span a request or a job, with a span a step below it.

Off unless the extra `tracing` is installed and one of OpenTelemetry's own variables names a
collector; then those variables say everything else too. Spans hold what the access log holds: no
query, no key and nothing of an image.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from inference_server import __version__
from inference_server.observability.metrics import Timings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

logger = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Where to send traces; neither of them set, there are none."""

Attributes = Mapping[str, str | int | float]

_FLUSH_SECONDS = 5.0


class Traces:
    """Makes spans.

    Args:
        provider: where they go.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("inference_server", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """A span for the block, in the client's trace where `headers` have a `traceparent`.

        Args:
            method: of the request; the span is called after it until `describe` knows the route.
            headers: of the request, by lower-case name.
        """
        from opentelemetry.trace import SpanKind

        context = self._propagator.extract(headers)
        with self._tracer.start_as_current_span(
            method, context, kind=SpanKind.SERVER, record_exception=False
        ) as span:
            yield span

    @contextmanager
    def job(self, kind: str, job_id: str) -> Iterator[Span]:
        """A span for an attempt at a job, in a trace of its own.

        Args:
            kind: what it asks for.
            job_id: its id.
        """
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        with self._tracer.start_as_current_span(
            f"job {kind}",
            Context(),
            kind=SpanKind.CONSUMER,
            attributes={"inference.job_id": job_id, "inference.job_kind": kind},
            record_exception=False,
        ) as span:
            yield span

    def describe(self, span: Span, timings: Timings, attributes: Attributes) -> None:
        """Tell what became of a request: its attributes, and a span for each of its steps.

        Args:
            span: of the request or the job.
            timings: when its steps were.
            attributes: of the span.
        """
        from opentelemetry.trace import StatusCode, set_span_in_context

        if not span.is_recording():
            return
        span.set_attributes(dict(attributes))
        route = attributes.get("http.route")
        if route is not None:
            span.update_name(f"{attributes.get('http.request.method')} {route}")
        status = attributes.get("http.response.status_code", 0)
        if isinstance(status, int) and status >= 500:
            span.set_status(StatusCode.ERROR)
        # Steps are measured by another clock, which has no date.
        # That one is read first: whatever comes between the two, no step begins before its span.
        now = time.perf_counter_ns()
        since = time.time_ns() - now
        above = set_span_in_context(span)
        for stage, begin, end in timings.steps:
            step = self._tracer.start_span(stage, above, start_time=since + int(begin * 1e9))
            step.end(since + int(end * 1e9))

    def close(self) -> None:
        """Send what is left, for some seconds at most."""
        self._provider.force_flush(int(_FLUSH_SECONDS * 1e3))
        self._provider.shutdown()


def start_traces(environment: Mapping[str, str] = os.environ) -> Traces | None:
    """Begin to trace, where that is asked for and possible.

    Args:
        environment: says whether; the rest of OpenTelemetry's variables are read by its own
            library.

    Returns:
        What makes spans; None where there are to be none.
    """
    name = next((name for name in ENDPOINTS if environment.get(name)), None)
    if name is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning(
            "%s is set, but there are no traces: install the extra `tracing`, "
            "`pip install 'inference-server[tracing]'`.",
            name,
        )
        return None
    service = environment.get("OTEL_SERVICE_NAME") or "inference-server"
    resource = Resource.create({SERVICE_NAME: service, SERVICE_VERSION: __version__})
    # A provider of its own: a program that has the server inside keeps its own traces.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    logger.info("Traces go to the collector that %s names", name)
    return Traces(provider)
