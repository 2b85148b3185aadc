"""A word and a click on one image: SAM 3 with its visual head, beside SAM 3 and SAM 2."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import Sam3TrackerConfig

from benchmarks import sam3_models
from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.sam2_models import compute, demo_config, packaged_config, random_model
from benchmarks.timing import compare
from inference_server.engines.base import (
    ConceptPrompt,
    Embedding,
    Engine,
    Prepared,
    VisualPrompt,
    queries,
)
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.engines.sam3.trunk import TrunkEngine
from inference_server.engines.sam3.visual_engine import Sam3VisualEngine
from inference_server.engines.sam3.visual_head import VisualHead

_IMAGE = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
_WORD = ConceptPrompt("red circle", np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
_CLICK = VisualPrompt(np.array([[900, 500]], np.float32), np.ones(1, np.int64))


@dataclass(frozen=True, slots=True)
class Way:
    """One way to answer a word and a click.

    Attributes:
        parameters: number of parameters of all models.
        both: answers a word and a click on a new image; returns the embeddings that are kept.
        second: makes what a click needs of an image that has been asked for a word.
        click: answers a click on a kept embedding.
    """

    parameters: int
    both: Callable[[], Sequence[Embedding]]
    second: Callable[[], Embedding]
    click: Callable[[Embedding], object]


def _parameters(*modules: Any) -> int:
    return int(sum(own.numel() for module in modules for own in module.parameters()))


def _encoded(engine: Engine[Any]) -> Embedding:
    return engine.encode([engine.prepare(_IMAGE)])[0]


def _find(engine: ConceptEngine, embedding: Embedding) -> object:
    return engine.decode(queries(embedding, [_WORD]))


def _select(engine: Engine[VisualPrompt], embedding: Embedding) -> object:
    return engine.decode(queries(embedding, [_CLICK], multimask=True, best=True))


def visual_head(sam3: sam3_models.Sam3) -> VisualHead:
    """Build a visual head with random weights for a SAM 3.

    Args:
        sam3: the model, whose sizes it takes.
    """
    torch.manual_seed(1)
    config: Any = sam3.model.config
    vision = config.vision_config
    size, width = vision.backbone_config.image_size, vision.fpn_hidden_size
    side = {
        "hidden_size": width,
        "image_size": size,
        "patch_size": vision.backbone_config.patch_size,
    }
    tracker = Sam3TrackerConfig(
        vision_config=vision.to_dict(),
        prompt_encoder_config=side,
        mask_decoder_config={"hidden_size": width, "iou_head_hidden_dim": width},
    )
    return VisualHead(tracker, vision).eval().requires_grad_(False)


def one_model(sam3: sam3_models.Sam3) -> Way:
    """SAM 3 with its visual head: one image encoding.

    Args:
        sam3: the model.
    """
    used, head = compute("float32"), visual_head(sam3)
    trunk = TrunkEngine(sam3.model, sam3.processor, sam3.name, used)
    concept = ConceptEngine(sam3.model, sam3.processor, sam3.name, used)
    visual = Sam3VisualEngine(head, sam3.name, used)

    def side(engine: Engine[Any], output: Embedding) -> Embedding:
        return engine.encode([Prepared(output.features, output.size)])[0]

    def both() -> Sequence[Embedding]:
        output = _encoded(trunk)
        words, points = side(concept, output), side(visual, output)
        _find(concept, words)
        _select(visual, points)
        return words, points

    kept = _encoded(trunk)
    return Way(
        _parameters(sam3.model, head), both, lambda: side(visual, kept), partial(_select, visual)
    )


def two_models(sam3: sam3_models.Sam3, config: object, name: str) -> Way:
    """SAM 3 for the word and SAM 2 for the click: two image encodings.

    Args:
        sam3: the model for words.
        config: configuration of SAM 2.
        name: name of SAM 2.
    """
    used, sam2 = compute("float32"), random_model(config)
    concept = ConceptEngine(sam3.model, sam3.processor, sam3.name, used)
    visual = VisualEngine(sam2, name, used)

    def both() -> Sequence[Embedding]:
        words, points = _encoded(concept), _encoded(visual)
        _find(concept, words)
        _select(visual, points)
        return words, points

    return Way(
        _parameters(sam3.model, sam2), both, lambda: _encoded(visual), partial(_select, visual)
    )


def _row(name: str, way: Way, times: dict[str, float]) -> dict[str, Cell]:
    kept = way.both()
    return {
        "way": name,
        "weights (MB)": way.parameters * 4 / 1e6,
        "embeddings of one image (MB)": sum(each.nbytes for each in kept) / 1e6,
        **{f"{what} (s)": seconds for what, seconds in times.items()},
    }


def run(small: bool) -> Report:
    """Time and count a word and a click on one image in both ways, alternately.

    Args:
        small: use the sizes of the demo, not the published ones.
    """
    sam3 = sam3_models.demo() if small else sam3_models.published()
    name = "demo" if small else "hiera_large"
    config = demo_config() if small else packaged_config(name)
    ways = {
        "one model": one_model(sam3),
        f"two models (SAM 2: {name})": two_models(sam3, config, name),
    }
    rounds = 10 if small else 3
    both = compare({each: way.both for each, way in ways.items()}, rounds=rounds)
    second = compare({each: way.second for each, way in ways.items()}, rounds=rounds)
    kept = {each: way.second() for each, way in ways.items()}
    clicks = {each: partial(way.click, kept[each]) for each, way in ways.items()}
    click = compare(clicks, rounds=10 * rounds, warmup=3)
    rows = [
        _row(
            each,
            way,
            {
                "word and click, new image": both[each].median,
                "made for the first click after a word": second[each].median,
                "further click": click[each].median,
            },
        )
        for each, way in ways.items()
    ]
    one, two = rows
    ratios: list[dict[str, Cell]] = [
        {"figure": figure, "one model / two models (x)": float(one[figure]) / float(two[figure])}
        for figure in one
        if figure != "way"
    ]
    (embeddings,) = [each for each in ratios if "embeddings" in str(each["figure"])]
    (first,) = [each for each in ratios if "first click" in str(each["figure"])]
    del ways
    gc.collect()
    return Report(
        "one_model",
        "A word and a click on one image: one model or two",
        [Table("Both ways, alternately, in float32", rows), Table("Ratios", ratios)],
        [
            Goal(
                "embeddings of one model, relative to two models",
                float(embeddings["one model / two models (x)"]),
                1.05,
                "at most",
            ),
            Goal(
                "first click after a word, relative to two models",
                float(first["one model / two models (x)"]),
                0.5,
                "at most",
            ),
        ],
        [
            "Random weights at "
            + ("the sizes of the demo" if small else "the published sizes")
            + ", an image of 1920 x 1080, without HTTP. *One model* is SAM 3 with its visual head: "
            "the image encoder runs once, and each side starts from its output. *Two models* are "
            "SAM 3 for the word and SAM 2 for the click.",
            "While only one side of an image has been asked for, the output of the image encoder "
            "is kept as well, for the other side; it is dropped when both are there.",
        ],
    )
