"""OpenTelemetry traces: one span per request or job, with a child span per stage.

Off unless the extra `tracing` is installed and a standard OpenTelemetry variable names a collector;
the other standard variables apply, too. Spans hold the fields of the access log: no query, no API
key and no image data. `api.middleware.access_log` says why OpenTelemetry's ASGI middleware is not
used.
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
"""Variables that name the collector; tracing is off if neither is set."""

Attributes = Mapping[str, str | int | float]

_FLUSH_SECONDS = 5.0


class Traces:
    """Makes spans.

    Args:
        provider: exports the spans.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("inference_server", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """Open a span for a request, in the client's trace if there is a `traceparent` header.

        Args:
            method: HTTP method; the span's name until `describe` adds the route.
            headers: request headers by lower-case name.
        """
        from opentelemetry.trace import SpanKind

        context = self._propagator.extract(headers)
        with self._tracer.start_as_current_span(
            method, context, kind=SpanKind.SERVER, record_exception=False
        ) as span:
            yield span

    @contextmanager
    def job(self, kind: str, job_id: str) -> Iterator[Span]:
        """Open a span for an attempt at a job, in a new trace.

        Args:
            kind: kind of the job.
            job_id: id of the job.
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
        """Add attributes and child spans to the span of a finished request or job.

        Args:
            span: the span of the request or job.
            timings: the stages; each step that was kept becomes a child span.
            attributes: attributes of the span.
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
        # Steps are measured with perf_counter, spans with the system clock. perf_counter is read
        # first, so that a pause between the two reads cannot make a step begin before its span.
        now = time.perf_counter_ns()
        since = time.time_ns() - now
        above = set_span_in_context(span)
        for stage, begin, end in timings.steps:
            step = self._tracer.start_span(stage, above, start_time=since + int(begin * 1e9))
            step.end(since + int(end * 1e9))

    def close(self) -> None:
        """Export the remaining spans, for at most 5 seconds."""
        self._provider.force_flush(int(_FLUSH_SECONDS * 1e3))
        self._provider.shutdown()


def start_traces(environment: Mapping[str, str] = os.environ) -> Traces | None:
    """Start tracing if it is configured and installed.

    Args:
        environment: environment variables in which `ENDPOINTS` are looked up; OpenTelemetry reads
            its other variables itself. Default: those of the process.

    Returns:
        The maker of spans; None if tracing is off.
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
            "%s is set, but tracing is not installed. Install it with "
            "`pip install 'sam-inference-server[tracing]'`.",
            name,
        )
        return None
    service = environment.get("OTEL_SERVICE_NAME") or "inference-server"
    resource = Resource.create({SERVICE_NAME: service, SERVICE_VERSION: __version__})
    # Not the global provider: a program that embeds the server keeps its own.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    logger.info("Exporting traces to the collector in %s", name)
    return Traces(provider)
