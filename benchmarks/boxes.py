"""Many boxes in one request, compared with `predict` in one batch and one by one."""

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
from benchmarks.report import Cell, Goal, Report, Table, in_words
from benchmarks.requests import EMBED, SEGMENT, Picture, embed_body, picture
from benchmarks.sam2_models import Sam2, demo, predictor_of, softened
from benchmarks.serving import CORES, Server, our_server
from benchmarks.timing import exponent, timed
from inference_server.bench.timing import Timing

Boxes = NDArray[np.float32]

FASTER = {"float32": 4.0, "bfloat16": 6.0}
EXPONENT, MEMORY_MB = 1.1, 300.0
GOAL_COUNTS = (16, 64)
FORM = "polygon"


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        size: image size as (width, height) in pixels.
        counts: numbers of boxes per request, ascending.
        rounds: timed repetitions per implementation.
    """

    size: tuple[int, int]
    counts: tuple[int, ...]
    rounds: int


FULL = Scale(size=(1920, 1080), counts=(1, 4, 16, 64), rounds=3)
SMALL = Scale(size=(320, 180), counts=(1, 2, 4), rounds=1)


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
        "boxes",
        "Many boxes in one request" + in_words(dtype),
        dtype=dtype,
        notes=[
            f"{scale.size[0]} x {scale.size[1]}, cached; one mask per box, as polygons.",
            "Server: the whole request over HTTP. Batch: `SAM2ImagePredictor.predict` with all "
            "boxes in one call and `cv2.findContours` on the full planes, in the benchmark's "
            "process. One by one: the same with one call per box, which can be faster on a CPU. "
            "Extra memory: peak resident memory of the server during a request, minus its "
            "resident memory before; the maximum over all requests with that many boxes.",
        ],
    )
    with our_server(model.weights, preload=f"sam2:{model.version}", dtype=dtype) as server:
        _measure(report, scale, model, server, FASTER[dtype])
    return report


def _measure(report: Report, scale: Scale, model: Sam2, server: Server, least: float) -> None:
    predictor = predictor_of(model.load())
    image = picture(1, scale.size)
    predictor.set_image(read_image(image.jpeg))
    rows: list[dict[str, Cell]] = []
    costs: dict[str, list[float]] = {}
    with server.client() as client:
        client.post(EMBED, embed_body(model.version, image, "boxes"))
        # The first request allocates memory regardless of the number of boxes.
        client.post(SEGMENT, boxes_body(model.version, "boxes", some_boxes(1, image)))
        for count in scale.counts:
            boxes = some_boxes(count, image)
            body = boxes_body(model.version, "boxes", boxes)
            server.reset_peak()
            before = server.resident
            found = client.post(SEGMENT, body).json["predictions"]
            held = [server.peak_resident - before]  # later requests reuse this memory
            if len(found) != count:
                raise ValueError(f"{len(found)} predictions for {count} boxes")
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
                    "speed-up over batch (x)": medians["batch"] / medians["server"],
                    "speed-up over one by one (x)": medians["one by one"] / medians["server"],
                    "extra memory (MB)": max(0, *held) / 1e6,
                }
            )
            if count in GOAL_COUNTS:
                for way in ("batch", "one by one"):
                    faster = medians[way] / medians["server"]
                    report.goals.append(
                        Goal(f"{count} boxes: speed-up over {way}", faster, least, "at least")
                    )
    report.tables.append(Table("Medians", rows))
    fitted = {name: exponent(scale.counts, seconds) for name, seconds in costs.items()}
    report.tables.append(
        Table(
            "Cost by number of boxes",
            [{"implementation": n, "exponent": k} for n, k in fitted.items()],
        )
    )
    most = max(float(row["extra memory (MB)"]) for row in rows)
    report.goals += [
        Goal("exponent over the number of boxes", fitted["server"], EXPONENT, "at most", ""),
        Goal("extra memory", most, MEMORY_MB, "at most", "MB"),
    ]


def some_boxes(count: int, image: Picture) -> Boxes:
    """Draw boxes spread over an image.

    Args:
        count: number of boxes.
        image: image that they lie on.

    Returns:
        `float32[count, 4]`: x0, y0, x1, y1 in pixels.
    """
    rng = np.random.default_rng(11)
    size = np.array(image.size)
    centres = rng.uniform(0.2, 0.8, (count, 2)) * size
    halves = rng.uniform(0.05, 0.15, (count, 2)) * size
    boxes: Boxes = np.concatenate([centres - halves, centres + halves], axis=1, dtype=np.float32)
    return boxes


def boxes_body(version: str, image_id: str, boxes: Boxes) -> bytes:
    """Build a request for one mask per box.

    Args:
        version: `sam2_version_id`.
        image_id: id of the cached image.
        boxes: `float32[N, 4]`, x0, y0, x1, y1 in pixels; sent as centre, width and height.
    """
    prompts = [
        {"box": {"x": (x0 + x1) / 2, "y": (y0 + y1) / 2, "width": x1 - x0, "height": y1 - y0}}
        for x0, y0, x1, y1 in boxes.tolist()
    ]
    body = {"image_id": image_id, "prompts": prompts, "format": FORM, "sam2_version_id": version}
    return orjson.dumps({**body, "multimask_output": False})


def in_batch(predictor: Any, boxes: Boxes) -> list[Any]:
    """Predict all boxes in one call.

    Args:
        predictor: predictor with its image set.
        boxes: `float32[N, 4]`, x0, y0, x1, y1 in pixels.
    """
    masks, _, _ = predictor.predict(box=boxes, multimask_output=False)
    return [encode_plane(plane, FORM) for plane in masks.reshape(-1, *masks.shape[-2:])]


def one_by_one(predictor: Any, boxes: Boxes) -> list[Any]:
    """Predict with one call per box.

    Args:
        predictor: predictor with its image set.
        boxes: `float32[N, 4]`, x0, y0, x1, y1 in pixels.
    """
    found = []
    for box in boxes:
        masks, _, _ = predictor.predict(box=box, multimask_output=False)
        found.append(encode_plane(masks[0], FORM))
    return found
