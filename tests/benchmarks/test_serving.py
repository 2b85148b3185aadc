"""Servers of the benchmarks, and the benchmarks that use them; durations are not tested."""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Iterator
from socket import SHUT_RDWR

import pytest

from benchmarks.load import closed_loop
from benchmarks.report import Report
from benchmarks.requests import EMBED, SEGMENT, click_body, embed_body, picture
from benchmarks.sam2_models import demo
from benchmarks.serving import Server, our_server, process


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with our_server("demo") as running:
        yield running


def test_server_costs_are_measured(server: Server) -> None:
    before = server.cpu_seconds
    image = picture(1, (640, 480))
    with server.client() as client:
        for number in range(3):
            answer = client.post(EMBED, embed_body("hiera_tiny", image.unseen(number), str(number)))
            assert answer.headers["x-embedding-cache"] == "miss"
            assert {"encode", "serialise"} <= answer.stages.keys()
    assert server.cpu_seconds > before
    assert server.resident > 50e6
    server.reset_peak()
    assert server.peak_resident >= 0.9 * server.resident
    assert server.metric("inference_embedding_cache_misses_total") >= 3


def test_clients_in_a_closed_loop(server: Server) -> None:
    image = picture(1, (320, 180))
    with server.client() as client:
        client.post(EMBED, embed_body("hiera_tiny", image, "loop"))
    body = click_body("hiera_tiny", image.at((0.5, 0.5)), image_id="loop")
    begin = time.perf_counter()
    load = closed_loop(server, SEGMENT, lambda c, n: body, clients=3, seconds=0.3)
    assert len(load.latencies) >= 3
    # Some of the counted requests may have started before the measurement.
    assert 0 < load.timing.median < time.perf_counter() - begin
    assert 0.3 <= load.seconds < time.perf_counter() - begin
    with pytest.raises(RuntimeError, match="a client failed"):
        closed_loop(server, "/nothing", lambda c, n: body, clients=2, seconds=5)


def test_a_closed_connection_is_reopened(server: Server) -> None:
    with server.client() as client:
        client.get("/readyz")
        socket = client._connection.sock
        assert socket is not None
        socket.shutdown(SHUT_RDWR)
        assert client.get("/readyz").json["status"] == "ok"


def test_the_server_is_stopped_with_its_context() -> None:
    pids = []

    def interrupted() -> None:
        with process(_DUMMY, label="dummy") as running:
            os.kill(running.pid, 0)
            pids.append(running.pid)
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    (pid,) = pids
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_cannot_start_says_why() -> None:
    with (
        pytest.raises(RuntimeError, match="INFERENCE_SAM2_WEIGHTS"),
        our_server("/nowhere/at/all"),
    ):
        pass


_DUMMY = ["-m", "benchmarks.stub_server", "--echo", "100"]


@pytest.mark.parametrize(
    "name", ["abandoned", "boxes", "click", "clients", "cold", "flight", "forms", "overhead"]
)
def test_benchmark(name: str) -> None:
    report: Report = importlib.import_module(f"benchmarks.{name}").run(True)
    assert report.name == name
    assert report.goals
    for table in report.tables:
        assert table.rows
        assert len({tuple(row) for row in table.rows}) == 1
        for row in table.rows:
            assert all(math.isfinite(cell) for cell in row.values() if not isinstance(cell, str))
    for goal in report.goals:
        assert math.isfinite(goal.value)
        if "IoU" in goal.what or "encoder runs for" in goal.what:
            assert goal.met, goal.what
    assert report.title in report.markdown()


def test_startup() -> None:
    report = importlib.import_module("benchmarks.startup").run(True)
    (start, imports) = report.tables
    assert [row["process"] for row in start.rows] == ["server", "bare Python"]
    assert any(row["module"] == "torch" for row in imports.rows)


def test_the_demo_needs_no_files() -> None:
    assert demo().weights == "demo"
