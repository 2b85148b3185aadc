"""A click on a cached image over HTTP, against `predict`, and against the bare decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from benchmarks.timing import Timing, compare, exponent

Point = NDArray[np.float32]

FORMS = ("polygon", "rle")
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
    with our_server(model.weights) as server, server.client() as client:
        _measure(report, scale, model, client)
    return report


def _measure(report: Report, scale: Scale, model: Sam2, client: Client) -> None:
    predictor = predictor_of(model.load())
    rows: list[dict[str, Cell]] = []
    medians: dict[tuple[str, str], list[float]] = {}
    for index, size in enumerate(scale.sizes):
        image = picture(1, size)
        name = f"{size[0]} x {size[1]}"
        client.post(EMBED, embed_body(model.version, image, name))
        predictor.set_image(read_image(image.jpeg))
        points = clicks(scale.points, image)
        for form in FORMS:
            bodies = [click_body(model.version, p, image_id=name, form=form) for p in points]
            agreement = min(
                _iou(client.post(SEGMENT, body).json["predictions"][0]["masks"], mask, size)
                for body, mask in zip(
                    bodies, [_best(predictor, p, form) for p in points], strict=True
                )
            )
            taken = _compared(client, bodies, predictor, points, form, scale.rounds)
            server, predict, bare = (taken[way].median for way in WAYS)
            for way in WAYS:
                medians.setdefault((form, way), []).append(taken[way].median)
            rows.append(
                {
                    "image": name,
                    "to": form,
                    "server (ms)": 1e3 * server,
                    "p95 (ms)": 1e3 * taken["server"].percentile(0.95),
                    "predict (ms)": 1e3 * predict,
                    "bare decoder (ms)": 1e3 * bare,
                    "faster than predict (x)": predict / server,
                    "over the decoder (x)": server / bare,
                    "least IoU with predict": agreement,
                }
            )
            what = f"{name}, {form}"
            report.goals.append(
                Goal(f"{what}: IoU with predict", agreement, LEAST_IOU, "at least", "")
            )
            if index:
                report.goals += [
                    Goal(f"{what}: faster than predict", predict / server, FASTER, "at least"),
                    Goal(f"{what}: over the decoder", server / bare, OVER_DECODER, "at most"),
                ]
    report.tables.append(Table("Medians", rows))
    _growth(report, scale, medians)
    reached = min(float(row["faster than predict (x)"]) for row in rows[len(FORMS) :])
    verdict = "reached" if reached >= STRETCH else "not reached"
    report.notes.append(
        f"Stretch goal, {STRETCH:g} times faster than predict: {verdict} ({reached:.2f} at least)."
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


WAYS = ("server", "predict", "bare decoder")


def _compared(
    client: Client,
    bodies: Sequence[bytes],
    predictor: Any,
    points: Sequence[tuple[float, float]],
    form: str,
    rounds: int,
) -> dict[str, Timing]:
    """The three ways, each with the points in turns."""
    sent, shown, decoded = cycle(bodies), cycle(points), cycle(points)
    using = compute("auto")
    ways: dict[str, Callable[[], object]] = {
        "server": lambda: client.post(SEGMENT, next(sent)),
        "predict": lambda: _best(predictor, next(shown), form),
        "bare decoder": lambda: bare_decode(predictor, _array(next(decoded)), using),
    }
    return compare(ways, rounds=rounds, warmup=2)


def clicks(count: int, image: Picture) -> list[tuple[float, float]]:
    """Places all over an image, not at its border; x, y in pixels."""
    shares = np.random.default_rng(7).uniform(0.1, 0.9, (count, 2))
    return [image.at((float(x), float(y))) for x, y in shares]


def _array(point: tuple[float, float]) -> Point:
    return np.array([point], np.float32)


def _best(predictor: Any, point: tuple[float, float], form: str) -> Any:
    """The best of three masks at a point, encoded."""
    masks, scores, _ = predictor.predict(_array(point), np.ones(1, np.int32), multimask_output=True)
    return encode_plane(masks[int(np.argmax(scores))], form)


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
