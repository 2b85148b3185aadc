"""Low-resolution logits to polygons, run lengths and NMS, against the way by full planes."""

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
"""How much faster than the reference the whole way from the logits should be."""
MEMORY_MB = 150.0
TOLERANCE = 1e-4
"""A pixel may differ where its logit is this near to 0, relative to the largest of the mask."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        cases: numbers of masks, and (height, width) of their images.
        rounds: how often each way is timed.
        counts: of masks, whose cost is compared at the size of the first case.
        sides: of square images, whose cost is compared for `side_count` masks.
        side_count: of masks.
        apart: number of full-frame masks, and of planes of noise.
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
    """Measure it."""
    scale = SMALL if small else FULL
    report = Report(
        "masks",
        "Masks: low-resolution logits to polygons, run lengths, NMS",
        notes=[
            "Logits of 256 x 256, float32; areas log-uniform from 0.01 to 20 % of the image, with "
            "holes and several parts, one in four a near duplicate. Each way begins at the logits.",
            "Reference: torch's bilinear `interpolate` of one full plane after the other, `> 0`, "
            "then `cv2.findContours`; or `pycocotools.mask.encode` (the planes are interpolated "
            "transposed, which spares it a transposition); or that and greedy NMS by "
            "`pycocotools.mask.iou` of each kept mask with those that remain.",
            f"torch had {torch.get_num_threads()} thread(s), OpenCV {cv2.getNumThreads()}.",
        ],
    )
    _cases(report, scale)
    _growth(report, scale)
    _apart(report, scale)
    return report


def _cases(report: Report, scale: Scale) -> None:
    """Times, equality and memory of the cases that have goals."""
    times: list[dict[str, Cell]] = []
    equal: list[dict[str, Cell]] = []
    memory: list[dict[str, Cell]] = []
    for count, size in scale.cases:
        logits, title = mask_logits(count), _titled(count, size)
        difference = differences(logits, size)
        equal.append({"masks": title, **difference.row(count)})
        report.goals += [
            Goal(f"{title}: pixels that differ, not near 0", difference.far, 0, "at most", ""),
            Goal(f"{title}: other differences", difference.results, 0, "at most", ""),
        ]
        for name in GOALS:
            taken = _compared(name, logits, size, scale.rounds)
            times.append({"masks": title, "to": name, **taken})
            report.goals.append(
                Goal(f"{title}: {name}, times faster", taken["faster (x)"], FASTER, "at least")
            )
        held = peak_megabytes(logits, size)
        masks = upsample_masks(logits, size)
        memory.append(
            {
                "masks": title,
                "mean area (%)": 100 * _mean([mask.area for mask in masks], size),
                "mean box (%)": 100 * _mean([_box_area(mask) for mask in masks], size),
                "masks held (MB)": sum(mask.runs.nbytes for mask in masks) / 1e6,
                "peak (MB)": held,
                "reference's batch of planes (MB)": 4 * count * size[0] * size[1] / 1e6,
            }
        )
        report.goals.append(Goal(f"{title}: peak memory", held, MEMORY_MB, "at most", "MB"))
    report.tables += [
        Table("From logits: medians", times),
        Table("Equal to the reference", equal),
        Table("Memory: all masks and results held, beyond what was there before", memory),
    ]


def _growth(report: Report, scale: Scale) -> None:
    """Cost against the number of masks, and against the image's side."""
    size = scale.cases[0][1]
    many = mask_logits(max(scale.counts))
    by_count = [(f"{n}", n, many[:n], size) for n in scale.counts]
    few = mask_logits(scale.side_count)
    by_side = [(f"{side}", side, few, (side, side)) for side in scale.sides]
    for what, steps in (
        (f"number of masks, at {size[1]} x {size[0]}", by_count),
        (f"image's side, {scale.side_count} masks", by_side),
    ):
        rows = []
        for name in GOALS:
            taken = [_compared(name, logits, at, scale.rounds) for _, _, logits, at in steps]
            for who in ("reference", "server"):
                costs = [row[f"{who} (ms)"] for row in taken]
                rows.append(
                    {
                        "to": name,
                        "by": who,
                        **{f"{label} (ms)": c for (label, *_), c in zip(steps, costs, strict=True)},
                        "exponent": exponent([n for _, n, _, _ in steps], costs),
                    }
                )
        report.tables.append(Table(f"Cost against the {what}", rows))


def _apart(report: Report, scale: Scale) -> None:
    """Masks as large, and as ragged, as they can be."""
    rows: list[dict[str, Cell]] = []
    for kind, make in (("full frame", full_frame_logits), ("white noise", noise_logits)):
        for _, size in scale.cases:
            logits = make(scale.apart)
            title = f"{kind}, {_titled(scale.apart, size)}"
            held = peak_megabytes(logits, size)
            rows += [
                {
                    "masks": title,
                    "to": name,
                    **_compared(name, logits, size, scale.rounds),
                    "peak of all (MB)": held,
                }
                for name in REFERENCES
            ]
    report.tables.append(Table("Worst cases; `masks` is thresholding alone", rows))


@dataclass(slots=True)
class Differences:
    """Where the server's results are not the reference's.

    Attributes:
        masks: number of masks with a pixel that differs.
        pixels: number of pixels that differ.
        far: of these, those whose logit is not near the threshold.
        results: polygons or run lengths that differ for the same pixels; 1 more if NMS does.
        worst_iou: least IoU of a mask with the reference's.
    """

    masks: int = 0
    pixels: int = 0
    far: int = 0
    results: int = 0
    worst_iou: float = 1.0

    def row(self, count: int) -> dict[str, Cell]:
        """As a row of a table, of `count` masks."""
        return {
            "equal in each pixel": f"{count - self.masks} of {count}",
            "pixels that differ": self.pixels,
            "of these not near 0": self.far,
            "other differences of polygons, RLE, NMS": self.results,
            "least IoU": f"{self.worst_iou:.6f}",
        }


def differences(logits: Logits, size: Size) -> Differences:
    """Compare all results with the reference's, plane by plane.

    Polygons and run lengths are compared with those of the reference's plane where the pixels are
    equal, and else with those of the server's pixels. NMS is compared if all pixels are equal;
    else it is the reference's on the server's pixels that is compared with.
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
    """Peak memory with all masks, polygons and run lengths held, after NMS."""

    def work(logits: Logits) -> object:
        masks = upsample_masks(logits, size)
        kept = mask_nms(masks, _scores(len(masks)), IOU_THRESHOLD)
        return masks, kept, [encode_rle(mask) for mask in masks], [mask_polygons(m) for m in masks]

    work(logits[:1])
    return peak_memory(partial(work, logits)) / 1e6


def _compared(name: str, logits: Logits, size: Size, rounds: int) -> dict[str, float]:
    """Medians of both ways in ms, and their ratio."""
    SERVER[name](logits[:1], size)
    REFERENCES[name](logits[:1], size)
    taken = compare(
        {
            "reference": partial(REFERENCES[name], logits, size),
            "server": partial(SERVER[name], logits, size),
        },
        rounds=rounds,
        warmup=0,  # one mask each, as above: a full round of the reference takes up to 20 s
    )
    reference, server = taken["reference"].median, taken["server"].median
    return {
        "reference (ms)": 1e3 * reference,
        "server (ms)": 1e3 * server,
        "faster (x)": reference / server,
    }


def _interpolated(low: Logits, size: Size) -> Logits:
    """A plane by torch, float32 [H, W], from [h, w]."""
    plane: Logits = torch.nn.functional.interpolate(
        torch.from_numpy(low)[None, None], size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    return plane


def _planes(logits: Logits, size: Size) -> Iterator[Plane]:
    """Thresholded planes [H, W], one at a time."""
    for low in logits:
        yield _interpolated(low, size) > 0


def _column_major(logits: Logits, size: Size) -> Iterator[Plane]:
    """The same in column-major order, which pycocotools asks for."""
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
    """Greedy NMS on run lengths by pycocotools."""
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
"""The ways that have goals."""

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
    """Mean share of the image."""
    return sum(pixels) / len(pixels) / (size[0] * size[1])
