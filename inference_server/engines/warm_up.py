"""First passes of a model on a GPU, so that no request waits for what happens only once.

PyTorch loads kernels and allocates memory at the first use of a shape, and CUDA graphs are recorded
at the second. Models are warmed before the server reports that it is ready.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np

from inference_server.engines.base import (
    ConceptPrompt,
    Embedding,
    Engine,
    Prepared,
    VisualPrompt,
    queries,
)
from inference_server.engines.loaded_weights import Sam3Engines

logger = logging.getLogger(__name__)

CLICKS = (1, 2, 4, 8, 16, 32)
"""Prompts per pass: the sizes that batches are padded to."""

CONCEPTS = (1, 2, 4, 8)
"""Texts per pass, likewise."""

_PASSES = 2
"""Passes of each shape: the second one records its graph."""

_SIDE = 64
"""Side of the image in pixels; it is resized to the model's input."""


def warm_up(engines: Engine[VisualPrompt] | Sam3Engines) -> None:
    """Run each frequent shape: clicks and boxes, or texts. Errors are logged, not raised.

    Args:
        engines: An engine for points and boxes, or the engines of a SAM 3.
    """
    begin = time.perf_counter()
    try:
        if isinstance(engines, Sam3Engines):
            _warm_sam3(engines)
        else:
            (embedding,) = engines.encode([_image(engines)])
            _warm_visual(engines, embedding)
    except Exception:  # the model may still answer smaller requests
        logger.warning("Warming a model failed; its first requests are slower.", exc_info=True)
    else:
        logger.info("Warmed a model in %.1f s", time.perf_counter() - begin)


def _image(engine: Engine[Any]) -> Prepared:
    return engine.prepare(np.zeros((_SIDE, _SIDE, 3), np.uint8))


def _warm_sam3(engines: Sam3Engines) -> None:
    concept = engines.concept
    image = _image(concept)
    if engines.trunk is not None:
        (encoded,) = engines.trunk.encode([image])
        image = Prepared(encoded.features, encoded.size)
    (embedding,) = concept.encode([image])
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    for threshold in (1.0, 0.5):  # first without masks
        prompt = ConceptPrompt("object", *nothing, threshold)
        for count in CONCEPTS:
            concept.decode(queries(embedding, [prompt] * count, masks=True))
    if engines.visual is not None:
        (embedding,) = engines.visual.encode([image])
        _warm_visual(engines.visual, embedding)


def _warm_visual(engine: Engine[VisualPrompt], embedding: Embedding) -> None:
    middle = np.full((1, 2), _SIDE / 2, np.float32)
    click = VisualPrompt(middle, np.ones(1, np.int64))
    box = VisualPrompt(middle[:0], np.ones(0, np.int64), np.array([8, 8, 56, 56], np.float32))
    for prompt in (click, box):
        for multimask in (True, False):
            for count in CLICKS:
                asked = queries(
                    embedding, [prompt] * count, multimask=multimask, best=multimask, masks=True
                )
                for _ in range(_PASSES):
                    engine.decode(asked)
