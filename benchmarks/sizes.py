"""Memory of embeddings and weights, and number of images that fit into the cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.one_model import visual_head
from benchmarks.report import Cell, Goal, Report, Table
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


def visual_engine(config: object, name: str, dtype: str) -> VisualEngine:
    """Build the engine of a SAM 2 with random weights.

    Args:
        config: configuration of the model.
        name: name of the weights.
        dtype: precision.
    """
    return VisualEngine(random_model(config), name, compute(dtype))


def concept_engine(sam3: Sam3, dtype: str) -> ConceptEngine:
    """Build the engine of a SAM 3 as the server does; the model is not usable afterwards.

    Args:
        sam3: the model.
        dtype: precision.
    """
    used = compute(dtype)
    model, processor = sam3.model, sam3.processor
    trunk = TrunkEngine(model, processor, sam3.name, used, release=True)
    return ConceptEngine(model, processor, sam3.name, used, trunk=trunk, owned=True)


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
    engines: dict[str, Callable[[str], VisualEngine | ConceptEngine]] = {
        "SAM 2, demo": partial(visual_engine, demo_config(), "demo"),
        "SAM 3, demo": lambda dtype: concept_engine(demo(), dtype),
    }
    if not small:
        for version in VERSIONS:
            name = f"SAM 2.1, {version}"
            engines[name] = partial(visual_engine, packaged_config(version), version)
        engines["SAM 3"] = lambda dtype: concept_engine(published(), dtype)
    heads = {"SAM 3, demo": demo} if small else {"SAM 3, demo": demo, "SAM 3": published}
    rows: list[dict[str, Cell]] = []
    weights: list[dict[str, Cell]] = []
    goals: list[Goal] = []
    for name, engine in engines.items():
        held: dict[str, int] = {}
        for dtype in ("float32", "bfloat16"):
            made = engine(dtype)  # one at a time; the largest needs 3.4 GB
            held[dtype] = made.weight_bytes
            if dtype == "float32":
                rows += _rows(name, _encoded(made))
            del made
        if name in heads:
            rows += _rows(f"{name}: clicks", _clicked(heads[name]()))
        weights.append(
            {
                "model": name,
                **{f"weights in {dtype} (MB)": nbytes / 1e6 for dtype, nbytes in held.items()},
                "bfloat16 / float32 (x)": held["bfloat16"] / held["float32"],
            }
        )
        if name == "SAM 3":
            ratio = held["bfloat16"] / held["float32"]
            goals.append(Goal("weights of SAM 3 in bfloat16 over float32", ratio, 0.55, "at most"))
    return Report(
        "sizes",
        "Memory of embeddings and weights",
        [Table("Embedding cache", rows), Table("Weights", weights)],
        goals,
        [
            "Published sizes with random weights, and the demo models. The size does not depend on "
            "the image: each model resizes it to a square of fixed size.",
            "Weights: what the server keeps in memory, each in the precision that it is used in. "
            "Parts that run in float32 in either precision, such as norms, stay in float32; word "
            "embeddings are in float16 where products are in bfloat16. What only videos need is "
            "not kept.",
            "Clicks: what SAM 3's visual head keeps of an image beside what words keep.",
            "An `image_id` used with several models takes one embedding of each.",
        ],
    )
