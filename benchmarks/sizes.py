"""Memory of embeddings and weights, and number of images that fit into the cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.one_model import visual_head
from benchmarks.report import Cell, Report, Table
from benchmarks.sam2_models import VERSIONS, compute, demo_config, packaged_config, random_model
from benchmarks.sam3_models import Sam3, demo, published
from inference_server.engines.base import Embedding, Engine, Prepared, PromptT
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.engines.sam3.trunk import TrunkEngine
from inference_server.engines.sam3.visual_engine import Sam3VisualEngine
from inference_server.settings import MiB

DTYPES = ("float32", "bfloat16", "float16")
CACHES_MB = (2048, 8192)
"""Defaults of `INFERENCE_EMBEDDING_CACHE_MB` on a CPU and on a GPU, in MiB."""


def _visual(config: object, name: str) -> VisualEngine:
    return VisualEngine(random_model(config), name, compute("float32"))


def _concept(sam3: Sam3) -> ConceptEngine:
    return ConceptEngine(sam3.model, sam3.processor, sam3.name, compute("float32"))


def _encoded(engine: Engine[PromptT]) -> Embedding:
    image = np.zeros((480, 640, 3), np.uint8)
    return engine.encode([engine.prepare(image)])[0]


def _clicked(sam3: Sam3) -> Embedding:
    """Encode for SAM 3's visual head, from the output of the image encoder."""
    used = compute("float32")
    output = _encoded(TrunkEngine(sam3.model, sam3.processor, sam3.name, used))
    visual = Sam3VisualEngine(visual_head(sam3), sam3.name, used)
    return visual.encode([Prepared(output.features, output.size)])[0]


def _rows(name: str, embedding: Embedding) -> list[dict[str, Cell]]:
    """Return one row per dtype of cached features."""
    rows: list[dict[str, Cell]] = []
    for dtype in DTYPES:
        nbytes = embedding.features.to(getattr(torch, dtype)).nbytes
        row: dict[str, Cell] = {"model": name, "cache dtype": dtype, "MB per image": nbytes / 1e6}
        for size in CACHES_MB:
            row[f"images in {size} MiB"] = size * MiB // nbytes
        rows.append(row)
    return rows


def run(small: bool) -> Report:
    """Encode a blank image with each model, and count the bytes.

    Args:
        small: use only the demo models.
    """
    engines: dict[str, Callable[[], VisualEngine | ConceptEngine]] = {
        "SAM 2, demo": lambda: _visual(demo_config(), "demo"),
        "SAM 3, demo": lambda: _concept(demo()),
    }
    if not small:
        for version in VERSIONS:
            engines[f"SAM 2.1, {version}"] = lambda v=version: _visual(packaged_config(v), v)  # type: ignore[misc]
        engines["SAM 3"] = lambda: _concept(published())
    heads = {"SAM 3, demo": demo} if small else {"SAM 3, demo": demo, "SAM 3": published}
    rows: list[dict[str, Cell]] = []
    weights: list[dict[str, Cell]] = []
    for name, engine in engines.items():
        made = engine()  # one at a time; the largest needs 3.4 GB
        rows += _rows(name, _encoded(made))
        if name in heads:
            rows += _rows(f"{name}: clicks", _clicked(heads[name]()))
        parameters = sum(own.numel() for own in made._model.parameters())
        weights.append(
            {
                "model": name,
                "parameters (M)": parameters / 1e6,
                "weights (MB)": parameters * 4 / 1e6,
            }
        )
    return Report(
        "sizes",
        "Memory of embeddings and weights",
        [Table("Embedding cache", rows), Table("Weights", weights)],
        [],
        [
            "Published sizes with random weights, and the demo models. The size does not depend on "
            "the image: each model resizes it to a square of fixed size.",
            "Weights are in float32 in every precision.",
            "Clicks: what SAM 3's visual head keeps of an image beside what words keep.",
            "An `image_id` used with several models takes one embedding of each.",
        ],
    )
