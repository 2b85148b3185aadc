"""A concept on a cached image, against the bare decoder, and against a request from scratch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.sam3_models import Sam3, Words, demo, published
from benchmarks.timing import compare, exponent
from inference_server.bench.timing import Timing
from inference_server.demo.scenes import make_scene
from inference_server.engines.base import Candidates, ConceptPrompt, Embedding, queries
from inference_server.engines.device import use_threads
from inference_server.engines.sam3.engine import ConceptEngine

CORES = os.cpu_count() or 1
WORKERS = min(2, CORES)
"""Threads that decode, as in the server: one prompt each, the cores divided between them."""

OVER_DECODER = 1.15
LEAST_IOU = 0.99
MASKS = 5

COLORS = ("red", "blue", "green", "yellow")
SHAPES = ("circle", "star", "square", "triangle")
TEXTS = tuple(f"{color} {shape}" for shape in SHAPES for color in COLORS)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        counts: how many texts a request has.
        rounds: how often each of them is timed.
        whole: how often the request from scratch is.
        most: texts in a batch of the bare decoder; more of them go through it one by one.
    """

    counts: tuple[int, ...]
    rounds: tuple[int, ...]
    whole: int
    most: int


FULL = Scale(counts=(1, 4, 16), rounds=(5, 2, 1), whole=1, most=4)
SMALL = Scale(counts=(1, 2, 4), rounds=(2, 2, 2), whole=2, most=2)


def run(small: bool) -> Report:
    """Measure it."""
    scale, sam3 = (SMALL, demo()) if small else (FULL, published())
    report = Report(
        "concept",
        "Concepts on a cached image",
        notes=[
            f"SAM 3, {sam3.name}, {'' if small else 'random weights, '}{sam3.compute.dtype}. Its "
            f"scores all lie close together, so each text has a threshold of its own that "
            f"{MASKS} candidates pass.",
            f"Ours: `ConceptEngine.decode`, one prompt at a time in {WORKERS} threads that share "
            f"{CORES} cores, as the server does it; a single prompt has all cores. Bare decoder: "
            "`Sam3Model.forward` with `vision_embeds` and `text_embeds` and nothing after it, all "
            f"texts in one batch (of {scale.most} at most) or one by one, whichever is faster. "
            "From scratch: `Sam3Processor`, `Sam3Model.forward` with both encoders, "
            "`post_process_instance_segmentation`. The ways take turns.",
        ],
    )
    with ThreadPoolExecutor(WORKERS, initializer=use_threads, initargs=(CORES // WORKERS,)) as pool:
        _measure(report, scale, sam3, pool)
    return report


def _measure(report: Report, scale: Scale, sam3: Sam3, pool: ThreadPoolExecutor) -> None:
    torch.set_num_threads(CORES)
    image = make_scene(1, (640, 480)).image
    texts = TEXTS[: max(scale.counts)]
    engine = ConceptEngine(sam3.model, sam3.processor, sam3.name, sam3.compute)
    (embedding,) = engine.encode([engine.prepare(image)])
    vision, words = sam3.vision(image), sam3.words(texts)
    prompts = [_prompt(engine, embedding, text) for text in texts]
    absent = [_asked(text, 1.0) for text in texts]

    rows: list[dict[str, Cell]] = []
    costs: list[float] = []
    with sam3.encodings() as encodings:
        for count, rounds in zip(scale.counts, scale.rounds, strict=True):
            ways: dict[str, Callable[[], object]] = {
                "ours": partial(_answers, engine, embedding, prompts[:count], pool),
                "absent": partial(_answers, engine, embedding, absent[:count], pool),
                "one by one": partial(_one_by_one, sam3, vision, words, count),
            }
            if 1 < count <= scale.most:
                batch = Words(words.pooler_output[:count], words.mask[:count])
                ways["batch"] = partial(sam3.bare, vision, batch)
            taken = compare(ways, rounds=rounds, warmup=int(count == scale.counts[0]))
            bare = min(
                (taken[way] for way in ("one by one", "batch") if way in taken),
                key=lambda timing: timing.median,
            )
            ours = taken["ours"].median
            costs.append(ours)
            rows.append(
                {
                    "texts": count,
                    "ours (s)": ours,
                    "bare decoder (s)": bare.median,
                    "ours : bare (x)": ours / bare.median,
                    "nothing found (s)": taken["absent"].median,
                    "nothing found : bare (x)": taken["absent"].median / bare.median,
                    "a text (s)": ours / count,
                }
            )
            what = f"{count} text{'s' if count > 1 else ''}"
            report.goals.append(
                Goal(f"{what}: over the bare decoder", ours / bare.median, OVER_DECODER, "at most")
            )
        ran = len(encodings)
    report.tables.append(Table("A request on a cached image, medians", rows))
    report.goals.append(Goal("encoders run for known images and texts", ran, 0, "at most", ""))
    _agreement(report, sam3, engine, embedding, prompts[0], vision, words)
    _whole(report, scale, sam3, image, prompts[0], rows[0])
    power = exponent(scale.counts, costs)
    report.tables.append(
        Table("Growth with the number of texts", [{"way": "ours", "exponent": power}])
    )


def _asked(text: str, threshold: float) -> ConceptPrompt:
    return ConceptPrompt(text, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), threshold)


def _prompt(engine: ConceptEngine, embedding: Embedding, text: str) -> ConceptPrompt:
    """A prompt that so many candidates pass; its text is known from here on."""
    (every,) = engine.decode(queries(embedding, [_asked(text, 0.0)]))
    scores = every.scores
    low, high = float(scores[MASKS]), float(scores[MASKS - 1])
    return _asked(text, (low + high) / 2)


def _answers(
    engine: ConceptEngine,
    embedding: Embedding,
    prompts: Sequence[ConceptPrompt],
    pool: ThreadPoolExecutor,
) -> list[Candidates]:
    if len(prompts) == 1:
        return engine.decode(queries(embedding, prompts))
    return [
        found
        for answers in pool.map(lambda p: engine.decode(queries(embedding, [p])), prompts)
        for found in answers
    ]


def _one_by_one(sam3: Sam3, vision: Sam3VisionEncoderOutput, words: Words, count: int) -> list[Any]:
    return [sam3.bare(vision, words.pick(i)).pred_masks.shape for i in range(count)]


def _agreement(
    report: Report,
    sam3: Sam3,
    engine: ConceptEngine,
    embedding: Embedding,
    prompt: ConceptPrompt,
    vision: Sam3VisionEncoderOutput,
    words: Words,
) -> None:
    """Of low-resolution masks with those of the bare decoder."""
    (found,) = engine.decode(queries(embedding, [prompt]))
    output = sam3.bare(vision, words.pick(0))
    scores = (output.pred_logits.sigmoid() * output.presence_logits.sigmoid())[0].float()
    kept = scores.argsort(descending=True, stable=True)[: len(found.scores)]
    masks = (output.pred_masks[0, kept] > 0).numpy()
    ours = found.planes > found.threshold
    union = (masks | ours).sum(axis=(1, 2))
    iou = np.where(union, (masks & ours).sum(axis=(1, 2)) / np.maximum(union, 1), 1.0)
    report.goals.append(
        Goal("IoU with the bare decoder's masks", float(iou.min()), LEAST_IOU, "at least", "")
    )


def _whole(
    report: Report,
    scale: Scale,
    sam3: Sam3,
    image: Any,
    prompt: ConceptPrompt,
    row: dict[str, Cell],
) -> None:
    """The same request from scratch, which is what the next text on an image costs elsewhere."""
    taken: Timing = compare(
        {"whole": partial(sam3.whole, image, prompt.text or "", prompt.threshold)},
        rounds=scale.whole,
        warmup=0,
    )["whole"]
    ours = float(row["ours (s)"])
    report.tables.append(
        Table(
            "One text, from scratch",
            [{"from scratch (s)": taken.median, "ours (s)": ours, "ratio": taken.median / ours}],
        )
    )
