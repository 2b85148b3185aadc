"""Metrics that are computed at each scrape."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import Metric

from inference_server.api.metrics import backlog_of
from inference_server.engines.batch_queue import BatchQueue
from inference_server.errors import CapacityError, StorageError
from inference_server.jobs import Backlog
from inference_server.segmentation.metrics import _queues
from tests.api.serving import Running, RunningHere


def samples(families: Any) -> dict[tuple[str, ...], float]:
    """Values by name and labels."""
    found: dict[tuple[str, ...], float] = {}
    for family in families:
        assert isinstance(family, Metric)
        for sample in family.samples:
            found[sample.name, *sample.labels.values()] = sample.value
    return found


@pytest.mark.anyio
async def test_queues_report_waiting_and_active_work() -> None:
    gate = threading.Event()

    def work(items: Sequence[int]) -> Sequence[int]:
        gate.wait(60)
        return items

    # Two sizes of SAM 2 have queues of the same name.
    lanes = [BatchQueue("sam2 decode", work, max_batch=1, capacity=2) for _ in range(2)]
    models = [SimpleNamespace(queues=(lane,)) for lane in lanes]
    registry: Any = SimpleNamespace(loaded=lambda: models)
    tasks = [asyncio.create_task(lane.submit(0)) for lane in lanes]
    try:
        for _ in range(5):  # these two start before the others are queued
            await asyncio.sleep(0)
        tasks += [asyncio.create_task(lanes[0].submit(number)) for number in (1, 2)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert samples(_queues(registry)) == {
            ("inference_queue_depth", "sam2 decode"): 2,
            ("inference_queue_busy", "sam2 decode"): 2,
            ("inference_queue_capacity", "sam2 decode"): 4,
        }
        with pytest.raises(CapacityError) as refused:
            await lanes[0].submit(4)
        assert refused.value.full == "queue"
    finally:
        gate.set()
        await asyncio.gather(*tasks)
        for lane in lanes:
            lane.close()
    assert samples(_queues(registry))["inference_queue_depth", "sam2 decode"] == 0


def test_job_metrics_are_omitted_during_an_outage(
    server: RunningHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.state, "backlog_timeout", 60.0)
    assert server.metric("inference_jobs_database_up") == 1

    async def gone() -> Backlog:
        raise StorageError("gone")

    monkeypatch.setattr(server.state.jobs, "backlog", gone)
    text = server.get("/metrics").text
    assert "inference_jobs_database_up 0.0" in text
    assert "inference_jobs_queued" not in text
    assert "inference_ready 1.0" in text


@pytest.mark.anyio
async def test_a_hanging_database_does_not_delay_a_scrape() -> None:
    async def hang() -> Backlog:
        await asyncio.Event().wait()
        raise AssertionError

    state: Any = SimpleNamespace(jobs=SimpleNamespace(backlog=hang), backlog_timeout=0.01)
    assert await backlog_of(state) is None


def test_requests_without_a_valid_key_are_counted(server: Running) -> None:
    before = server.metric("inference_rejections_total", reason="auth")
    server.post("/sam3/visual_segment", {}, key="wrong")
    server.post("/sam3/visual_segment", {}, key=None)
    assert server.metric("inference_rejections_total", reason="auth") == before + 2


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
