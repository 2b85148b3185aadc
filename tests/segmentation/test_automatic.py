"""Automatic masks: equality with SAM 2's generator, and limits of a search."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2.modeling.sam2_base import SAM2Base
from sam2.utils.amg import build_point_grid

from benchmarks.synthetic import mask_logits
from inference_server.demo.scenes import make_scene
from inference_server.engines.base import Candidates, Embedding, Query, VisualPrompt
from inference_server.engines.batch_queue import BatchQueue, BatchResult
from inference_server.engines.load_weights import load_sam2
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.engines.weights import find_sam2
from inference_server.errors import CapacityError
from inference_server.masks import Mask
from inference_server.segmentation.automatic import (
    CHUNK,
    CONCURRENT_CHUNKS,
    AutomaticMasks,
    is_stable,
    point_grid,
    stability,
)
from inference_server.segmentation.types import AutomaticOptions, Instance
from tests.engines.conftest import CPU, Picture
from tests.engines.sam2.test_engine import SamePixels, embed
from tests.masks.planes import iou

pytestmark = pytest.mark.anyio

T = TypeVar("T")
SIZE = (40, 60)
"""(height, width) in pixels of the image that scripted decoders segment."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def demo_model() -> SAM2Base:
    return load_sam2(find_sam2("demo")["hiera_tiny"], CPU)


@pytest.fixture(scope="module")
def demo(demo_model: SAM2Base) -> VisualEngine:
    return VisualEngine(demo_model, "demo", CPU)


async def at_once(work: Callable[[], T]) -> T:
    return work()


async def everything(decoder: Any, embedding: Embedding, **options: Any) -> list[Instance]:
    # The reference does not suppress by mask.
    asked = AutomaticOptions(**{"mask_nms_threshold": 1.0, **options})
    masks = AutomaticMasks(decoder, embedding, asked, at_once)
    await masks.search(lambda done: None)
    return await masks.finish()


@dataclass
class Direct:
    """An engine called without a queue."""

    engine: VisualEngine

    async def decode(self, queries: Sequence[Query[VisualPrompt]]) -> BatchResult[list[Candidates]]:
        await asyncio.sleep(0)
        return BatchResult(self.engine.decode(queries), 0.0, 0.0, 1)


def generated(model: SAM2Base, image: Picture, **options: Any) -> list[dict[str, Any]]:
    """The result of SAM 2's own generator with the same pixels."""
    generator: Any = SAM2AutomaticMaskGenerator(model, **options)
    side = model.image_size
    predictor = generator.predictor
    predictor._bb_feat_sizes = [(side // n, side // n) for n in (4, 8, 16)]
    predictor._transforms = SamePixels(resolution=side, mask_threshold=0.0)  # type: ignore[no-untyped-call]
    found: list[dict[str, Any]] = generator.generate(image)
    return found


CASES: dict[str, tuple[int, tuple[int, int], dict[str, float]]] = {
    "defaults": (1_000_001, (320, 240), {}),
    "all stabilities": (1_000_002, (90, 200), {"stability_threshold": 0.0}),
    "all scores": (1_000_003, (240, 320), {"pred_iou_threshold": 0.0, "stability_offset": 0.5}),
    "other thresholds": (
        1_000_004,
        (256, 256),
        {
            "pred_iou_threshold": 0.6,
            "stability_threshold": 0.9,
            "stability_offset": 0.7,
            "box_nms_threshold": 0.5,
        },
    ),
}
NAMES = {
    "pred_iou_threshold": "pred_iou_thresh",
    "stability_threshold": "stability_score_thresh",
    "stability_offset": "stability_score_offset",
    "box_nms_threshold": "box_nms_thresh",
}


@pytest.mark.parametrize("name", CASES)
async def test_masks_are_those_of_sam2s_own_generator(
    demo: VisualEngine, demo_model: SAM2Base, name: str
) -> None:
    seed, size, options = CASES[name]
    image = make_scene(seed, size).image
    theirs = generated(
        demo_model,
        image,
        points_per_side=12,
        **{NAMES[key]: value for key, value in options.items()},
    )
    ours = await everything(Direct(demo), embed(demo, image), points_per_side=12, **options)
    assert len(theirs) >= 2
    assert len(ours) == len(theirs)
    grid = point_grid(12) * image.shape[1::-1]
    for found, expected in zip(ours, theirs, strict=True):
        assert iou(found.mask, Mask.from_plane(expected["segmentation"])) >= 0.98
        assert found.score == pytest.approx(expected["predicted_iou"], abs=1e-4)
        assert grid[found.prompt] == pytest.approx(expected["point_coords"][0], abs=1e-3)
    scores = [instance.score for instance in ours]
    assert scores == sorted(scores, reverse=True)


def test_the_grid_is_sam2s() -> None:
    for count in (1, 2, 5, 32):
        assert np.allclose(point_grid(count), build_point_grid(count), atol=1e-12)


@pytest.mark.parametrize("size", [(1080, 1920), (480, 640), (64, 64), (1000, 40)])
@pytest.mark.parametrize("step", [1, 4], ids=["256 x 256", "64 x 64"])
def test_stability_is_judged_as_on_the_enlarged_planes(size: tuple[int, int], step: int) -> None:
    planes = np.ascontiguousarray(mask_logits(60, seed=5)[:, ::step, ::step])
    exact = [stability(plane, size, 1.0) for plane in planes]
    for threshold in (0.5, 0.8, 0.9, 0.95, *np.quantile(exact, [0.3, 0.6])):
        judged = [is_stable(plane, size, float(threshold), offset=1.0) for plane in planes]
        assert judged == [value >= threshold for value in exact]
    assert not is_stable(np.full((8, 8), -5, np.float32), size, 0.1, offset=1.0)
    assert is_stable(np.full((8, 8), -5, np.float32), size, 0.0, offset=1.0)


def square(prompt: VisualPrompt, side: float = 3) -> NDArray[np.float32]:
    """A plane of the image's size, positive in a square around the prompt's point."""
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]].astype(np.float32) + 0.5
    away = np.maximum(np.abs(x - prompt.points[0, 0]), np.abs(y - prompt.points[0, 1]))
    return np.where(away < side, 9, -9).astype(np.float32)


@dataclass
class Scripted:
    """A queue that returns squares around the clicks, with descending scores.

    Attributes:
        asked: sizes of the submissions so far.
        full: whether each next submission is refused; empty means never.
        waiting: clicks in progress.
        most: maximum of `waiting` so far.
        pause: seconds that each submission takes.
    """

    asked: list[int] = field(default_factory=list)
    full: list[bool] = field(default_factory=list)
    waiting: int = 0
    most: int = 0
    pause: float = 0.0

    async def decode(self, queries: Sequence[Query[VisualPrompt]]) -> BatchResult[list[Candidates]]:
        if self.full and self.full.pop(0):
            raise CapacityError("full", retry_after=0.01)
        self.waiting += len(queries)
        self.most = max(self.most, self.waiting)
        try:
            await asyncio.sleep(self.pause)
        finally:
            self.waiting -= len(queries)
        start = sum(self.asked)
        self.asked.append(len(queries))
        scores = [np.array([0.99 - 1e-4 * (start + i)], np.float32) for i in range(len(queries))]
        return BatchResult(
            [
                Candidates(square(query.prompt)[None], 0.0, score)
                for query, score in zip(queries, scores, strict=True)
            ],
            0.0,
            0.0,
            1,
        )


EMBEDDING = Embedding(SIZE, None, 0)


@pytest.mark.parametrize(("side", "chunks"), [(1, 1), (5, 1), (6, 2), (12, 5)])
async def test_clicks_are_decoded_in_chunks_and_few_at_a_time(side: int, chunks: int) -> None:
    lane = Scripted()
    found = await everything(lane, EMBEDDING, points_per_side=side)
    assert sum(lane.asked) == side * side
    assert len(lane.asked) == chunks
    assert lane.most <= CONCURRENT_CHUNKS * CHUNK
    assert found
    assert {instance.mask.size for instance in found} == {SIZE}


async def test_of_masks_with_similar_boxes_the_best_is_kept() -> None:
    found = await everything(Scripted(), EMBEDDING, points_per_side=30, box_nms_threshold=0.3)
    boxes = [instance.mask.box for instance in found]
    assert found[0].prompt == 0
    assert 10 < len(found) < 900
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            wide = min(one[2], other[2]) - max(one[0], other[0]) - 1
            high = min(one[3], other[3]) - max(one[1], other[1]) - 1
            areas = [(b[2] - b[0] - 1) * (b[3] - b[1] - 1) for b in (one, other)]
            shared = max(wide, 0) * max(high, 0)
            assert shared / (sum(areas) - shared) <= 0.3 + 1e-6


async def test_a_duplicate_whose_box_a_stray_pixel_enlarges_is_suppressed() -> None:
    class Strays(Scripted):
        async def decode(
            self, queries: Sequence[Query[VisualPrompt]]
        ) -> BatchResult[list[Candidates]]:
            clean = np.full(SIZE, -9, np.float32)
            clean[5:25, 5:25] = 9
            stray = clean.copy()
            stray[39, 59] = 9
            scores = np.array([0.9, 0.99], np.float32)
            return BatchResult([Candidates(np.stack([clean, stray]), 0.0, scores)], 0, 0, 1)

    both = await everything(Strays(), EMBEDDING, points_per_side=1)
    assert [instance.mask.area for instance in both] == [401, 400]
    (best,) = await everything(Strays(), EMBEDDING, points_per_side=1, mask_nms_threshold=0.7)
    assert best.mask.area == 401
    assert AutomaticOptions().mask_nms_threshold == 0.7


async def test_empty_masks_are_dropped() -> None:
    class Empty(Scripted):
        async def decode(
            self, queries: Sequence[Query[VisualPrompt]]
        ) -> BatchResult[list[Candidates]]:
            plane = np.full((1, *SIZE), -1, np.float32)
            return BatchResult(
                [Candidates(plane, 0.0, np.ones(1, np.float32))] * len(queries), 0, 0, 1
            )

    assert await everything(Empty(), EMBEDDING, stability_threshold=0.0, points_per_side=3) == []


async def test_a_full_queue_refuses_the_first_chunk_and_delays_later_ones() -> None:
    with pytest.raises(CapacityError):
        await everything(Scripted(full=[True]), EMBEDDING, points_per_side=8)
    lane = Scripted(full=[False, True, True, True, False, True])
    assert len(await everything(lane, EMBEDDING, points_per_side=16)) > 10
    assert sum(lane.asked) == 256


async def test_a_failure_is_raised_unchanged() -> None:
    class Broken(Scripted):
        async def decode(
            self, queries: Sequence[Query[VisualPrompt]]
        ) -> BatchResult[list[Candidates]]:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await everything(Broken(), EMBEDDING, points_per_side=16)


async def test_a_cancelled_search_leaves_no_tasks_or_queued_clicks() -> None:
    decoded: list[Query[VisualPrompt]] = []
    halfway, gate = threading.Event(), threading.Event()

    def work(items: Sequence[Query[VisualPrompt]]) -> list[Candidates]:
        decoded.extend(items)
        if len(decoded) == 100:
            halfway.set()
            assert gate.wait(60)
        return [Candidates(square(i.prompt)[None], 0.0, np.ones(1, np.float32)) for i in items]

    @dataclass
    class Laned:
        lane: BatchQueue[Query[VisualPrompt], Candidates]

        async def decode(
            self, queries: Sequence[Query[VisualPrompt]]
        ) -> BatchResult[list[Candidates]]:
            return await self.lane.submit_all(queries)

    lane = BatchQueue("test", work, max_batch=1, capacity=8)
    before = asyncio.all_tasks()
    search = asyncio.create_task(everything(Laned(lane), EMBEDDING, points_per_side=128))
    assert await asyncio.to_thread(halfway.wait, 60)
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    assert asyncio.all_tasks() == before
    assert lane.depth == 0
    gate.set()
    # A click that was still queued would be decoded before this one.
    last = Query(EMBEDDING, VisualPrompt(np.ones((1, 2), np.float32), np.ones(1, np.int64)))
    await lane.submit(last)
    assert len(decoded) == 101
    assert decoded[-1] is last
    lane.close()


async def test_many_masks_are_suppressed_before_all_are_known() -> None:
    options = AutomaticOptions(points_per_side=30, box_nms_threshold=0.1)
    expected = await everything(Scripted(), EMBEDDING, points_per_side=30, box_nms_threshold=0.1)
    masks = AutomaticMasks(Scripted(), EMBEDDING, options, at_once, max_candidate_bytes=5_000)
    held = []
    await masks.search(lambda done: held.append(len(masks._candidates)))
    found = await masks.finish()
    # In this grid no suppressing mask is suppressed later, so the result is the same.
    assert [i.prompt for i in found] == [i.prompt for i in expected]
    assert max(held) < 450
