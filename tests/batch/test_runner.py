"""Concurrent processing of images, and counts of resumed runs."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from inference_server.batch import inputs, runner
from inference_server.batch.inputs import Failure
from inference_server.batch.plan import Request, open_plan
from inference_server.batch.search import Search
from inference_server.engines.base import Embedding, Prepared
from inference_server.engines.batch_queue import BatchResult
from inference_server.engines.model import LoadedModel
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.observability.metrics import Metrics
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.settings import Settings
from tests.api.pictures import noise
from tests.api.serving import until

WORKERS = 6
IMAGES = 18


@pytest.fixture
def request_of_noise(tmp_path: Path) -> Request:
    for seed in range(IMAGES):
        data = base64.b64decode(noise(seed)["value"])
        (tmp_path / f"{seed:02}.png").write_bytes(data)
    return Request(
        arguments=[str(tmp_path)],
        recursive=False,
        search=Search(points=((20.0, 20.0, 1),), version="hiera_tiny"),
        models=["sam2/demo"],
        target=f"{tmp_path}/out",
        form="rle",
        segmentation="rle",
        overlay=False,
        force=False,
        max_mb=1,
    )


def test_images_are_encoded_in_batches_and_few_are_in_memory(
    request_of_noise: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def count(self: Metrics, lane: str, sizes: Iterable[int]) -> None:
        if lane == "sam2 encode":
            batches.extend(sizes)

    monkeypatch.setattr(Metrics, "count_batches", count)
    submitted: list[Prepared] = []
    submit, forward = LoadedModel.encode, VisualEngine.encode

    async def noting(self: LoadedModel[Any], image: Prepared) -> BatchResult[Embedding]:
        submitted.append(image)
        return await submit(self, image)

    def patient(self: VisualEngine, images: Sequence[Prepared]) -> list[Embedding]:
        until(lambda: len(submitted) > 2)  # two more images are queued during the first
        return forward(self, images)

    monkeypatch.setattr(LoadedModel, "encode", noting)
    monkeypatch.setattr(VisualEngine, "encode", patient)
    begun: set[Path] = set()
    most = 0

    def watched(source: Any, max_mb: int) -> Any:
        nonlocal most
        begun.add(source.path)
        most = max(most, len(begun) - len(ended))
        return inputs.read(source, max_mb)

    monkeypatch.setattr(runner, "read", watched)
    ended: list[Failure | None] = []
    segmenter = LocalSegmentationService.for_files(Settings(device="cpu", encode_batch=4))
    with open_plan(request_of_noise) as plan:
        asyncio.run(
            plan.batch.run(segmenter, plan.left, plan.summary, workers=WORKERS, done=ended.append)
        )
    segmenter.close()
    assert ended == [None] * IMAGES
    assert plan.summary.images == plan.summary.objects == IMAGES
    assert sum(batches) == IMAGES
    assert max(batches) > 1
    assert 1 < most <= WORKERS


def test_resumed_runs_count_objects_once(request_of_noise: Request) -> None:
    """A resumed run includes the images and objects of the run before."""
    segmenter = LocalSegmentationService.for_files(Settings(device="cpu"))
    for _ in range(2):
        with open_plan(request_of_noise) as plan:
            work = plan.batch.run(
                segmenter, plan.left[:5], plan.summary, workers=3, done=lambda failure: None
            )
            asyncio.run(work)
        segmenter.close()
        segmenter = LocalSegmentationService.for_files(Settings(device="cpu"))
    segmenter.close()
    assert plan.summary.objects == plan.summary.images == 10
