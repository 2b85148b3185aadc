"""What an embedding takes of the cache and weights of the memory, and how many images fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.report import Cell, Report, Table
from benchmarks.sam2_models import VERSIONS, compute, demo_config, packaged_config, random_model
from benchmarks.sam3_models import Sam3, demo, published
from inference_server.engines.base import Embedding, Engine, PromptT
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.settings import MiB

DTYPES = ("float32", "bfloat16", "float16")
ROOMS_MB = (2048, 8192)
"""The defaults of `INFERENCE_EMBEDDING_CACHE_MB` on a CPU and on a GPU."""


def _visual(config: object, name: str) -> VisualEngine:
    return VisualEngine(random_model(config), name, compute("float32"))


def _concept(sam3: Sam3) -> ConceptEngine:
    return ConceptEngine(sam3.model, sam3.processor, sam3.name, compute("float32"))


def _encoded(engine: Engine[PromptT]) -> Embedding:
    image = np.zeros((480, 640, 3), np.uint8)
    return engine.encode([engine.prepare(image)])[0]


def _rows(name: str, embedding: Embedding) -> list[dict[str, Cell]]:
    """One row a dtype, as the engines convert what they keep."""
    rows: list[dict[str, Cell]] = []
    for dtype in DTYPES:
        nbytes = embedding.features.to(getattr(torch, dtype)).nbytes
        row: dict[str, Cell] = {"model": name, "kept in": dtype, "MB an image": nbytes / 1e6}
        for room in ROOMS_MB:
            row[f"images in {room} MiB"] = room * MiB // nbytes
        rows.append(row)
    return rows


def run(small: bool) -> Report:
    """Encode a blank image with every model, and count the bytes.

    Args:
        small: only the demo's models.
    """
    engines: dict[str, Callable[[], VisualEngine | ConceptEngine]] = {
        "SAM 2, demo": lambda: _visual(demo_config(), "demo"),
        "SAM 3, demo": lambda: _concept(demo()),
    }
    if not small:
        for version in VERSIONS:
            engines[f"SAM 2.1, {version}"] = lambda v=version: _visual(packaged_config(v), v)  # type: ignore[misc]
        engines["SAM 3"] = lambda: _concept(published())
    rows: list[dict[str, Cell]] = []
    weights: list[dict[str, Cell]] = []
    for name, engine in engines.items():
        made = engine()  # one at a time: the largest takes 3.4 GB
        rows += _rows(name, _encoded(made))
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
        "What an embedding takes",
        [Table("Memory in the embedding cache", rows), Table("Memory of the weights", weights)],
        [],
        [
            "Published sizes with random weights; the demo as it is. The size of the image does "
            "not matter: a model sees a square of its own size.",
            "Weights are in float32, whatever the arithmetic.",
            "A request by an `image_id` that both engines answer keeps one embedding of each.",
        ],
    )
