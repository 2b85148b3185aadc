"""Automatic masks, compared with `SAM2AutomaticMaskGenerator`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

from benchmarks.overlap import decode_rle, iou
from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.sam2_models import Sam2, compute, demo, predictor_of, softened
from benchmarks.serving import CORES
from benchmarks.timing import exponent, peak_memory, timed
from inference_server.demo.scenes import make_scene
from inference_server.engines.base import VisualPrompt, queries
from inference_server.engines.model import LoadedModel
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.segmentation.automatic import AutomaticMasks, point_grid, stability
from inference_server.segmentation.types import AutomaticOptions, Instance
from inference_server.settings import Settings

Image = NDArray[np.uint8]

FASTER, MATCHED, MATCH = 2.0, 0.95, 0.9
MEMORY = 0.25
"""Maximum peak memory, as a share of the reference's; both include the image encoder."""
PASS_IOU, PASS_STABILITY = 1 / 3, 1 / 2
_SAMPLE = 6


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        cases: image size as (width, height) in pixels, and grid points per side.
        growth: grid points per side of the cases used to fit cost against image size.
        batch: clicks that the reference decodes per batch; its own default is 64.
    """

    cases: tuple[tuple[tuple[int, int], int], ...]
    growth: int
    batch: int


FULL = Scale(
    cases=(((854, 480), 16), ((1920, 1080), 16), ((1920, 1080), 32), ((3840, 2160), 16)),
    growth=16,
    batch=64,
)
SMALL = Scale(cases=(((160, 90), 4), ((320, 180), 4)), growth=4, batch=16)


def run(small: bool) -> Report:
    """Run the benchmark.

    Args:
        small: use the demo models and few rounds, for a run of a few seconds.
    """
    scale, model = (SMALL, demo()) if small else (FULL, softened("hiera_tiny"))
    if not small:
        torch.set_num_threads(CORES)
    report = Report(
        "automatic",
        "Automatic masks",
        notes=[
            f"SAM 2.1 {model.version} with smoothed random weights. The thresholds are chosen on a "
            "few clicks so that a third of the candidates passes the predicted IoU threshold and "
            "half of those pass the stability threshold. Other options have their defaults."
            if not small
            else "Demo weights; thresholds chosen so that some candidates pass.",
            "Engine: encoding, decoding in two queues, masks and NMS, in the benchmark's process; "
            "other benchmarks include HTTP and JSON. Reference: "
            "`SAM2AutomaticMaskGenerator.generate` with RLE output, "
            f"{scale.batch} clicks per batch. One round, alternating. Share matched: reference "
            f"masks with an IoU of at least {MATCH:g} with an engine mask.",
        ],
    )
    _measure(report, scale, model)
    return report


class Ours:
    """This server's automatic masks: a model with its queues, and worker threads.

    Args:
        model: the model to load.
    """

    def __init__(self, model: Sam2) -> None:
        using = compute("float32")
        self.engine = VisualEngine(model.load(), model.version, using)
        self._using = using
        self._threads = ThreadPoolExecutor(CORES)

    async def _search(self, image: Image, options: AutomaticOptions) -> list[Instance]:
        loop = asyncio.get_running_loop()
        model = LoadedModel("sam2", self.engine, self._using, Settings(), workers=16)

        def in_thread(work: Callable[[], Any]) -> Awaitable[Any]:
            return loop.run_in_executor(self._threads, work)

        try:
            done = await model.encode(await in_thread(lambda: self.engine.prepare(image)))
            masks = AutomaticMasks(model, done.value, options, in_thread)
            await masks.search(lambda done: None)
            return await masks.finish()
        finally:
            model.close()

    def find(self, image: Image, options: AutomaticOptions) -> list[Instance]:
        """Find all masks in an image.

        Args:
            image: `uint8[H, W, 3]`, RGB.
            options: grid and thresholds.
        """
        return asyncio.run(self._search(image, options))

    def thresholds(self, image: Image) -> AutomaticOptions:
        """Choose thresholds that `PASS_IOU` and `PASS_STABILITY` of the candidates pass.

        Args:
            image: `uint8[H, W, 3]`, RGB.
        """
        return thresholds_of(self.engine, image)


def thresholds_of(engine: VisualEngine, image: Image) -> AutomaticOptions:
    """Choose thresholds that `PASS_IOU` and `PASS_STABILITY` of the candidates pass.

    Args:
        engine: engine that decodes the clicks.
        image: `uint8[H, W, 3]`, RGB.
    """
    (embedding,) = engine.encode([engine.prepare(image)])
    points: NDArray[np.float32] = (point_grid(_SAMPLE) * embedding.size[::-1]).astype(np.float32)
    label = np.ones(1, np.int64)
    asked = [VisualPrompt(point[None], label) for point in points]
    answers = engine.decode(queries(embedding, asked, logits=False))
    scores = np.concatenate([answer.scores for answer in answers])
    least = float(np.quantile(scores, 1 - PASS_IOU))
    planes = [plane for answer in answers for plane in answer.planes]
    stable = [
        stability(plane, embedding.size, 1.0)
        for plane, score in zip(planes, scores, strict=True)
        if score > least
    ]
    return AutomaticOptions(
        pred_iou_threshold=least,
        stability_threshold=float(np.quantile(stable, 1 - PASS_STABILITY)),
        mask_nms_threshold=1.0,  # the reference has no mask NMS
    )


def reference(model: Sam2, options: AutomaticOptions, batch: int) -> Any:
    """Build SAM 2's own generator with the same options.

    Args:
        model: the model to load.
        options: grid and thresholds.
        batch: clicks per batch.
    """
    return generator_of(predictor_of(model.load()), options, batch)


def generator_of(predictor: Any, options: AutomaticOptions, batch: int = 64) -> Any:
    """Build SAM 2's own generator on a predictor.

    Args:
        predictor: the predictor that it uses.
        options: grid and thresholds.
        batch: clicks per batch. Default: the generator's own, 64.
    """
    generator = SAM2AutomaticMaskGenerator(
        predictor.model,
        points_per_side=options.points_per_side,
        points_per_batch=batch,
        pred_iou_thresh=options.pred_iou_threshold,
        stability_score_thresh=options.stability_threshold,
        stability_score_offset=options.stability_offset,
        box_nms_thresh=options.box_nms_threshold,
        output_mode="coco_rle",
    )
    generator.predictor = predictor
    return generator


def _measure(report: Report, scale: Scale, model: Sam2) -> None:
    ours = Ours(model)
    rows: list[dict[str, Cell]] = []
    costs: dict[str, list[float]] = {"engine": [], "reference": []}
    pixels = []
    for number, ((width, height), side) in enumerate(scale.cases):
        image = make_scene(number, (width, height)).image
        options = replace(ours.thresholds(image), points_per_side=side)
        generator = reference(model, options, scale.batch)
        found: dict[str, Any] = {}

        def mine(image: Image = image, options: AutomaticOptions = options) -> None:
            found["engine"] = ours.find(image, options)  # noqa: B023 - called at once

        def theirs(image: Image = image, generator: Any = generator) -> None:
            found["reference"] = generator.generate(image)  # noqa: B023 - called at once

        taken: dict[str, float] = {}
        memory: dict[str, int] = {}
        for way, work in (("engine", mine), ("reference", theirs)):

            def watched(way: str = way, work: Callable[[], None] = work) -> None:
                taken[way] = timed(work)  # noqa: B023 - called at once

            memory[way] = peak_memory(watched, interval=0.005)
        faster = taken["reference"] / taken["engine"]
        matched = agreement(found["engine"], found["reference"])
        name = f"{width} x {height}, {side} x {side} points"
        rows.append(
            {
                "image size and grid": name,
                "engine (s)": taken["engine"],
                "reference (s)": taken["reference"],
                "speed-up (x)": faster,
                "engine, peak memory (MB)": memory["engine"] / 1e6,
                "reference, peak memory (MB)": memory["reference"] / 1e6,
                "engine masks": len(found["engine"]),
                "reference masks": len(found["reference"]),
                "share matched": matched,
            }
        )
        if side == scale.growth:
            pixels.append(width * height)
            for way, seconds in taken.items():
                costs[way].append(seconds)
        report.goals += [
            Goal(f"{name}: speed-up", faster, FASTER, "at least"),
            Goal(
                f"{name}: peak memory relative to the reference",
                memory["engine"] / memory["reference"],
                MEMORY,
                "at most",
            ),
            Goal(f"{name}: share of masks matched", matched, MATCHED, "at least", ""),
        ]
    report.tables.append(Table("One image", rows))
    report.tables.append(
        Table(
            f"Cost by number of pixels, {scale.growth} x {scale.growth} points",
            [
                {"implementation": way, "exponent": exponent(pixels, cost)}
                for way, cost in costs.items()
            ],
        )
    )


def agreement(ours: list[Instance], theirs: list[dict[str, Any]]) -> float:
    """Return the share of reference masks matched by an engine mask, 0 to 1.

    Args:
        ours: the engine's masks.
        theirs: the reference's records, with RLE masks.
    """
    masks = []
    for record in theirs:
        rle = record["segmentation"]
        counts = rle["counts"]
        text = counts.decode() if isinstance(counts, bytes) else counts
        masks.append(decode_rle({"size": rle["size"], "counts": text}))
    matched = [any(iou(one.mask, mask) >= MATCH for one in ours) for mask in masks]
    return float(np.mean(matched)) if matched else 1.0
