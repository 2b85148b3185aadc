"""Everything in an image, against `SAM2AutomaticMaskGenerator`."""

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
"""Of the reference's peak extra memory; both have the encoder's in it."""
PASS_IOU, PASS_STABILITY = 1 / 3, 1 / 2
_SAMPLE = 6


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        cases: (width, height) of images and points a side.
        growth: points a side of the cases whose costs are compared over the image's size.
        batch: clicks that the reference decodes at a time; 64 is its default.
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
    """Measure it."""
    scale, model = (SMALL, demo()) if small else (FULL, softened("hiera_tiny"))
    if not small:
        torch.set_num_threads(CORES)
    report = Report(
        "automatic",
        "Everything in an image",
        notes=[
            f"SAM 2.1 {model.version}, softened random weights; of their candidates a third passes "
            "the threshold of predicted IoU and half of these that of stability, which is how both "
            "thresholds were chosen, on a few clicks. Other options are the defaults."
            if not small
            else "The demo's weights; thresholds such that some candidates pass.",
            "Ours: encoding, two lanes, masks, suppression, in the benchmark's own process; what "
            "HTTP and JSON add is in the other benchmarks. Reference: "
            "`SAM2AutomaticMaskGenerator.generate` with run lengths as output, "
            f"{scale.batch} clicks at a time. One round, in turns. Matched: masks of the reference "
            f"that one of ours has an IoU of {MATCH:g} or more with.",
        ],
    )
    _measure(report, scale, model)
    return report


class Ours:
    """A model in its lanes, and threads."""

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
        """Everything in an image."""
        return asyncio.run(self._search(image, options))

    def thresholds(self, image: Image) -> AutomaticOptions:
        """Those that the shares of candidates pass which the report names."""
        (embedding,) = self.engine.encode([self.engine.prepare(image)])
        points: NDArray[np.float32] = (point_grid(_SAMPLE) * embedding.size[::-1]).astype(
            np.float32
        )
        label = np.ones(1, np.int64)
        asked = [VisualPrompt(point[None], label) for point in points]
        answers = self.engine.decode(queries(embedding, asked, logits=False))
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
            mask_nms_threshold=1.0,  # of which the reference knows nothing
        )


def reference(model: Sam2, options: AutomaticOptions, batch: int) -> Any:
    """SAM 2's own generator with the same options."""
    generator = SAM2AutomaticMaskGenerator(
        model.load(),
        points_per_side=options.points_per_side,
        points_per_batch=batch,
        pred_iou_thresh=options.pred_iou_threshold,
        stability_score_thresh=options.stability_threshold,
        stability_score_offset=options.stability_offset,
        box_nms_thresh=options.box_nms_threshold,
        output_mode="coco_rle",
    )
    generator.predictor = predictor_of(generator.predictor.model)
    return generator


def _measure(report: Report, scale: Scale, model: Sam2) -> None:
    ours = Ours(model)
    rows: list[dict[str, Cell]] = []
    costs: dict[str, list[float]] = {"ours": [], "reference": []}
    pixels = []
    for number, ((width, height), side) in enumerate(scale.cases):
        image = make_scene(number, (width, height)).image
        options = replace(ours.thresholds(image), points_per_side=side)
        generator = reference(model, options, scale.batch)
        found: dict[str, Any] = {}

        def mine(image: Image = image, options: AutomaticOptions = options) -> None:
            found["ours"] = ours.find(image, options)  # noqa: B023 - called at once

        def theirs(image: Image = image, generator: Any = generator) -> None:
            found["reference"] = generator.generate(image)  # noqa: B023 - called at once

        taken: dict[str, float] = {}
        memory: dict[str, int] = {}
        for way, work in (("ours", mine), ("reference", theirs)):

            def watched(way: str = way, work: Callable[[], None] = work) -> None:
                taken[way] = timed(work)  # noqa: B023 - called at once

            memory[way] = peak_memory(watched, interval=0.005)
        faster = taken["reference"] / taken["ours"]
        matched = agreement(found["ours"], found["reference"])
        name = f"{width} x {height}, {side} x {side} points"
        rows.append(
            {
                "image and grid": name,
                "ours (s)": taken["ours"],
                "reference (s)": taken["reference"],
                "faster (x)": faster,
                "extra memory (MB)": memory["ours"] / 1e6,
                "reference's (MB)": memory["reference"] / 1e6,
                "masks": len(found["ours"]),
                "reference's masks": len(found["reference"]),
                "matched": matched,
            }
        )
        if side == scale.growth:
            pixels.append(width * height)
            for way, seconds in taken.items():
                costs[way].append(seconds)
        report.goals += [
            Goal(f"{name}: faster", faster, FASTER, "at least"),
            Goal(
                f"{name}: extra memory, of the reference's",
                memory["ours"] / memory["reference"],
                MEMORY,
                "at most",
            ),
            Goal(f"{name}: masks matched", matched, MATCHED, "at least", ""),
        ]
    report.tables.append(Table("One image", rows))
    report.tables.append(
        Table(
            f"Cost against the number of pixels, {scale.growth} x {scale.growth} points",
            [{"way": way, "exponent": exponent(pixels, cost)} for way, cost in costs.items()],
        )
    )


def agreement(ours: list[Instance], theirs: list[dict[str, Any]]) -> float:
    """Share of the reference's masks that one of ours matches."""
    masks = []
    for record in theirs:
        rle = record["segmentation"]
        counts = rle["counts"]
        text = counts.decode() if isinstance(counts, bytes) else counts
        masks.append(decode_rle({"size": rle["size"], "counts": text}))
    matched = [any(iou(one.mask, mask) >= MATCH for one in ours) for mask in masks]
    return float(np.mean(matched)) if matched else 1.0
