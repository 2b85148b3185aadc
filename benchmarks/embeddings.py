"""Embeddings in half precision: size, decoding time, and effect on masks."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
import torch

from benchmarks.overlap import iou
from benchmarks.report import Goal, Report, Table
from benchmarks.timing import compare
from inference_server.demo.scenes import Scene, make_scene
from inference_server.engines.base import (
    Candidates,
    ConceptPrompt,
    Embedding,
    Engine,
    PromptT,
    VisualPrompt,
    queries,
)
from inference_server.engines.device import Compute, choose_compute
from inference_server.engines.load_weights import load_sam2, load_sam3
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.engines.weights import find_sam2, find_sam3
from inference_server.masks import Mask, upsample_masks

DTYPES = ("float32", "bfloat16", "float16")


def _visual(compute: Compute) -> VisualEngine:
    checkpoint = find_sam2("demo")["hiera_tiny"]
    return VisualEngine(load_sam2(checkpoint, compute), checkpoint.name, compute)


def _concept(compute: Compute) -> ConceptEngine:
    found = find_sam3("demo")
    source, name = found.source, found.name
    model, processor = load_sam3(source, name, compute)
    return ConceptEngine(model, processor, name, compute)


def _clicks(scene: Scene) -> list[VisualPrompt]:
    prompts = []
    for item in scene.objects:
        rows, columns = np.nonzero(item.mask)
        middle = len(rows) // 2
        point = np.array([[columns[middle], rows[middle]]], np.float32)
        prompts.append(VisualPrompt(point, np.ones(1, np.int64)))
    return prompts


def _words(scene: Scene) -> list[ConceptPrompt]:
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    return [ConceptPrompt(f"{item.color} {item.shape}", *none) for item in scene.objects]


def _masks(answers: list[Candidates], size: tuple[int, int]) -> list[Mask]:
    """Return the best mask of each prompt."""
    return [
        upsample_masks(answer.planes[:1], size, answer.threshold)[0]
        if len(answer.planes)
        else Mask.empty(size)
        for answer in answers
    ]


def _measure(
    name: str,
    engines: dict[str, Engine[PromptT]],
    asked: list[tuple[Scene, list[PromptT]]],
    rounds: int,
) -> list[dict[str, str | int | float]]:
    """Return one row per dtype: bytes, time per prompt, and IoU with float32 masks."""
    embedded: dict[str, list[Embedding]] = {}
    for dtype, engine in engines.items():
        embedded[dtype] = [engine.encode([engine.prepare(scene.image)])[0] for scene, _ in asked]
    one = {dtype: queries(embedded[dtype][0], asked[0][1][:1], best=True) for dtype in engines}
    times = compare(
        {dtype: lambda d=dtype: engines[d].decode(one[d]) for dtype in engines},  # type: ignore[misc]
        rounds=rounds,
        warmup=3,
    )
    masks: dict[str, list[Mask]] = {
        dtype: [
            mask
            for embedding, (_, prompts) in zip(embedded[dtype], asked, strict=True)
            for mask in _masks(
                engine.decode(queries(embedding, prompts, best=True)), embedding.size
            )
        ]
        for dtype, engine in engines.items()
    }
    rows: list[dict[str, str | int | float]] = []
    for dtype in engines:
        same = [
            iou(mask, precise) if not (mask.is_empty and precise.is_empty) else 1.0
            for mask, precise in zip(masks[dtype], masks["float32"], strict=True)
        ]
        rows.append(
            {
                "model": name,
                "cache dtype": dtype,
                "kB per image": embedded[dtype][0].nbytes / 1e3,
                "time per prompt (ms)": times[dtype].median * 1e3,
                "relative to float32 (x)": times[dtype].median / times["float32"].median,
                "masks": len(same),
                "mean IoU": statistics.fmean(same),
                "minimum IoU": min(same),
            }
        )
    return rows


def run(small: bool) -> Report:
    """Compare masks of the demo checkpoints with embeddings cached in each dtype.

    Args:
        small: use two scenes in place of 40.
    """
    rounds, count = (3, 2) if small else (50, 40)
    scenes = [make_scene(seed, (640, 480)) for seed in range(count)]
    compute = choose_compute("auto", "float32")
    kept = {dtype: replace(compute, cache_dtype=getattr(torch, dtype)) for dtype in DTYPES}
    rows = _measure(
        "SAM 2 (demo)",
        {dtype: _visual(c) for dtype, c in kept.items()},
        [(scene, _clicks(scene)) for scene in scenes],
        rounds,
    ) + _measure(
        "SAM 3 (demo)",
        {dtype: _concept(c) for dtype, c in kept.items()},
        [(scene, _words(scene)) for scene in scenes],
        rounds,
    )
    half = [row for row in rows if row["cache dtype"] == "float16"]
    return Report(
        "embeddings",
        "Embeddings in half precision",
        [Table("Compared with float32 embeddings; computing in float32", rows)],
        [
            Goal(
                f"{row['model']}: mean IoU of float16", float(row["mean IoU"]), 0.99, "at least", ""
            )
            for row in half
        ],
        [
            "Set by `INFERENCE_EMBEDDING_DTYPE`. At the published sizes an image takes 23 MB "
            "(SAM 2) and 117 MB (SAM 3) in float32."
        ],
    )
