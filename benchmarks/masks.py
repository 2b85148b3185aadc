"""Low-resolution logits to polygons, RLE and NMS, compared with full planes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco

from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.synthetic import Logits, full_frame_logits, mask_logits, noise_logits
from benchmarks.timing import compare, exponent, peak_memory
from inference_server.masks import (
    Mask,
    encode_rle,
    mask_nms,
    mask_polygons,
    upsample_mask,
    upsample_masks,
)

Size = tuple[int, int]
Plane = NDArray[np.bool_]
Way = Callable[[Logits, Size], object]

IOU_THRESHOLD = 0.5
FASTER = 10.0
"""Minimum speed-up over the reference, from logits to the output."""
MEMORY_MB = 150.0
TOLERANCE = 1e-4
"""Pixels may differ where |logit| is below this share of the mask's largest |logit|."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        cases: number of masks, and image size as (height, width) in pixels.
        rounds: timed repetitions per implementation.
        counts: numbers of masks for the cost by number, at the image size of the first case.
        sides: sides of square images in pixels, for the cost by image side.
        side_count: number of masks for the cost by image side.
        apart: number of masks of each worst case.
    """

    cases: tuple[tuple[int, Size], ...]
    rounds: int
    counts: tuple[int, ...]
    sides: tuple[int, ...]
    side_count: int
    apart: int


FULL = Scale(
    cases=((200, (1080, 1920)), (100, (4032, 4032))),
    rounds=3,
    counts=(25, 50, 100, 200),
    sides=(504, 1008, 2016, 4032),
    side_count=16,
    apart=10,
)
SMALL = Scale(
    cases=((12, (270, 480)), (8, (504, 504))),
    rounds=1,
    counts=(3, 6, 12),
    sides=(126, 252, 504),
    side_count=4,
    apart=2,
)


def run(small: bool) -> Report:
    """Run the benchmark.

    Args:
        small: use the demo models and few rounds, for a run of a few seconds.
    """
    scale = SMALL if small else FULL
    report = Report(
        "masks",
        "Masks: from low-resolution logits to polygons, RLE and NMS",
        notes=[
            "Logits of 256 x 256, float32. Mask areas are log-uniform from 0.01 to 20 % of the "
            "image, with holes and several parts; one in four is a near duplicate. Times start at "
            "the logits.",
            "Reference: torch's bilinear `interpolate` of one full plane after another and `> 0`; "
            "then `cv2.findContours` for polygons, `pycocotools.mask.encode` for RLE (of planes "
            "interpolated transposed, which saves a copy), and for NMS the same with "
            "`pycocotools.mask.iou` of each kept mask and the remaining ones.",
            f"Threads: torch {torch.get_num_threads()}, OpenCV {cv2.getNumThreads()}.",
        ],
    )
    _cases(report, scale)
    _growth(report, scale)
    _apart(report, scale)
    return report


def _cases(report: Report, scale: Scale) -> None:
    """Measure times, equality and memory of the cases with goals."""
    times: list[dict[str, Cell]] = []
    stages: list[dict[str, Cell]] = []
    equal: list[dict[str, Cell]] = []
    memory: list[dict[str, Cell]] = []
    for count, size in scale.cases:
        logits, title = mask_logits(count), _titled(count, size)
        difference = differences(logits, size)
        equal.append({"masks": title, **difference.row(count)})
        report.goals += [
            Goal(
                f"{title}: differing pixels away from the threshold",
                difference.far,
                0,
                "at most",
                "",
            ),
            Goal(f"{title}: other differences", difference.results, 0, "at most", ""),
        ]
        for name in GOALS:
            taken = _compared(name, logits, size, scale.rounds)
            times.append({"masks": title, "output": name, **taken})
            report.goals.append(
                Goal(f"{title}: {name}, speed-up", taken["speed-up (x)"], FASTER, "at least")
            )
        stages.append({"masks": title, **_stages(logits, size, scale.rounds)})
        held = peak_megabytes(logits, size)
        masks = upsample_masks(logits, size)
        memory.append(
            {
                "masks": title,
                "mean area (%)": 100 * _mean([mask.area for mask in masks], size),
                "mean box (%)": 100 * _mean([_box_area(mask) for mask in masks], size),
                "masks held (MB)": sum(mask.runs.nbytes for mask in masks) / 1e6,
                "peak (MB)": held,
                "planes of a reference batch (MB)": 4 * count * size[0] * size[1] / 1e6,
            }
        )
        report.goals.append(Goal(f"{title}: peak memory", held, MEMORY_MB, "at most", "MB"))
    report.tables += [
        Table("From logits, medians", times),
        Table("Where the time of polygons goes, medians", stages),
        Table("Equality with the reference", equal),
        Table("Memory for all masks and results, beyond the initial memory", memory),
    ]


def _growth(report: Report, scale: Scale) -> None:
    """Fit the cost against the number of masks and the image side."""
    size = scale.cases[0][1]
    many = mask_logits(max(scale.counts))
    by_count = [(f"{n}", n, many[:n], size) for n in scale.counts]
    few = mask_logits(scale.side_count)
    by_side = [(f"{side}", side, few, (side, side)) for side in scale.sides]
    for what, steps in (
        (f"number of masks, at {size[1]} x {size[0]}", by_count),
        (f"image side, {scale.side_count} masks", by_side),
    ):
        rows = []
        for name in GOALS:
            taken = [_compared(name, logits, at, scale.rounds) for _, _, logits, at in steps]
            for who in ("reference", "server"):
                costs = [row[f"{who} (ms)"] for row in taken]
                rows.append(
                    {
                        "output": name,
                        "implementation": who,
                        **{f"{label} (ms)": c for (label, *_), c in zip(steps, costs, strict=True)},
                        "exponent": exponent([n for _, n, _, _ in steps], costs),
                    }
                )
        report.tables.append(Table(f"Cost by {what}", rows))


def _apart(report: Report, scale: Scale) -> None:
    """Measure the worst cases: the largest and the most ragged masks."""
    rows: list[dict[str, Cell]] = []
    for kind, make in (("full frame", full_frame_logits), ("white noise", noise_logits)):
        for _, size in scale.cases:
            logits = make(scale.apart)
            title = f"{kind}, {_titled(scale.apart, size)}"
            held = peak_megabytes(logits, size)
            rows += [
                {
                    "masks": title,
                    "output": name,
                    **_compared(name, logits, size, scale.rounds),
                    "peak memory (MB)": held,
                }
                for name in REFERENCES
            ]
    report.tables.append(Table("Worst cases; `masks` is thresholding alone", rows))


@dataclass(slots=True)
class Differences:
    """Differences between the server's results and the reference's.

    Attributes:
        masks: number of masks with differing pixels.
        pixels: number of differing pixels.
        far: number of differing pixels whose logit is not near the threshold.
        results: number of polygons and RLEs that differ for equal pixels, plus 1 if NMS differs.
        worst_iou: minimum IoU of a mask with the reference's, 0 to 1.
    """

    masks: int = 0
    pixels: int = 0
    far: int = 0
    results: int = 0
    worst_iou: float = 1.0

    def row(self, count: int) -> dict[str, Cell]:
        """Return a table row.

        Args:
            count: number of compared masks.
        """
        return {
            "equal in every pixel": f"{count - self.masks} of {count}",
            "differing pixels": self.pixels,
            "of these away from the threshold": self.far,
            "other differences (polygons, RLE, NMS)": self.results,
            "minimum IoU": f"{self.worst_iou:.6f}",
        }


def differences(logits: Logits, size: Size) -> Differences:
    """Compare all results with the reference's, plane by plane.

    Polygons, RLEs and NMS are compared with the reference's results for the server's pixels, so
    that a differing pixel counts once.

    Args:
        logits: `float32[N, h, w]`.
        size: image size as (height, width) in pixels.
    """
    found, rles = Differences(), []
    for low in logits:
        surface = _interpolated(low, size)
        mask, expected = upsample_mask(low, size), surface > 0
        plane = mask.to_plane()
        differs = np.flatnonzero(plane != expected)
        if differs.size:
            found.masks += 1
            found.pixels += differs.size
            near = np.abs(surface.ravel()[differs]) < TOLERANCE * np.abs(low).max()
            found.far += int(np.count_nonzero(~near))
            either = np.count_nonzero(plane | expected)
            found.worst_iou = min(found.worst_iou, 1 - differs.size / either)
            expected = plane
        traced, actual = _contours(expected), mask_polygons(mask)
        found.results += len(traced) != len(actual) or not all(map(np.array_equal, traced, actual))
        rles.append(_encoded(np.asfortranarray(expected)))
        found.results += encode_rle(mask)["counts"] != rles[-1]["counts"].decode()
    kept = mask_nms(upsample_masks(logits, size), _scores(len(logits)), IOU_THRESHOLD)
    found.results += kept != _suppressed(rles)
    return found


def peak_megabytes(logits: Logits, size: Size) -> float:
    """Return the peak memory in MB with all masks, polygons and RLEs held, after NMS.

    Args:
        logits: `float32[N, h, w]`.
        size: image size as (height, width) in pixels.
    """

    def work(logits: Logits) -> object:
        masks = upsample_masks(logits, size)
        kept = mask_nms(masks, _scores(len(masks)), IOU_THRESHOLD)
        return masks, kept, [encode_rle(mask) for mask in masks], [mask_polygons(m) for m in masks]

    work(logits[:1])
    return peak_memory(partial(work, logits)) / 1e6


def _compared(name: str, logits: Logits, size: Size, rounds: int) -> dict[str, float]:
    """Return medians of both implementations in milliseconds, and their ratio."""
    SERVER[name](logits[:1], size)
    REFERENCES[name](logits[:1], size)
    taken = compare(
        {
            "reference": partial(REFERENCES[name], logits, size),
            "server": partial(SERVER[name], logits, size),
        },
        rounds=rounds,
        warmup=0,  # the calls above warm up; a full round of the reference takes up to 20 s
    )
    reference, server = taken["reference"].median, taken["server"].median
    return {
        "reference (ms)": 1e3 * reference,
        "server (ms)": 1e3 * server,
        "speed-up (x)": reference / server,
    }


def _stages(logits: Logits, size: Size, rounds: int) -> dict[str, Cell]:
    """Return medians of the stages of polygons in milliseconds."""
    masks = upsample_masks(logits, size)
    crops = [mask.crop for mask in masks]
    taken = compare(
        {
            "reference: planes": partial(REFERENCES["masks"], logits, size),
            "server: masks": partial(SERVER["masks"], logits, size),
            "server: pixels of the box": lambda: [mask.crop for mask in masks],
            "server: contours in the box": lambda: [_contours(crop) for crop in crops],
        },
        rounds=rounds,
        warmup=0,
    )
    return {f"{name} (ms)": 1e3 * timing.median for name, timing in taken.items()}


def _interpolated(low: Logits, size: Size) -> Logits:
    """Upsample logits with torch, from [h, w] to float32 [H, W]."""
    plane: Logits = torch.nn.functional.interpolate(
        torch.from_numpy(low)[None, None], size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    return plane


def _planes(logits: Logits, size: Size) -> Iterator[Plane]:
    """Yield thresholded planes [H, W], one at a time."""
    for low in logits:
        yield _interpolated(low, size) > 0


def _column_major(logits: Logits, size: Size) -> Iterator[Plane]:
    """Yield the same in column-major order, which pycocotools requires."""
    for low in logits:
        yield (_interpolated(np.ascontiguousarray(low.T), size[::-1]) > 0).T


def _contours(plane: Plane) -> list[NDArray[np.int32]]:
    contours, _ = cv2.findContours(plane.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [np.asarray(contour, np.int32)[:, 0] for contour in contours]


def _encoded(plane: Plane) -> dict[str, Any]:
    rle: dict[str, Any] = coco.encode(plane.view(np.uint8))
    return rle


def _scores(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(count).random(count, np.float32)


def _suppressed(rles: list[dict[str, Any]]) -> list[int]:
    """Run greedy NMS on RLEs with pycocotools."""
    kept, remaining = [], list(np.argsort(-_scores(len(rles)), kind="stable"))
    while remaining:
        best = remaining.pop(0)
        kept.append(int(best))
        if remaining:
            others = [rles[i] for i in remaining]
            overlaps = coco.iou(others, [rles[best]], [0])[:, 0]
            remaining = [i for i, v in zip(remaining, overlaps, strict=True) if v <= IOU_THRESHOLD]
    return sorted(kept)


REFERENCES: dict[str, Way] = {
    "masks": lambda logits, size: sum(1 for _ in _planes(logits, size)),
    "polygons": lambda logits, size: [_contours(plane) for plane in _planes(logits, size)],
    "RLE": lambda logits, size: [_encoded(plane) for plane in _column_major(logits, size)],
    "NMS": lambda logits, size: _suppressed([_encoded(p) for p in _column_major(logits, size)]),
}
GOALS = ("polygons", "RLE", "NMS")
"""Outputs with goals."""

SERVER: dict[str, Way] = {
    "masks": lambda logits, size: [upsample_mask(low, size) for low in logits],
    "polygons": lambda logits, size: [mask_polygons(upsample_mask(low, size)) for low in logits],
    "RLE": lambda logits, size: [encode_rle(upsample_mask(low, size)) for low in logits],
    "NMS": lambda logits, size: mask_nms(
        upsample_masks(logits, size), _scores(len(logits)), IOU_THRESHOLD
    ),
}


def _titled(count: int, size: Size) -> str:
    return f"{count} at {size[1]} x {size[0]}"


def _box_area(mask: Mask) -> int:
    x0, y0, x1, y1 = mask.box
    return (x1 - x0) * (y1 - y0)


def _mean(pixels: list[int], size: Size) -> float:
    """Return the mean number of pixels as a share of the image."""
    return sum(pixels) / len(pixels) / (size[0] * size[1])
