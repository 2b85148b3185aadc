"""Stage timings, the `server-timing` header and Prometheus metrics."""

from __future__ import annotations

import time

import pytest
from prometheus_client import generate_latest

from inference_server.observability.metrics import MAX_STEPS, STAGES, Metrics, Timings


def test_the_header_names_stages_in_their_order_in_milliseconds() -> None:
    timings = Timings()
    for stage, seconds in (("masks", 0.25), ("fetch", 0.0015), ("decode-prompts", 1.0)):
        timings.add(stage, seconds)
    assert timings.header() == "fetch;dur=1.50, decode-prompts;dur=1000.00, masks;dur=250.00"


def test_the_header_has_exactly_the_stages_that_ran() -> None:
    timings = Timings()
    assert timings.header() == ""
    for stage in reversed(STAGES):
        timings.add(stage, 0.001)
    assert [part.split(";")[0] for part in timings.header().split(", ")] == list(STAGES)


def test_repeated_stages_add_up() -> None:
    timings = Timings()
    timings.add("queue", 0.25)
    timings.add("queue", 0.5)
    assert timings.seconds == {"queue": 0.75}
    assert timings.header() == "queue;dur=750.00"


def test_the_steps_of_many_windows_are_bounded_and_their_sums_exact() -> None:
    timings = Timings()
    for _ in range(10 * MAX_STEPS):
        timings.add("encode", 0.25)
    timings.add("serialise", 0.5)
    assert len(timings.steps) == MAX_STEPS
    assert timings.seconds == {"encode": 2.5 * MAX_STEPS, "serialise": 0.5}


def test_a_block_is_measured_also_when_it_fails() -> None:
    timings = Timings()
    with timings.measure("fetch"):
        time.sleep(0.02)

    def fail() -> None:
        with timings.measure("decode"):
            time.sleep(0.02)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert list(timings.seconds) == ["fetch", "decode"]
    assert all(0.02 <= seconds < 60 for seconds in timings.seconds.values())


def test_finished_requests_are_counted_by_stage() -> None:
    metrics = Metrics()
    timings = Timings()
    timings.add("encode", 0.3)
    timings.add("masks", 0.004)
    metrics.observe(timings)
    metrics.observe(timings)

    def value(name: str, stage: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"stage": stage})

    assert value("inference_stage_seconds_count", "encode") == 2
    assert value("inference_stage_seconds_sum", "encode") == pytest.approx(0.6)
    assert value("inference_stage_seconds_sum", "masks") == pytest.approx(0.008)
    assert value("inference_stage_seconds_count", "fetch") is None


def test_two_servers_have_separate_metrics() -> None:
    one, other = Metrics(), Metrics()
    one.requests.labels("/livez", 200).inc()
    assert b'inference_requests_total{route="/livez",status="200"} 1.0' in generate_latest(
        one.registry
    )
    assert b"/livez" not in generate_latest(other.registry)


def test_every_metric_has_a_description() -> None:
    text = generate_latest(Metrics().registry).decode()
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    helped = {
        line.split()[2]
        for line in text.splitlines()
        if line.startswith("# HELP") and len(line.split()) > 3
    }
    assert names == helped
    assert {
        "inference_requests_total",
        "inference_failures_total",
        "inference_request_seconds",
        "inference_stage_seconds",
        "inference_batch_size",
    } <= names
