"""What follows the image encoder: where the time goes, and how fast the products alone could be.

The goals are those of `click`, `boxes` and `concept`, which measure whole requests. Here one thread
runs one prompt on a cached image, so that a goal that is missed there can be told from one that no
implementation could meet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from benchmarks import boxes, click, sam2_models, sam3_models
from benchmarks.concept import IN_BFLOAT16, passed_by_some
from benchmarks.encode import BARE, BFLOAT16, FLOAT32, best_seconds, has_bfloat16
from benchmarks.encoder_parts import Recorder, floor_of, floor_row, parts_of, parts_row
from benchmarks.report import Cell, Report, Table
from inference_server.demo.scenes import make_scene
from inference_server.engines.base import Query, VisualPrompt, queries
from inference_server.engines.device import choose_compute, keep_freed_memory
from inference_server.engines.sam2.engine import VisualEngine
from inference_server.engines.sam3.engine import ConceptEngine
from inference_server.masks import upsample_masks

CLICK, BOX, TEXT = "click", "box", "text"

GOALS = {
    CLICK: {FLOAT32: 1 / click.FASTER["float32"], BFLOAT16: 1 / click.FASTER["bfloat16"]},
    BOX: {FLOAT32: 1 / boxes.FASTER["float32"], BFLOAT16: 1 / boxes.FASTER["bfloat16"]},
    TEXT: {BFLOAT16: IN_BFLOAT16[1]},
}
"""Maximum time relative to the unmodified modules in float32, of whole requests."""

SIZE = (1920, 1080)
NO_POINTS, NO_LABELS = np.empty((0, 2), np.float32), np.empty(0, np.int64)
POINT = np.array([[0.5, 0.5]], np.float32)
EDGES = np.array([0.3, 0.3, 0.6, 0.7], np.float32)
"""The click and the box, as shares of the image's sides."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        is_demo: whether to use the demo models instead of the published sizes.
        size: (width, height) of the image in pixels.
        rounds: timed calls of each implementation, by prompt.
        floor: timed calls of each matrix product and layout.
    """

    is_demo: bool
    size: tuple[int, int]
    rounds: Mapping[str, int]
    floor: int


FULL = Scale(False, SIZE, {CLICK: 20, BOX: 20, TEXT: 3}, 3)
SMALL = Scale(True, (320, 180), {CLICK: 2, BOX: 2, TEXT: 2}, 1)


@dataclass(slots=True)
class Measured:
    """Rows of the tables.

    Attributes:
        times: CPU time of each implementation.
        parts: rows of `parts_row`.
        floors: rows of `floor_row`.
    """

    times: list[dict[str, Cell]] = field(default_factory=list)
    parts: list[dict[str, Cell]] = field(default_factory=list)
    floors: list[dict[str, Cell]] = field(default_factory=list)


Ways = dict[str, Callable[[], object]]


def run(small: bool) -> Report:
    """Decode one prompt per call with one thread; the implementations alternate.

    Args:
        small: use the demo models and few rounds, for a run of a few seconds.
    """
    scale = SMALL if small else FULL
    load = os.getloadavg()[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        measured = measure(scale)
    finally:
        torch.set_num_threads(threads)
    notes = [
        "One prompt on a cached image, one thread, best CPU time of alternating calls. Click and "
        f"box: {'demo' if small else 'hiera_tiny'}, {scale.size[0]} x {scale.size[1]}, three masks "
        "and one; unmodified: `SAM2ImagePredictor.predict`. Text: SAM 3, random weights, 5 masks; "
        "unmodified: `Sam3Model.forward` on the features of image and text.",
        "Goals: those of whole requests in `click`, `boxes` and `concept`.",
        "Where the time goes, and matrix products alone: as in `encode`. Patches: convolutions. "
        "Attention: every product that is no linear layer of a module, so also that of the masks. "
        "Rest: operations on tokens, sums and activations.",
        f"Load average of the machine at the start: {load:.1f} on {os.cpu_count()} cores.",
    ]
    if not has_bfloat16():
        notes.append("No bfloat16: this processor has no instructions for it.")
    tables = [
        Table("Time", measured.times),
        Table("Where the time goes", measured.parts),
        Table("Matrix products alone", measured.floors),
    ]
    return Report("decoders", "Mask decoders", tables, [], notes)


def measure(scale: Scale) -> Measured:
    """Measure all prompts.

    Args:
        scale: extent of the run.
    """
    measured = Measured()
    for prompt, (ways, bare) in {**_visual(scale), **_concept(scale)}.items():
        rounds = scale.rounds[prompt]
        seconds = best_seconds({BARE: bare, **ways}, rounds)
        measured.times += [
            {
                "prompt": prompt,
                "decoder": way,
                "CPU time (ms)": 1e3 * taken,
                "relative (x)": taken / seconds[BARE],
            }
            for way, taken in seconds.items()
        ]
        for way, work in ways.items():
            times, products = parts_of(partial(_recorded, work), rounds)
            measured.parts.append(_titled(parts_row(prompt, way, times, seconds[way])))
            dtype = torch.bfloat16 if way == BFLOAT16 else torch.float32
            floor = floor_of(products, dtype, scale.floor)
            goal = GOALS[prompt].get(way)
            row = floor_row(prompt, way, floor, seconds[way], seconds[BARE], goal)
            measured.floors.append(_titled(row))
    return measured


def _recorded(work: Callable[[], object], recorder: Recorder) -> object:
    return work()


def _titled(row: Mapping[str, Cell]) -> dict[str, Cell]:
    """A row of an encoder's table as one of a decoder's."""
    return {
        name.replace("model", "prompt").replace("encoder", "decoder"): cell
        for name, cell in row.items()
    }


def _dtypes() -> dict[str, str]:
    """The measured dtypes by name of the implementation."""
    return {FLOAT32: "float32"} | ({BFLOAT16: "bfloat16"} if has_bfloat16() else {})


def _visual(scale: Scale) -> dict[str, tuple[Ways, Callable[[], object]]]:
    """The implementations of a click and a box by SAM 2."""
    known = sam2_models.demo() if scale.is_demo else sam2_models.softened("hiera_tiny")
    width, height = scale.size
    image = make_scene(1, scale.size).image
    sides = np.array([width, height], np.float32)
    point, box = POINT * sides, EDGES * np.tile(sides, 2)
    prompts = {
        CLICK: VisualPrompt(point, np.ones(1, np.int64)),
        BOX: VisualPrompt(NO_POINTS, NO_LABELS, box),
    }
    predictor = sam2_models.predictor_of(known.load())
    predictor.set_image(image)
    ways: dict[str, Ways] = {CLICK: {}, BOX: {}}
    for way, dtype in _dtypes().items():
        engine = VisualEngine(known.load(), known.version, choose_compute("cpu", dtype))
        (embedding,) = engine.encode([engine.prepare(image)])
        for name, prompt in prompts.items():
            asked = queries(embedding, [prompt], multimask=name == CLICK)
            ways[name][way] = partial(_masks, engine, asked, (height, width))
    return {
        CLICK: (
            ways[CLICK],
            partial(predictor.predict, point_coords=point, point_labels=np.ones(1, np.int64)),
        ),
        BOX: (ways[BOX], partial(predictor.predict, box=box, multimask_output=False)),
    }


def _masks(engine: VisualEngine, asked: list[Query[VisualPrompt]], size: tuple[int, int]) -> object:
    """The masks of a prompt at the image's size, as the predictor returns them."""
    (found,) = engine.decode(asked)
    return upsample_masks(found.planes, size, found.threshold)


def _concept(scale: Scale) -> dict[str, tuple[Ways, Callable[[], object]]]:
    """The implementations of a text by SAM 3."""
    sam3 = sam3_models.demo() if scale.is_demo else sam3_models.published()
    image = make_scene(1, (640, 480)).image
    vision, words = sam3.vision(image), sam3.words(["red circle"])
    ways: Ways = {}
    for way, dtype in _dtypes().items():
        engine = ConceptEngine(sam3.model, sam3.processor, sam3.name, choose_compute("cpu", dtype))
        (embedding,) = engine.encode([engine.prepare(image)])
        prompt = passed_by_some(engine, embedding, "red circle")
        ways[way] = partial(engine.decode, queries(embedding, [prompt]))
    return {TEXT: (ways, partial(sam3.bare, vision, words))}
