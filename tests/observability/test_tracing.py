"""Traces as received by an OTLP collector."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from inference_server import __version__
from inference_server.observability.metrics import STAGES
from inference_server.observability.tracing import ENDPOINTS, start_traces
from tests.api.pictures import noise
from tests.api.serving import ALICE, CONCEPT, VISUAL, RunningHere, serving, until

ROOT = Path(__file__).parents[2]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Receives OTLP over HTTP.

    Attributes:
        url: address of the collector.
        bodies: received request bodies.
        service: resource attributes of the sender.
        spans: received spans.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[bytes] = []
        self.service: dict[str, Any] = {}
        self.spans: list[Span] = []

    def receive(self, body: bytes) -> None:
        """Store the spans of a request body."""
        self.bodies.append(body)
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            self.service.update(values(resource.resource))
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)

    def named(self, name: str, **attributes: object) -> Span:
        """Wait for a span with these attributes; return the last one."""

        def found() -> list[Span]:
            return [
                span
                for span in self.spans
                if span.name == name and attributes.items() <= values(span).items()
            ]

        until(found)
        return found()[-1]

    def below(self, span: Span) -> list[Span]:
        """Return the child spans of a span, in order."""
        return sorted(
            (other for other in self.spans if other.parent_span_id == span.span_id),
            key=lambda other: other.start_time_unix_nano,
        )


def values(owner: Any) -> dict[str, Any]:
    """Return the attributes of a span or resource."""
    return {
        attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value"))
        for attribute in owner.attributes
    }


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            collector.receive(body)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        collector = Collector(f"http://127.0.0.1:{http.server_address[1]}")
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            http.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def traced() -> Iterator[tuple[RunningHere, Collector]]:
    """A server with tracing."""
    with pytest.MonkeyPatch.context() as patch, collecting() as collector:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        patch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")  # a retry would duplicate spans
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        with serving() as server:
            yield server, collector


def test_a_request_is_a_span_in_its_clients_trace(
    traced: tuple[RunningHere, Collector], caplog: pytest.LogCaptureFixture
) -> None:
    server, collector = traced
    answer = server.post(
        VISUAL,
        {"image": noise(821), "image_id": "a private name"},
        traceparent=f"00-{TRACE}-{PARENT}-01",
        x_request_id="one",
    )
    assert answer.status_code == 200
    span = collector.named(f"POST {VISUAL}", **{"inference.request_id": "one"})
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert span.kind == Span.SPAN_KIND_SERVER
    told = values(span)
    assert told.pop("inference.tenant")
    assert told == {
        "http.request.method": "POST",
        "http.route": VISUAL,
        "http.response.status_code": 200,
        "http.request.body.size": len(answer.request.content),
        "http.response.body.size": int(answer.headers["content-length"]),
        "inference.request_id": "one",
        "inference.cache": "miss",
        "inference.model": answer.headers["x-model"],
    }
    assert collector.service["service.name"] == "inference-server"
    assert collector.service["service.version"] == __version__
    assert collector.service["deployment.environment"] == "test"


def test_steps_are_child_spans_in_order(traced: tuple[RunningHere, Collector]) -> None:
    server, collector = traced
    assert server.post(VISUAL, {"image": noise(822)}, x_request_id="two").is_success
    span = collector.named(f"POST {VISUAL}", **{"inference.request_id": "two"})
    until(lambda: len(collector.below(span)) >= 7)
    steps = collector.below(span)
    names = [step.name for step in steps]
    # base64 and image are decoded in two steps; images and prompts wait in queues.
    once = list(dict.fromkeys(names))
    assert (
        once == [stage for stage in STAGES if stage in once] == [*STAGES[STAGES.index("decode") :]]
    )
    for step in steps:
        assert span.start_time_unix_nano <= step.start_time_unix_nano
        assert step.start_time_unix_nano <= step.end_time_unix_nano <= span.end_time_unix_nano
        assert step.trace_id == span.trace_id
    ends = [step.end_time_unix_nano for step in steps]
    # Sequential, except for a microsecond of rounding.
    assert all(
        later.start_time_unix_nano >= end - 100_000
        for end, later in zip(ends, steps[1:], strict=False)
    )


def test_errors_are_marked(traced: tuple[RunningHere, Collector]) -> None:
    server, collector = traced
    server.post(CONCEPT, {"prompts": 1}, x_request_id="three")
    span = collector.named(f"POST {CONCEPT}", **{"inference.request_id": "three"})
    assert values(span)["error.type"] == "validation"
    assert span.status.code == Status.STATUS_CODE_UNSET  # a client error
    answer = server.get("/nothing", x_request_id="four")
    assert values(collector.named("GET", **{"inference.request_id": "four"})) == {
        "http.request.method": "GET",
        "http.response.status_code": 404,
        "http.response.body.size": len(answer.content),
        "inference.request_id": "four",
    }


def test_lines_of_the_log_name_the_trace(
    traced: tuple[RunningHere, Collector], monkeypatch: pytest.MonkeyPatch
) -> None:
    from inference_server.observability import logging as logs

    server, _ = traced
    found = []

    def emit(record: logging.LogRecord) -> None:
        found.append({**record.__dict__, **logs._ABOUT.get()})

    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", emit)
    access = logging.getLogger("inference_server.access")
    access.addHandler(handler)
    try:
        server.get("/models", traceparent=f"00-{TRACE}-{PARENT}-01", x_request_id="five")
    finally:
        access.removeHandler(handler)
    (line,) = [line for line in found if line.get("request_id") == "five"]
    assert line["trace_id"] == TRACE


def test_an_attempt_at_a_job_is_a_span(traced: tuple[RunningHere, Collector]) -> None:
    server, collector = traced
    job = server.answer("/v2/sam3-image", image=noise(823)["value"], text_prompt="star")
    span = collector.named("job sam3-image", **{"inference.job_id": job["request_id"]})
    assert span.kind == Span.SPAN_KIND_CONSUMER
    assert not span.parent_span_id
    assert values(span)["inference.job_outcome"] == "done"
    until(lambda: collector.below(span))
    assert {"encode", "decode-prompts", "masks"} <= {s.name for s in collector.below(span)}


def test_spans_contain_nothing_private(traced: tuple[RunningHere, Collector]) -> None:
    server, collector = traced
    image = noise(824)
    body = {"image": image, "image_id": "a private name", "prompts": [{"text": "a private word"}]}
    server.http.post(
        CONCEPT,
        params={"api_key": ALICE, "word": "a-private-query"},
        json=body,
        headers={"x-request-id": "six", "cookie": "private=1", "authorization": "Basic cHJpdmF0ZQ"},
    )
    server.http.get("/nothing/a-private-path", params={"api_key": ALICE})
    server.get("/models", x_request_id="last")
    collector.named("GET /models", **{"inference.request_id": "last"})
    collector.named(f"POST {CONCEPT}", **{"inference.request_id": "six"})
    sent = b"".join(collector.bodies)
    for secret in ("private", "s3cret", "api_key", "cHJpdmF0ZQ", image["value"][100:160]):
        assert secret.encode() not in sent, secret


def test_probes_have_no_spans(traced: tuple[RunningHere, Collector]) -> None:
    server, collector = traced
    for path in ("/livez", "/readyz", "/health", "/metrics"):
        assert server.get(path).is_success
    server.get("/models", x_request_id="after")
    collector.named("GET /models", **{"inference.request_id": "after"})
    assert not [span for span in collector.spans if "z" in span.name or "metrics" in span.name]


def test_sampling_follows_the_client(traced: tuple[RunningHere, Collector]) -> None:
    server, collector = traced
    other = "f" * 32
    server.get("/models", traceparent=f"00-{other}-{PARENT}-00", x_request_id="unsampled")
    server.get("/models", traceparent="nonsense", x_request_id="sampled")
    span = collector.named("GET /models", **{"inference.request_id": "sampled"})
    assert not span.parent_span_id
    assert not [span for span in collector.spans if span.trace_id.hex() == other]


def test_pending_spans_are_sent_at_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/v1/traces")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "another")
        traces = start_traces()
        assert traces is not None
        with traces.request("GET", httpx.Headers()):
            pass
        assert not collector.spans
        traces.close()
        assert [span.name for span in collector.spans] == ["GET"]
        assert collector.service["service.name"] == "another"


def test_without_an_endpoint_there_are_no_traces() -> None:
    assert start_traces({}) is None
    assert start_traces(dict.fromkeys(ENDPOINTS, "")) is None


def test_without_the_extra_the_log_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert start_traces({ENDPOINTS[0]: "http://127.0.0.1:1"}) is None
    assert "pip install 'sam-inference-server[tracing]'" in caplog.text


def test_a_server_without_traces_does_not_even_import_them() -> None:
    # The Redis client imports parts of OpenTelemetry, but not the exporter.
    code = (
        "import sys, inference_server.api.app as app; "
        "from inference_server.settings import Settings; "
        "app.build_state(Settings(), app.in_this_process(app.ModelRegistry)); "
        "sys.exit(any(name.startswith('opentelemetry.exporter') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, env={})
    assert done.returncode == 0
