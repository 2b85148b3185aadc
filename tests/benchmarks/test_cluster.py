"""The cluster benchmark: its counts. Durations are not tested."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from benchmarks import cluster
from benchmarks.processes import OTHERS, cpu_seconds, memory_bytes
from benchmarks.replicas import SMALL, Clicks
from benchmarks.report import Table
from benchmarks.requests import picture
from benchmarks.serving import CORES
from benchmarks.simulated import Costs, Device, SimulatedEngine
from inference_server.engines.base import Query, VisualPrompt


@pytest.mark.slow
def test_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"MARK_OF_TEST={os.getpid()}"
    monkeypatch.setenv(*mark.split("="))
    report = cluster.run(True)
    assert _running_with(mark) == []
    requests, parts, processes, throughput, spent = report.tables
    assert all(math.isfinite(x) for t in report.tables for row in t.rows for x in _numbers(row))
    assert "simulated" in " ".join(report.notes)
    assert report.markdown().count("simulated") > 1

    scale = cluster.SMALL
    counts = {str(row["request"]): row["requests"] for row in requests.rows}
    each = scale.rounds * scale.requests
    assert counts == {
        "probe": each,
        "cached click": each,
        "cached clicks": each * scale.clients,
        "cold image": scale.rounds * scale.cold,
    }
    for row in requests.rows:
        assert _number(row["one process (ms)"]) > 0
        assert _number(row["ratio"]) > 0
        assert _number(row["cluster, requests per second"]) > 0
    *shares, together = (_number(row["cluster (ms)"]) for row in parts.rows)
    assert sum(shares) == pytest.approx(together)

    roles = _column(processes, "process")
    assert {"server", "ingress", "SAM 2 replica", "other Ray processes"} <= {*roles}
    assert all(_number(row["memory (MB)"]) > 0 for row in processes.rows)

    assert [(row["replicas"], row["router"]) for row in throughput.rows] == [*SMALL.clusters]
    for row in throughput.rows:
        assert int(_number(row["requests"])) >= 3
        assert 0 <= _number(row["hit rate"]) <= _number(row["hit rate ceiling"]) < 1
        assert _number(row["busiest replica relative to the mean"]) >= 1
        assert 0 < _number(row["cores in use"]) <= CORES + 0.5
    one = throughput.rows[0]
    assert one["hit rate"] == one["hit rate ceiling"]  # on one replica each image is encoded once
    assert one["relative to N times one replica"] == 1
    assert [row["model"] for row in spent.rows] == [*["simulated cost"] * 2, "free"]
    for row in spent.rows:
        listed = ("ingress (ms)", "replicas (ms)", "other Ray processes (ms)")
        assert sum(_number(row[name]) for name in listed) == pytest.approx(row["total (ms)"])
        assert min(_number(row[name]) for name in listed[:2]) > 0


def _numbers(row: Any) -> list[float]:
    return [cell for cell in row.values() if not isinstance(cell, str)]


def _number(cell: Any) -> float:
    assert isinstance(cell, int | float)
    return float(cell)


def _column(table: Table, name: str) -> list[str]:
    return [str(row[name]) for row in table.rows]


def _running_with(mark: str) -> list[int]:
    """Return the processes with this variable in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def test_clients_click_several_times_per_image() -> None:
    clicks, clients = 4, 6
    bodies = Clicks(picture(0, (64, 48)), clients, clicks, "test")
    asked = [0, 1, 3, 4, 9, 13]  # per client
    sent = [
        orjson.loads(bodies(client, request))
        for client in range(clients)
        for request in range(asked[client])
    ]
    names = [body["image_id"] for body in sent]
    assert bodies.asked == len(sent) == sum(asked)
    assert bodies.images == len({*names})
    assert max(names.count(name) for name in names) == clicks
    with_file = [body["image_id"] for body in sent if "image" in body]
    assert len(with_file) == len({*with_file}) == bodies.images
    for name in names:  # the first click on each image sends it
        assert "image" in sent[names.index(name)]


def test_two_users_share_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    device = Device()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal clock
        slept.append(seconds)
        clock += seconds

    monkeypatch.setattr("time.perf_counter", lambda: clock)
    monkeypatch.setattr("time.sleep", sleep)
    device.work(0.1)
    assert sum(slept) == pytest.approx(0.1)
    slept.clear()
    device._enter(1)
    device.work(0.1)
    assert sum(slept) == pytest.approx(0.2)


def test_the_engine_counts_its_work(tmp_path: Path) -> None:
    Costs(0.0, 0.0).write(tmp_path)
    assert Costs.read(tmp_path) == Costs(0.0, 0.0)
    engine = SimulatedEngine(tmp_path)
    prepared = engine.prepare(np.zeros((48, 64, 3), np.uint8), (480, 640))
    (embedding,) = engine.encode([prepared])
    assert embedding.size == (480, 640)
    prompt = VisualPrompt(np.zeros((1, 2), np.float32), np.ones(1, np.int64))
    answers = engine.decode([Query(embedding, prompt)] * 3)
    assert all((answer.planes > answer.threshold).any() for answer in answers)
    (file,) = tmp_path.glob("*.done")
    assert file.read_bytes() == b"eddd"


def test_cost_of_a_process_tree() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    work = "import time; sum(range(10**7)); print('done', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, work], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"done\n"
        seconds, held = cpu_seconds(running.pid), memory_bytes(running.pid)
        running.communicate(b"\n")
    assert seconds[OTHERS] > 0.05
    assert held[OTHERS] > 10e6
    assert not cpu_seconds(running.pid)
