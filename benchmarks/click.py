"""A click on a cached image over HTTP, compared with `predict` and with the bare decoder."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco

from benchmarks.http_client import Client
from benchmarks.reference_server import encode_plane, read_image
from benchmarks.report import Cell, Goal, Report, Table, in_words
from benchmarks.requests import EMBED, SEGMENT, Picture, click_body, embed_body, picture
from benchmarks.sam2_models import Sam2, bare_decode, compute, demo, predictor_of, softened
from benchmarks.serving import CORES, our_server
from benchmarks.timing import compare, exponent

Point = NDArray[np.float32]

FORMS = ("polygon", "rle")
WAYS = ("server", "predict", "bare decoder")
STAGES = ("queue", "decode-prompts", "masks", "serialise")
FASTER = {"float32": 2.5, "bfloat16": 3.5}
STRETCH = 3.0
OVER_DECODER, OVER_HD = 1.3, 1.3
LEAST_IOU = 0.95
"""Minimum IoU with the reference; on small images one pixel of outline matters."""
SMALLEST = 64
"""Pixels from which on masks are compared: one pixel is 8 % of a mask of 12."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        sizes: image sizes as (width, height) in pixels; the first one has no goals.
        rounds: timed repetitions per implementation.
        points: number of click positions, used in turn.
    """

    sizes: tuple[tuple[int, int], ...]
    rounds: int
    points: int


FULL = Scale(sizes=((960, 540), (1920, 1080), (3840, 2160)), rounds=40, points=8)
SMALL = Scale(sizes=((160, 90), (320, 180), (640, 360)), rounds=3, points=3)


def run(small: bool, dtype: str = "float32") -> Report:
    """Run the benchmark.

    Args:
        small: use the demo models and few rounds, for a run of a few seconds.
        dtype: precision of the server. Default: float32.
    """
    scale, model = (SMALL, demo()) if small else (FULL, softened("hiera_tiny"))
    if not small:
        torch.set_num_threads(CORES)
    report = Report(
        "click",
        "A click on a cached image" + in_words(dtype),
        dtype=dtype,
        notes=[
            f"SAM 2.1 {model.version} with smoothed random weights, so that masks are blobs; the "
            "best of three masks is returned."
            if not small
            else "Demo weights.",
            "Server: the whole request over HTTP on one connection, JSON to JSON. `predict`: "
            "`SAM2ImagePredictor.predict` in float32 and `cv2.findContours` or "
            "`pycocotools.mask.encode` on the best full plane, in the benchmark's process "
            "without HTTP or JSON. Bare decoder: `sam2`'s prompt encoder and mask decoder alone, "
            "up to low-resolution logits, in the server's precision. The three alternate.",
            f"IoU: the minimum over all clicks but those where both masks have under {SMALLEST} "
            "pixels, as a click on the background may have, which one pixel changes by several "
            "percent.",
        ],
    )
    with (
        our_server(model.weights, preload=f"sam2:{model.version}", dtype=dtype) as server,
        server.client() as client,
    ):
        _measure(report, scale, model, client, dtype)
    return report


@dataclass(slots=True)
class Case:
    """One image size and one mask format.

    Attributes:
        image: image that is clicked on.
        form: mask format, `polygon` or `rle`.
        shown: the predictor's features of the image, and the image's size.
        bodies: JSON requests, one per point.
        points: click positions as x, y in pixels.
        stages: `server-timing` of each request, in milliseconds by stage.
    """

    image: Picture
    form: str
    shown: tuple[Any, Any]
    bodies: list[bytes]
    points: list[tuple[float, float]]
    stages: list[dict[str, float]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Title in tables and goals."""
        return f"{_named(self.image)}, {self.form}"

    def ways(self, client: Client, predictor: Any, dtype: str) -> dict[str, Callable[[], object]]:
        """Return the three implementations by title; each call uses the next point.

        Args:
            client: client of the server.
            predictor: the reference.
            dtype: precision of the server.
        """
        sent, asked, decoded = cycle(self.bodies), cycle(self.points), cycle(self.points)
        using = compute(dtype)

        def server() -> None:
            self.stages.append(client.post(SEGMENT, next(sent)).stages)

        def predict() -> object:
            return self.expected(predictor, next(asked))

        def bare() -> object:
            predictor._features, predictor._orig_hw = self.shown
            return bare_decode(predictor, _array(next(decoded)), using)

        works: tuple[Callable[[], object], ...] = (server, predict, bare)
        return {f"{self.title}, {way}": work for way, work in zip(WAYS, works, strict=True)}

    def expected(self, predictor: Any, point: tuple[float, float]) -> Any:
        """Return the reference's best of three masks at a point, encoded.

        Args:
            predictor: the reference.
            point: x, y in pixels.
        """
        predictor._features, predictor._orig_hw = self.shown
        masks, scores, _ = predictor.predict(
            _array(point), np.ones(1, np.int32), multimask_output=True
        )
        return encode_plane(masks[int(np.argmax(scores))], self.form)

    def agreement(self, client: Client, predictor: Any) -> float:
        """Return the minimum IoU of the server's masks with the reference's, 0 to 1.

        Pairs of masks under `SMALLEST` pixels do not count.

        Args:
            client: client of the server.
            predictor: the reference.
        """
        return min(
            _iou(
                client.post(SEGMENT, body).json["predictions"][0]["masks"],
                self.expected(predictor, point),
                self.image.size,
            )
            for body, point in zip(self.bodies, self.points, strict=True)
        )

    def stage(self, name: str) -> float:
        """Return the median of a stage in milliseconds.

        Args:
            name: stage, as in `server-timing`.
        """
        return statistics.median(stages.get(name, 0.0) for stages in self.stages)


def _named(image: Picture) -> str:
    return f"{image.size[0]} x {image.size[1]}"


def _cases(scale: Scale, model: Sam2, client: Client, predictor: Any) -> list[Case]:
    """Encode each image in the server and the reference; return all sizes and formats."""
    cases = []
    for size in scale.sizes:
        image = picture(1, size)
        name = _named(image)
        client.post(EMBED, embed_body(model.version, image, name))
        predictor.set_image(read_image(image.jpeg))
        shown = (predictor._features, predictor._orig_hw)
        points = clicks(scale.points, image)
        for form in FORMS:
            bodies = [click_body(model.version, p, image_id=name, form=form) for p in points]
            cases.append(Case(image, form, shown, bodies, points))
    return cases


def _measure(report: Report, scale: Scale, model: Sam2, client: Client, dtype: str) -> None:
    predictor = predictor_of(model.load())
    cases = _cases(scale, model, client, predictor)
    agreements = [case.agreement(client, predictor) for case in cases]
    ways: dict[str, Callable[[], object]] = {}
    for case in cases:
        ways |= case.ways(client, predictor, dtype)
    # In one comparison: sizes are compared with each other as well.
    taken = compare(ways, rounds=scale.rounds, warmup=2)
    rows: list[dict[str, Cell]] = []
    faster = []
    medians: dict[tuple[str, str], list[float]] = {}
    for case, agreement in zip(cases, agreements, strict=True):
        timings = [taken[f"{case.title}, {way}"] for way in WAYS]
        server, predict, bare = (timing.median for timing in timings)
        for way, timing in zip(WAYS, timings, strict=True):
            medians.setdefault((case.form, way), []).append(timing.median)
        rows.append(
            {
                "image": _named(case.image),
                "output": case.form,
                "server (ms)": 1e3 * server,
                "p95 (ms)": 1e3 * timings[0].percentile(0.95),
                "predict (ms)": 1e3 * predict,
                "bare decoder (ms)": 1e3 * bare,
                "speed-up over predict (x)": predict / server,
                "relative to the bare decoder (x)": server / bare,
                "minimum IoU with predict": agreement,
            }
        )
        report.goals.append(
            Goal(f"{case.title}: IoU with predict", agreement, LEAST_IOU, "at least", "")
        )
        if case.image.size != scale.sizes[0]:
            faster.append(predict / server)
            report.goals += [
                Goal(f"{case.title}: speed-up over predict", faster[-1], FASTER[dtype], "at least"),
                Goal(
                    f"{case.title}: relative to the bare decoder",
                    server / bare,
                    OVER_DECODER,
                    "at most",
                ),
            ]
    report.tables.append(Table("Medians", rows))
    stages: list[dict[str, Cell]] = [
        {"click": case.title, **{f"{name} (ms)": case.stage(name) for name in STAGES}}
        for case in cases
    ]
    report.tables.append(Table("Server stages from `server-timing`, medians", stages))
    _growth(report, scale, medians)
    verdict = "reached" if min(faster) >= STRETCH else "not reached"
    report.notes.append(
        f"Stretch goal, a speed-up of {STRETCH:g} over predict: {verdict} "
        f"(minimum {min(faster):.2f})."
    )


def _growth(report: Report, scale: Scale, medians: dict[tuple[str, str], list[float]]) -> None:
    """Fit the cost against the number of pixels."""
    pixels = [width * height for width, height in scale.sizes]
    rows: list[dict[str, Cell]] = []
    for (form, way), costs in medians.items():
        rows.append(
            {
                "implementation": way,
                "output": form,
                "exponent over pixels": exponent(pixels, costs),
                "largest relative to middle size (x)": costs[-1] / costs[-2],
            }
        )
        if way == "server":
            ratio = costs[-1] / costs[-2]
            widths = f"{scale.sizes[-1][0]} relative to {scale.sizes[-2][0]} pixels width"
            what = f"{widths}, {form}"
            report.goals.append(Goal(what, ratio, OVER_HD, "at most"))
    report.tables.append(Table("Cost by image size", rows))


def clicks(count: int, image: Picture) -> list[tuple[float, float]]:
    """Draw click positions spread over an image, away from its border.

    Args:
        count: number of positions.
        image: image that they lie on.

    Returns:
        x, y in pixels.
    """
    shares = np.random.default_rng(7).uniform(0.1, 0.9, (count, 2))
    return [image.at((float(x), float(y))) for x, y in shares]


def _array(point: tuple[float, float]) -> Point:
    return np.array([point], np.float32)


def _iou(found: Any, expected: Any, size: tuple[int, int]) -> float:
    """Return the IoU of two encoded masks, 1 if both are under `SMALLEST` pixels.

    Args:
        found: polygons or RLE.
        expected: polygons or RLE.
        size: (width, height) in pixels.
    """
    one, other = (_run_lengths(masks, size) for masks in (found, expected))
    if coco.area(one) < SMALLEST and coco.area(other) < SMALLEST:
        return 1.0
    return float(coco.iou([one], [other], [0])[0, 0])


def _run_lengths(masks: Any, size: tuple[int, int]) -> Any:
    if isinstance(masks, dict):
        return {"size": masks["size"], "counts": masks["counts"].encode()}
    # pycocotools excludes the outline's own pixels; this applies to both masks alike.
    outlines = [np.asarray(outline, float).ravel().tolist() for outline in masks]
    outlines = [outline for outline in outlines if len(outline) >= 6]
    return (
        coco.merge(coco.frPyObjects(outlines, size[1], size[0]))
        if outlines
        else coco.encode(np.zeros((size[1], size[0]), np.uint8, order="F"))
    )
