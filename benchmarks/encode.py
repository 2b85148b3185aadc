"""The image encoders of SAM 2 and SAM 3 alone, compared with the unmodified modules."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3VisionModel

from benchmarks.encoder_parts import (
    NECK,
    PATCHES,
    Recorder,
    floor_of,
    floor_row,
    parts_of,
    parts_row,
)
from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.sam2_models import demo_config, packaged_config, random_model
from benchmarks.sam3_models import demo, published
from benchmarks.sizes import concept_engine, visual_engine
from inference_server.demo import WEIGHTS
from inference_server.engines.device import keep_freed_memory
from inference_server.engines.sam2.fast_hiera import FastImageEncoder
from inference_server.engines.sam3.fast_vit import FastViT
from inference_server.engines.sam3.trunk import planes_of

BARE, AUTOCAST = "unmodified, float32", "unmodified, bfloat16 autocast"
FLOAT32, BFLOAT16 = "here, float32", "here, bfloat16"

GOALS = {
    "hiera_tiny": {FLOAT32: 0.85, BFLOAT16: 0.35},
    "hiera_large": {FLOAT32: 0.85, BFLOAT16: 0.33},
    "SAM 3": {FLOAT32: 0.85, BFLOAT16: 0.25},
}
"""Maximum time relative to the unmodified modules in float32."""

MEMORY = {"SAM 3": 0.55}
"""Maximum resident memory in bfloat16 relative to the weights in float32."""

_LAYERS = 8
"""Layers of the measured SAM 3: a quarter, which takes a quarter of the time."""

Ways = Mapping[str, Callable[[], object]]
Recorded = Callable[[Recorder], object]


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        rounds: timed calls of each implementation, by model.
        memory: models whose memory is measured.
        floor: timed calls of each matrix product and layout.
    """

    rounds: Mapping[str, int]
    memory: tuple[str, ...]
    floor: int


FULL = Scale(
    rounds={"hiera_tiny": 5, "hiera_large": 2, "SAM 3": 2},
    memory=("hiera_tiny", "hiera_large", "SAM 3"),
    floor=3,
)
SMALL = Scale(rounds={"demo": 1, "SAM 3, demo": 1}, memory=("demo",), floor=1)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model's image encoders.

    Attributes:
        ways: each implementation, run on one image.
        recorded: the server's implementations, run while their parts are recorded.
    """

    ways: Ways
    recorded: Mapping[str, Recorded]


@dataclass(slots=True)
class Measured:
    """Results of all models.

    Attributes:
        seconds: CPU seconds of each implementation, by model.
        parts: rows of `parts_row`.
        floors: rows of `floor_row`.
    """

    seconds: dict[str, Mapping[str, float]] = field(default_factory=dict)
    parts: list[Mapping[str, Cell]] = field(default_factory=list)
    floors: list[Mapping[str, Cell]] = field(default_factory=list)


def run(small: bool) -> Report:
    """Encode one image per call with one thread; the implementations alternate.

    Args:
        small: use the demo models and one round.
    """
    scale = SMALL if small else FULL
    load = os.getloadavg()[0]
    memory = [row for name in scale.memory for row in _memory(name)]
    measured = Measured()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        for name, rounds in scale.rounds.items():
            measure(name, measured, rounds, scale.floor)
    finally:
        torch.set_num_threads(threads)
    return report_of(measured, memory, load)


def measure(name: str, measured: Measured, rounds: int, floor_rounds: int) -> None:
    """Measure one model.

    Args:
        name: name of the model.
        measured: results are added to it.
        rounds: timed calls of each implementation.
        floor_rounds: timed calls of each matrix product and layout.
    """
    subject = _subject(name)
    seconds = best_seconds(subject.ways, rounds)
    measured.seconds[name] = seconds
    for way, work in subject.recorded.items():
        times, products = parts_of(work, rounds)
        measured.parts.append(parts_row(name, way, times, seconds[way]))
        dtype = torch.bfloat16 if way == BFLOAT16 else torch.float32
        floor = floor_of(products, dtype, floor_rounds)
        goal = GOALS.get(name, {}).get(way)
        measured.floors.append(floor_row(name, way, floor, seconds[way], seconds[BARE], goal))


def report_of(measured: Measured, memory: Sequence[Mapping[str, Cell]], load: float) -> Report:
    """Make the report.

    Args:
        measured: results of all models.
        memory: rows of `_memory`.
        load: load average of the machine.
    """
    rows: list[dict[str, Cell]] = []
    goals = []
    for name, times in measured.seconds.items():
        bare = times[BARE]
        for way, seconds in times.items():
            ratio = seconds / bare
            rows.append(
                {"model": name, "encoder": way, "CPU time (s)": seconds, "relative (x)": ratio}
            )
            bound = GOALS.get(name, {}).get(way)
            if bound is not None:
                goals.append(Goal(f"{name}, {way}", ratio, bound, "at most"))
    for row in memory:
        bound = MEMORY.get(str(row["model"]))
        if bound is not None and row["precision"] == "bfloat16":
            ratio = float(row["relative to float32 weights (x)"])
            goals.append(Goal(f"{row['model']}: memory in bfloat16", ratio, bound, "at most"))
    notes = [
        "One image, one thread, random weights. SAM 2: the image encoder up to what the mask "
        "decoder reads. SAM 3: the image encoder, 8 of its 32 layers (7 of windows, 1 global, in "
        "proportion as in all), and its neck. Unmodified: the modules of `sam2` "
        "and `transformers`. Best CPU time of the thread of alternating calls, which does not "
        "count the time that other processes run, but does count what they evict from the caches.",
        "Memory: what a process takes for the server's engine, without image, after loading. "
        "Relative to 4 bytes per parameter of the unmodified model.",
        "Where the time goes: CPU time of each operation, by kind; of each the best of the same "
        "calls. GELU is computed in the matrix product before it and counts as linear layer. "
        "Patches: the convolution or product that makes tokens of pixels. Neck: all that follows "
        "the last layer.",
        "Matrix products alone: each product of the encoder, attention and neck included, "
        "repeated on the same operands, in the fastest of up to three memory layouts of its "
        "weights, without bias, GELU, softmax, norm or sum. No implementation on these products is "
        "faster. `At the best rate`: if each product reached the rate of the fastest one.",
        f"Load average of the machine at the start: {load:.1f} on {os.cpu_count()} cores.",
    ]
    if not has_bfloat16():
        notes.append("No bfloat16: this processor has no instructions for it.")
    tables = [
        Table("Time", rows),
        Table("Where the time goes", measured.parts),
        Table("Matrix products alone", measured.floors),
        Table("Resident memory", memory),
    ]
    return Report("encode", "Image encoders", tables, goals, notes)


def has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _subject(name: str) -> Subject:
    return _sam3(name) if name.startswith("SAM 3") else _sam2(name)


def _sam2(name: str) -> Subject:
    model: Any = random_model(demo_config() if name == "demo" else packaged_config(name))
    image = torch.randn(1, 3, model.image_size, model.image_size)

    def bare() -> object:
        return model.forward_image(image)

    def recorded(encoder: FastImageEncoder) -> Recorded:
        def work(recorder: Recorder) -> object:
            with recorder.marking(encoder, "_neck", NECK):
                return encoder(image)

        return work

    precise = FastImageEncoder(model, torch.float32)
    ways: dict[str, Callable[[], object]] = {BARE: bare, FLOAT32: lambda: precise(image)}
    parts = {FLOAT32: recorded(precise)}
    if has_bfloat16():
        coarse = FastImageEncoder(model, torch.bfloat16)
        ways[AUTOCAST] = lambda: _autocast(bare)
        ways[BFLOAT16] = lambda: coarse(image)
        parts[BFLOAT16] = recorded(coarse)
    return Subject(ways, parts)


def _sam3(name: str) -> Subject:
    torch.manual_seed(0)
    is_demo = name != "SAM 3"
    config: Any = Sam3Config.from_pretrained(WEIGHTS / "sam3") if is_demo else Sam3Config()
    if not is_demo:
        backbone = config.vision_config.backbone_config
        backbone.num_hidden_layers = _LAYERS
        backbone.global_attn_indexes = [_LAYERS - 1]
    model: Any = Sam3VisionModel(config.vision_config)
    model.eval().requires_grad_(False)
    side = config.vision_config.backbone_config.image_size
    image = torch.randn(1, 3, side, side)

    def bare() -> object:
        return model(image)

    def neck(hidden: Tensor) -> object:
        planes = planes_of(hidden)
        return [layer(planes) for layer in list(model.neck.fpn_layers)[:-1]]

    def recorded(encoder: FastViT) -> Recorded:
        def work(recorder: Recorder) -> object:
            with recorder.marking(encoder, "_patches", PATCHES):
                hidden = encoder(image)
            with recorder.counting_as(NECK):
                return neck(hidden)

        return work

    precise = FastViT(model.backbone, torch.float32)
    ways: dict[str, Callable[[], object]] = {BARE: bare, FLOAT32: lambda: neck(precise(image))}
    parts = {FLOAT32: recorded(precise)}
    if has_bfloat16():
        coarse = FastViT(model.backbone, torch.bfloat16)
        coarse_parts = recorded(coarse)
        ways[AUTOCAST] = lambda: _autocast(bare)
        ways[BFLOAT16] = lambda: _autocast(lambda: neck(coarse(image)))
        parts[BFLOAT16] = lambda recorder: _autocast(lambda: coarse_parts(recorder))
    return Subject(ways, parts)


def _autocast(work: Callable[[], object]) -> object:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return work()


@torch.inference_mode()
def best_seconds(ways: Ways, rounds: int) -> dict[str, float]:
    """Return the best CPU seconds of each implementation; the first call does not count.

    Args:
        ways: the implementations, which are called in turns.
        rounds: number of calls of each that count.
    """
    best = dict.fromkeys(ways, float("inf"))
    for turn in range(rounds + 1):
        for name, work in ways.items():
            begin = time.thread_time()
            work()
            if turn:
                best[name] = min(best[name], time.thread_time() - begin)
    return best


def _memory(name: str) -> list[dict[str, Cell]]:
    """Return one row per precision: memory of the engine, measured in a new process."""
    rows: list[dict[str, Cell]] = []
    for dtype in ("float32", "bfloat16"):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            resident, parameters = pool.submit(_resident, name, dtype).result()
        rows.append(
            {
                "model": name,
                "precision": dtype,
                "parameters (M)": parameters / 1e6,
                "resident (MB)": resident / 1e6,
                "relative to float32 weights (x)": resident / (4 * parameters),
            }
        )
    return rows


def _resident(name: str, dtype: str) -> tuple[int, int]:
    """Return resident bytes of an engine, and the number of its model's parameters."""
    visual_engine(demo_config(), "demo", dtype)  # the first model imports more modules
    before = _pages()
    if name.startswith("SAM 3"):
        sam3 = published() if name == "SAM 3" else demo()
        parameters = sum(each.numel() for each in sam3.model.parameters())
        engine: Any = concept_engine(sam3, dtype)
        del sam3
    else:
        config = demo_config() if name == "demo" else packaged_config(name)
        parameters = sum(each.numel() for each in random_model(config).parameters())
        engine = visual_engine(config, name, dtype)
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    resident = _pages() - before
    del engine
    return resident, parameters


def _pages() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
