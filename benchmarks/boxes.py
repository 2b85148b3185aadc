"""Many boxes in one request, against `predict` with all of them, and one by one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray

from benchmarks.reference_server import encode_plane, read_image
from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.sam2_models import Sam2, demo, predictor_of, softened
from benchmarks.serving import (
    CORES,
    EMBED,
    SEGMENT,
    Picture,
    Server,
    embed_body,
    our_server,
    picture,
)
from benchmarks.timing import exponent, timed
from inference_server.bench.timing import Timing

Boxes = NDArray[np.float32]

FASTER, EXPONENT, MEMORY_MB = 4.0, 1.1, 300.0
GOAL_COUNTS = (16, 64)
FORM = "polygon"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        size: (width, height) of the image.
        counts: numbers of boxes, the fewest first.
        rounds: how often each way is timed.
    """

    size: tuple[int, int]
    counts: tuple[int, ...]
    rounds: int


FULL = Scale(size=(1920, 1080), counts=(1, 4, 16, 64), rounds=3)
SMALL = Scale(size=(320, 180), counts=(1, 2, 4), rounds=1)


def run(small: bool) -> Report:
    """Measure it."""
    scale, model = (SMALL, demo()) if small else (FULL, softened("hiera_tiny"))
    if not small:
        torch.set_num_threads(CORES)
    report = Report(
        "boxes",
        "Many boxes in one request",
        notes=[
            f"{scale.size[0]} x {scale.size[1]}, cached; one mask a box, to polygons.",
            "Server: the whole request over HTTP. Reference: `SAM2ImagePredictor.predict`, all "
            "boxes in one call, as it offers it, and `cv2.findContours` on the full planes, in the "
            "benchmark's own process; and, as many calls with one box each are faster on a CPU, "
            "those as well. Memory: of the server's "
            "process at its peak in a request, beyond what was resident before it; the "
            "most of all requests with so many boxes.",
        ],
    )
    with our_server(model.weights, preload=f"sam2:{model.version}") as server:
        _measure(report, scale, model, server)
    return report


def _measure(report: Report, scale: Scale, model: Sam2, server: Server) -> None:
    predictor = predictor_of(model.load())
    image = picture(1, scale.size)
    predictor.set_image(read_image(image.jpeg))
    rows: list[dict[str, Cell]] = []
    costs: dict[str, list[float]] = {}
    with server.client() as client:
        client.post(EMBED, embed_body(model.version, image, "boxes"))
        # What the first request of all allocates is no matter of boxes.
        client.post(SEGMENT, boxes_body(model.version, "boxes", some_boxes(1, image)))
        for count in scale.counts:
            boxes = some_boxes(count, image)
            body = boxes_body(model.version, "boxes", boxes)
            server.reset_peak()
            before = server.resident
            found = client.post(SEGMENT, body).json["predictions"]
            held = [server.peak_resident - before]  # later ones reuse what this one was given
            if len(found) != count:
                raise ValueError(f"{len(found)} answers to {count} boxes")
            ways: dict[str, Callable[[], object]] = {
                "server": lambda sent=body: client.post(SEGMENT, sent),  # type: ignore[misc]
                "batch": lambda given=boxes: in_batch(predictor, given),  # type: ignore[misc]
                "one by one": lambda given=boxes: one_by_one(predictor, given),  # type: ignore[misc]
            }
            taken: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(scale.rounds):
                for name, work in ways.items():
                    server.reset_peak()
                    before = server.resident
                    taken[name].append(timed(work))
                    if name == "server":
                        held.append(server.peak_resident - before)
                    time.sleep(0.05)
            medians = {name: Timing.of(seconds).median for name, seconds in taken.items()}
            for name, seconds in medians.items():
                costs.setdefault(name, []).append(seconds)
            rows.append(
                {
                    "boxes": count,
                    **{f"{name} (ms)": 1e3 * seconds for name, seconds in medians.items()},
                    "faster than batch (x)": medians["batch"] / medians["server"],
                    "than one by one (x)": medians["one by one"] / medians["server"],
                    "extra memory (MB)": max(0, *held) / 1e6,
                }
            )
            if count in GOAL_COUNTS:
                for way in ("batch", "one by one"):
                    faster = medians[way] / medians["server"]
                    report.goals.append(
                        Goal(f"{count} boxes: faster than {way}", faster, FASTER, "at least")
                    )
    report.tables.append(Table("Medians", rows))
    fitted = {name: exponent(scale.counts, seconds) for name, seconds in costs.items()}
    report.tables.append(
        Table(
            "Cost against the number of boxes",
            [{"way": n, "exponent": k} for n, k in fitted.items()],
        )
    )
    most = max(float(row["extra memory (MB)"]) for row in rows)
    report.goals += [
        Goal("exponent over the number of boxes", fitted["server"], EXPONENT, "at most", ""),
        Goal("extra memory", most, MEMORY_MB, "at most", "MB"),
    ]


def some_boxes(count: int, image: Picture) -> Boxes:
    """Boxes all over an image, x0, y0, x1, y1 in pixels; `float32[count, 4]`."""
    rng = np.random.default_rng(11)
    size = np.array(image.size)
    centres = rng.uniform(0.2, 0.8, (count, 2)) * size
    halves = rng.uniform(0.05, 0.15, (count, 2)) * size
    boxes: Boxes = np.concatenate([centres - halves, centres + halves], axis=1, dtype=np.float32)
    return boxes


def boxes_body(version: str, image_id: str, boxes: Boxes) -> bytes:
    """A request for the masks in boxes; on the wire a box is given by its centre."""
    prompts = [
        {"box": {"x": (x0 + x1) / 2, "y": (y0 + y1) / 2, "width": x1 - x0, "height": y1 - y0}}
        for x0, y0, x1, y1 in boxes.tolist()
    ]
    body = {"image_id": image_id, "prompts": prompts, "format": FORM, "sam2_version_id": version}
    return orjson.dumps({**body, "multimask_output": False})


def in_batch(predictor: Any, boxes: Boxes) -> list[Any]:
    """All boxes in one call."""
    masks, _, _ = predictor.predict(box=boxes, multimask_output=False)
    return [encode_plane(plane, FORM) for plane in masks.reshape(-1, *masks.shape[-2:])]


def one_by_one(predictor: Any, boxes: Boxes) -> list[Any]:
    """One call a box."""
    found = []
    for box in boxes:
        masks, _, _ = predictor.predict(box=box, multimask_output=False)
        found.append(encode_plane(masks[0], FORM))
    return found
