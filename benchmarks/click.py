"""A click on a cached image over HTTP, against `predict`, and against the bare decoder."""

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

from benchmarks.reference_server import encode_plane, read_image
from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.sam2_models import Sam2, bare_decode, compute, demo, predictor_of, softened
from benchmarks.serving import (
    CORES,
    EMBED,
    SEGMENT,
    Client,
    Picture,
    click_body,
    embed_body,
    our_server,
    picture,
)
from benchmarks.timing import compare, exponent

Point = NDArray[np.float32]

FORMS = ("polygon", "rle")
WAYS = ("server", "predict", "bare decoder")
STAGES = ("queue", "decode-prompts", "masks", "serialise")
FASTER, STRETCH = 2.0, 3.0
OVER_DECODER, OVER_HD = 1.3, 1.3
LEAST_IOU = 0.95
"""On the smallest images a pixel of outline is much of a mask."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        sizes: (width, height) of the images; the goals are for all but the first.
        rounds: how often each way is timed.
        points: how many places are clicked on, in turns.
    """

    sizes: tuple[tuple[int, int], ...]
    rounds: int
    points: int


FULL = Scale(sizes=((960, 540), (1920, 1080), (3840, 2160)), rounds=40, points=8)
SMALL = Scale(sizes=((160, 90), (320, 180), (640, 360)), rounds=3, points=3)


def run(small: bool) -> Report:
    """Measure it."""
    scale, model = (SMALL, demo()) if small else (FULL, softened("hiera_tiny"))
    if not small:
        torch.set_num_threads(CORES)
    report = Report(
        "click",
        "A click on a cached image",
        notes=[
            f"SAM 2.1 {model.version}, three masks considered and the best one answered; softened "
            "random weights, so that masks are smooth blobs."
            if not small
            else "The demo's weights.",
            "Server: the whole request over HTTP on a kept connection, JSON to JSON. `predict`: "
            "`SAM2ImagePredictor.predict` in float32 and `cv2.findContours` or "
            "`pycocotools.mask.encode` on the best full plane, in the benchmark's own process "
            "without HTTP or JSON. Bare decoder: `sam2`'s prompt encoder and mask decoder alone, "
            "up to low-resolution logits, in the server's arithmetic. The ways take turns.",
        ],
    )
    with (
        our_server(model.weights, preload=f"sam2:{model.version}") as server,
        server.client() as client,
    ):
        _measure(report, scale, model, client)
    return report


@dataclass(slots=True)
class Case:
    """One size of image and one form of masks.

    Attributes:
        image: the image.
        form: `polygon` or `rle`.
        shown: the predictor's features of the image, and its size.
        bodies: requests, one a point.
        points: that are clicked on.
        stages: `server-timing` of each request, in milliseconds.
    """

    image: Picture
    form: str
    shown: tuple[Any, Any]
    bodies: list[bytes]
    points: list[tuple[float, float]]
    stages: list[dict[str, float]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """For rows and goals."""
        return f"{_named(self.image)}, {self.form}"

    def ways(self, client: Client, predictor: Any) -> dict[str, Callable[[], object]]:
        """The three ways, each with the points in turns."""
        sent, asked, decoded = cycle(self.bodies), cycle(self.points), cycle(self.points)
        using = compute("auto")

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
        """The best of three masks at a point, encoded; by the reference."""
        predictor._features, predictor._orig_hw = self.shown
        masks, scores, _ = predictor.predict(
            _array(point), np.ones(1, np.int32), multimask_output=True
        )
        return encode_plane(masks[int(np.argmax(scores))], self.form)

    def agreement(self, client: Client, predictor: Any) -> float:
        """The least IoU of the server's masks with the reference's."""
        return min(
            _iou(
                client.post(SEGMENT, body).json["predictions"][0]["masks"],
                self.expected(predictor, point),
                self.image.size,
            )
            for body, point in zip(self.bodies, self.points, strict=True)
        )

    def stage(self, name: str) -> float:
        """Median of a stage in milliseconds."""
        return statistics.median(stages.get(name, 0.0) for stages in self.stages)


def _named(image: Picture) -> str:
    return f"{image.size[0]} x {image.size[1]}"


def _cases(scale: Scale, model: Sam2, client: Client, predictor: Any) -> list[Case]:
    """All sizes and forms, each image encoded by the server and by the reference."""
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


def _measure(report: Report, scale: Scale, model: Sam2, client: Client) -> None:
    predictor = predictor_of(model.load())
    cases = _cases(scale, model, client, predictor)
    agreements = [case.agreement(client, predictor) for case in cases]
    ways: dict[str, Callable[[], object]] = {}
    for case in cases:
        ways |= case.ways(client, predictor)
    # All at once: sizes are compared with each other as well.
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
                "to": case.form,
                "server (ms)": 1e3 * server,
                "p95 (ms)": 1e3 * timings[0].percentile(0.95),
                "predict (ms)": 1e3 * predict,
                "bare decoder (ms)": 1e3 * bare,
                "faster than predict (x)": predict / server,
                "over the decoder (x)": server / bare,
                "least IoU with predict": agreement,
            }
        )
        report.goals.append(
            Goal(f"{case.title}: IoU with predict", agreement, LEAST_IOU, "at least", "")
        )
        if case.image.size != scale.sizes[0]:
            faster.append(predict / server)
            report.goals += [
                Goal(f"{case.title}: faster than predict", faster[-1], FASTER, "at least"),
                Goal(f"{case.title}: over the decoder", server / bare, OVER_DECODER, "at most"),
            ]
    report.tables.append(Table("Medians", rows))
    stages: list[dict[str, Cell]] = [
        {"click": case.title, **{f"{name} (ms)": case.stage(name) for name in STAGES}}
        for case in cases
    ]
    report.tables.append(Table("Stages of the server, by `server-timing`: medians", stages))
    _growth(report, scale, medians)
    verdict = "reached" if min(faster) >= STRETCH else "not reached"
    report.notes.append(
        f"Stretch goal, {STRETCH:g} times faster than predict: {verdict} "
        f"({min(faster):.2f} at least)."
    )


def _growth(report: Report, scale: Scale, medians: dict[tuple[str, str], list[float]]) -> None:
    """Cost against the number of pixels."""
    pixels = [width * height for width, height in scale.sizes]
    rows: list[dict[str, Cell]] = []
    for (form, way), costs in medians.items():
        rows.append(
            {
                "way": way,
                "to": form,
                "exponent over pixels": exponent(pixels, costs),
                "largest over middle (x)": costs[-1] / costs[-2],
            }
        )
        if way == "server":
            ratio = costs[-1] / costs[-2]
            what = f"{scale.sizes[-1][0]} over {scale.sizes[-2][0]} pixels wide, {form}"
            report.goals.append(Goal(what, ratio, OVER_HD, "at most"))
    report.tables.append(Table("Cost against the image's size", rows))


def clicks(count: int, image: Picture) -> list[tuple[float, float]]:
    """Places all over an image, not at its border; x, y in pixels."""
    shares = np.random.default_rng(7).uniform(0.1, 0.9, (count, 2))
    return [image.at((float(x), float(y))) for x, y in shares]


def _array(point: tuple[float, float]) -> Point:
    return np.array([point], np.float32)


def _iou(found: Any, expected: Any, size: tuple[int, int]) -> float:
    """IoU of two masks as they are sent; size is (width, height)."""
    one, other = (_run_lengths(masks, size) for masks in (found, expected))
    if not coco.area(one) and not coco.area(other):
        return 1.0
    return float(coco.iou([one], [other], [0])[0, 0])


def _run_lengths(masks: Any, size: tuple[int, int]) -> Any:
    if isinstance(masks, dict):
        return {"size": masks["size"], "counts": masks["counts"].encode()}
    # pycocotools fills up to a polygon's points, not including them; both are treated alike.
    outlines = [np.asarray(outline, float).ravel().tolist() for outline in masks]
    outlines = [outline for outline in outlines if len(outline) >= 6]
    return (
        coco.merge(coco.frPyObjects(outlines, size[1], size[0]))
        if outlines
        else coco.encode(np.zeros((size[1], size[0]), np.uint8, order="F"))
    )
