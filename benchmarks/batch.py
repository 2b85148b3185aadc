"""The `segment` command on many files: images in parallel, compared with one by one."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path

import cv2

from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.sam2_models import softened
from benchmarks.timing import compare
from inference_server.batch.plan import Request, open_plan
from inference_server.batch.search import Concept, Search
from inference_server.demo.scenes import make_scene
from inference_server.segmentation.local import LocalSegmentationService
from inference_server.settings import Settings

_NUMBERS = itertools.count()
FASTER = 1.0
"""Minimum speed-up of the command's default number of parallel images over one."""


def run(small: bool) -> Report:
    """Run the benchmark.

    Args:
        small: use the demo models and few rounds, for a run of a few seconds.
    """
    size, images, rounds = ((320, 240), 4, 1) if small else ((1920, 1080), 6, 3)
    on_gpu = not small and Settings().device != "cpu" and _has_gpu()
    workers = (1, 4, 18) if on_gpu else (1, 4)
    usual = 18 if on_gpu else 4
    report = Report(
        "batch",
        "Segmenting many files",
        notes=[
            f"`segment` of {images} JPEGs of {size[0]} x {size[1]} pixels to JSON with RLE masks "
            "and overlays, in one process with loaded models; the numbers of parallel images "
            "alternate. Words: the demo SAM 3. Click: hiera_tiny with smoothed random weights."
            if not small
            else "Demo weights.",
        ],
    )
    point = (size[0] / 2, size[1] / 2, 1)
    weights = "demo" if small else softened("hiera_tiny").weights
    searches = {
        "words": Search((Concept("shape", "shape"),)),
        "click": Search(points=(point,), version="hiera_tiny"),
    }
    with tempfile.TemporaryDirectory() as folder:
        _write_photos(Path(folder, "photos"), size, images)
        rows: list[dict[str, Cell]] = []
        for name, search in searches.items():
            with (
                closing(
                    LocalSegmentationService.for_files(Settings(sam2_weights=weights))
                ) as segmenter,
                asyncio.Runner() as loop,
            ):
                one = partial(_segment, loop, segmenter, search, Path(folder))
                ways = {f"{count}": partial(one, count) for count in workers}
                found = compare(ways, rounds=rounds)
            for way, timing in found.items():
                rows.append(
                    {
                        "search": name,
                        "images in parallel": int(way),
                        "seconds": timing.median,
                        "images per second": images / timing.median,
                    }
                )
            report.goals.append(
                Goal(
                    f"{name}: {usual} images in parallel, relative to one",
                    found["1"].median / found[str(usual)].median,
                    FASTER,
                    "at least",
                )
            )
        report.tables.append(Table("Median over rounds", rows))
    return report


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _write_photos(folder: Path, size: tuple[int, int], images: int) -> None:
    """Write copies of one scene with different JPEG qualities, so that no two files are equal."""
    folder.mkdir()
    scene = cv2.cvtColor(make_scene(7, size, count=(6, 6)).image, cv2.COLOR_RGB2BGR)
    for number in range(images):
        options = [cv2.IMWRITE_JPEG_QUALITY, 80 + number]
        cv2.imwrite(str(folder / f"{number:02}.jpg"), scene, options)


def _segment(
    loop: asyncio.Runner,
    segmenter: LocalSegmentationService,
    search: Search,
    folder: Path,
    workers: int,
) -> None:
    """Run the command once, into a new output directory."""
    request = Request(
        arguments=[str(folder / "photos")],
        recursive=False,
        search=search,
        models=search.models(segmenter.models),
        target=str(folder / f"out-{next(_NUMBERS)}"),
        form="rle",
        segmentation="rle",
        overlay=True,
        force=False,
        max_mb=128,
    )
    segmenter.forget()
    with open_plan(request) as plan:
        loop.run(
            plan.batch.run(
                segmenter, plan.left, plan.summary, workers=workers, done=lambda failure: None
            )
        )
    if plan.summary.failures:
        raise RuntimeError(plan.summary.failures[0].reason)
