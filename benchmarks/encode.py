"""SAM 2's image encoder alone, compared with `sam2`'s in float32 and with autocast."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.sam2_models import demo_config, packaged_config, random_model
from inference_server.engines.device import keep_freed_memory
from inference_server.engines.sam2.fast_hiera import FastImageEncoder

GOALS = {"float32": 0.85, "bfloat16": 0.35}
"""Maximum time relative to the bare encoder in float32."""


def run(small: bool) -> Report:
    """Encode one image per call with one thread; the implementations alternate.

    Args:
        small: use the demo model and one round.
    """
    versions = ("demo",) if small else ("hiera_tiny",)
    rounds = 1 if small else 7
    load = os.getloadavg()[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        measured = {version: _measured(version, rounds) for version in versions}
    finally:
        torch.set_num_threads(threads)
    rows: list[dict[str, Cell]] = []
    goals = []
    for version, times in measured.items():
        bare = times["sam2, float32"]
        rows += [
            {
                "SAM 2.1": version,
                "encoder": name,
                "CPU time (s)": seconds,
                "relative to sam2 in float32 (x)": seconds / bare,
            }
            for name, seconds in times.items()
        ]
        goals += [
            Goal(f"{version}, {dtype}: encoder", times[f"here, {dtype}"] / bare, bound, "at most")
            for dtype, bound in GOALS.items()
            if f"here, {dtype}" in times
        ]
    notes = [
        "The image encoder up to what the mask decoder reads, one image, one thread; random "
        "weights. Best CPU time of the thread of alternating calls, which does not count the time "
        "that other processes run, but does count what they evict from the caches.",
        f"Load average of the machine at the start: {load:.1f} on {os.cpu_count()} cores.",
    ]
    if not _has_bfloat16():
        notes.append("No bfloat16: this processor has no instructions for it.")
    return Report("encode", "Image encoder of SAM 2", [Table("Best", rows)], goals, notes)


def _has_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.inference_mode()
def _measured(version: str, rounds: int) -> dict[str, float]:
    """Return the best CPU seconds of each implementation."""
    model: Any = random_model(demo_config() if version == "demo" else packaged_config(version))
    image = torch.randn(1, 3, model.image_size, model.image_size)

    def bare() -> object:
        return model.forward_image(image)

    def autocast() -> object:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model.forward_image(image)

    precise = FastImageEncoder(model, torch.float32)
    ways: dict[str, Callable[[], object]] = {
        "sam2, float32": bare,
        "here, float32": lambda: precise(image),
    }
    if _has_bfloat16():
        coarse = FastImageEncoder(model, torch.bfloat16)
        ways["sam2, bfloat16 autocast"] = autocast
        ways["here, bfloat16"] = lambda: coarse(image)
    best = dict.fromkeys(ways, float("inf"))
    for turn in range(rounds + 1):
        for name, work in ways.items():
            begin = time.thread_time()
            work()
            if turn:  # the first is a warm-up
                best[name] = min(best[name], time.thread_time() - begin)
    return best
