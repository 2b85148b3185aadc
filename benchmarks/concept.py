"""Concepts on a cached image, compared with the bare decoder and with a run from scratch."""

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

from benchmarks.report import Cell, Goal, Report, Table, in_words
from benchmarks.sam3_models import Sam3, Words, demo, published
from benchmarks.timing import compare, exponent
from inference_server.bench.timing import Timing
from inference_server.demo.scenes import make_scene
from inference_server.engines.base import Candidates, ConceptPrompt, Embedding, queries
from inference_server.engines.device import choose_compute, use_threads
from inference_server.engines.sam3.engine import ConceptEngine

CORES = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
WORKERS = min(2, CORES)
"""Decoding threads, as in the server: one prompt each; they share the cores."""

OVER_DECODER = 1.15
"""Maximum time in float32 relative to the bare decoder, which computes in float32."""

IN_BFLOAT16 = {1: 0.3, 4: 0.35, 16: 0.15}
"""The same in bfloat16, by number of texts."""

LEAST_IOU = 0.99
MASKS = 5

COLORS = ("red", "blue", "green", "yellow")
SHAPES = ("circle", "star", "square", "triangle")
SCENE = 43
"""Seed of the scene. It shows red circles (the first text), so there are masks to compare."""

TEXTS = tuple(f"{color} {shape}" for shape in SHAPES for color in COLORS)


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        counts: numbers of texts per request.
        rounds: timed repetitions, per count.
        whole: timed repetitions of the run from scratch.
        most: maximum batch of the bare decoder in texts; with more it runs one by one only.
    """

    counts: tuple[int, ...]
    rounds: tuple[int, ...]
    whole: int
    most: int


FULL = Scale(counts=(1, 4, 16), rounds=(5, 2, 1), whole=1, most=4)
SMALL = Scale(counts=(1, 2, 4), rounds=(2, 2, 2), whole=2, most=2)


def run(small: bool, dtype: str = "float32") -> Report:
    """Run the benchmark.

    Args:
        small: use the demo models and few rounds, for a run of a few seconds.
        dtype: precision of the server. Default: float32.
    """
    scale, sam3 = (SMALL, demo()) if small else (FULL, published())
    report = Report(
        "concept",
        "Concepts on a cached image" + in_words(dtype),
        dtype=dtype,
        notes=[
            f"SAM 3, {sam3.name}, {'' if small else 'random weights, '}{dtype}. Its "
            f"scores lie close together, so each text has its own threshold, which {MASKS} "
            "candidates pass.",
            f"Engine: `ConceptEngine.decode`, one prompt per call in {WORKERS} threads that share "
            f"{CORES} cores, as in the server; a single prompt uses all cores. Bare decoder, "
            "in float32: `Sam3Model.forward` with `vision_embeds` and `text_embeds`, without "
            f"post-processing; all texts in one batch (of {scale.most} at most) or one by one, "
            "whichever is faster. "
            "From scratch: `Sam3Processor`, `Sam3Model.forward` with both encoders, "
            "`post_process_instance_segmentation`. The implementations alternate.",
        ],
    )
    with ThreadPoolExecutor(WORKERS, initializer=use_threads, initargs=(CORES // WORKERS,)) as pool:
        _measure(report, scale, sam3, pool, dtype)
    return report


def _measure(
    report: Report, scale: Scale, sam3: Sam3, pool: ThreadPoolExecutor, dtype: str
) -> None:
    torch.set_num_threads(CORES)
    image = make_scene(SCENE, (640, 480)).image
    texts = TEXTS[: max(scale.counts)]
    engine = ConceptEngine(sam3.model, sam3.processor, sam3.name, choose_compute("cpu", dtype))
    (embedding,) = engine.encode([engine.prepare(image)])
    vision, words = sam3.vision(image), sam3.words(texts)
    prompts = [passed_by_some(engine, embedding, text) for text in texts]
    absent = [_asked(text, 1.0) for text in texts]

    rows: list[dict[str, Cell]] = []
    costs: list[float] = []
    with sam3.encodings() as encodings:
        for count, rounds in zip(scale.counts, scale.rounds, strict=True):
            ways: dict[str, Callable[[], object]] = {
                "engine": partial(_answers, engine, embedding, prompts[:count], pool),
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
            ours = taken["engine"].median
            costs.append(ours)
            rows.append(
                {
                    "texts": count,
                    "engine (s)": ours,
                    "bare decoder (s)": bare.median,
                    "engine / bare decoder (x)": ours / bare.median,
                    "no match (s)": taken["absent"].median,
                    "no match / bare decoder (x)": taken["absent"].median / bare.median,
                    "engine, per text (s)": ours / count,
                }
            )
            what = f"{count} text{'s' if count > 1 else ''}"
            report.goals.append(
                Goal(
                    f"{what}: relative to the bare decoder",
                    ours / bare.median,
                    OVER_DECODER if dtype == "float32" else IN_BFLOAT16.get(count, OVER_DECODER),
                    "at most",
                )
            )
        ran = len(encodings)
    report.tables.append(Table("A request on a cached image, medians", rows))
    report.goals.append(Goal("encoder runs for cached images and texts", ran, 0, "at most", ""))
    _agreement(report, sam3, engine, embedding, prompts[0], vision, words)
    _whole(report, scale, sam3, image, prompts[0], rows[0])
    power = exponent(scale.counts, costs)
    report.tables.append(
        Table("Cost by number of texts", [{"implementation": "engine", "exponent": power}])
    )


def _asked(text: str, threshold: float) -> ConceptPrompt:
    return ConceptPrompt(text, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), threshold)


def passed_by_some(engine: ConceptEngine, embedding: Embedding, text: str) -> ConceptPrompt:
    """Return a prompt whose threshold `MASKS` candidates pass; this also caches its text.

    Args:
        engine: the engine.
        embedding: an image.
        text: the phrase.
    """
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
    """Add the IoU of low-resolution masks with those of the bare decoder.

    Candidates whose scores are equal have no order, so each mask is compared with the most
    similar one of the bare decoder, and all pixels count together.
    """
    (found,) = engine.decode(queries(embedding, [prompt]))
    bare = sam3.bare(vision, words.pick(0)).pred_masks[0].flatten(1) > 0
    ours = torch.from_numpy(found.planes > found.threshold).flatten(1)
    both = (ours[:, None] & bare).sum(-1)
    either = (ours[:, None] | bare).sum(-1)
    nearest = (both / either.clamp(min=1)).argmax(1, keepdim=True)
    iou = both.gather(1, nearest).sum() / either.gather(1, nearest).sum()
    report.goals.append(
        Goal("IoU with the bare decoder's masks", float(iou), LEAST_IOU, "at least", "")
    )


def _whole(
    report: Report,
    scale: Scale,
    sam3: Sam3,
    image: Any,
    prompt: ConceptPrompt,
    row: dict[str, Cell],
) -> None:
    """Time one text from scratch, the cost of another text on an image without a cache."""
    taken: Timing = compare(
        {"whole": partial(sam3.whole, image, prompt.text or "", prompt.threshold)},
        rounds=scale.whole,
        warmup=0,
    )["whole"]
    ours = float(row["engine (s)"])
    report.tables.append(
        Table(
            "One text, from scratch",
            [{"from scratch (s)": taken.median, "engine (s)": ours, "ratio": taken.median / ours}],
        )
    )
