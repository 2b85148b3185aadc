"""A click on a new image, compared with the bare model and with `set_image`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch

from benchmarks.click import clicks
from benchmarks.reference_server import encode_plane, read_image
from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.requests import SEGMENT, click_body, picture
from benchmarks.sam2_models import (
    Sam2,
    bare_decode,
    compute,
    demo,
    predictor_of,
    softened,
)
from benchmarks.serving import CORES, our_server
from benchmarks.timing import compare

OVER_MODEL = 1.1
OVER_REFERENCE = 5.0


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        size: image size as (width, height) in pixels.
        versions: SAM 2 versions, and timed repetitions per implementation.
        goals: versions with a goal.
    """

    size: tuple[int, int]
    versions: tuple[tuple[str, int], ...]
    goals: tuple[str, ...]


FULL = Scale(
    size=(1920, 1080),
    versions=(("hiera_tiny", 7), ("hiera_large", 3)),
    goals=("hiera_tiny", "hiera_large"),
)
SMALL = Scale(size=(320, 180), versions=(("demo", 1),), goals=("demo",))


def run(small: bool) -> Report:
    """Run the benchmark.

    Args:
        small: use the demo models and few rounds, for a run of a few seconds.
    """
    scale = SMALL if small else FULL
    if not small:
        torch.set_num_threads(CORES)
    report = Report(
        "cold",
        "A click on a new image",
        notes=[
            f"A JPEG of {scale.size[0]} x {scale.size[1]} in base64, a different file in each "
            "request; polygons. Server: the whole request over HTTP. Bare model: "
            "`sam2`'s `forward_image` on a prepared tensor, prompt encoder and mask decoder, in "
            "the same precision. Reference: JPEG decoding, `set_image`, `predict` in float32 and "
            "`cv2.findContours`. Both run in the benchmark's process. The three alternate.",
        ],
    )
    dtypes = ["float32"]
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes.append("bfloat16")
    else:
        report.notes.append("No bfloat16: this processor has no instructions for it.")
    rows: list[dict[str, Cell]] = []
    for version, rounds in scale.versions:
        model = demo() if version == "demo" else softened(version)
        for dtype in dtypes:
            row = _measured(model, dtype, scale.size, rounds)
            rows.append({"SAM 2.1": version, "precision": dtype, **row})
            if version in scale.goals:
                what = f"{version}, {dtype}: relative to the bare model"
                ratio = row["relative to the bare model (x)"]
                report.goals.append(Goal(what, ratio, OVER_MODEL, "at most"))
                if dtype == "bfloat16":
                    what = f"{version}, {dtype}: speed-up over the reference"
                    faster = row["speed-up over the reference (x)"]
                    report.goals.append(Goal(what, faster, OVER_REFERENCE, "at least"))
    report.tables.append(Table("Medians", rows))
    return report


def _measured(model: Sam2, dtype: str, size: tuple[int, int], rounds: int) -> dict[str, float]:
    """Return medians of the three implementations in seconds, and ratios."""
    image, numbers = picture(1, size), count()
    (point,) = clicks(1, image)
    given = np.array([point], np.float32)
    predictor = predictor_of(model.load())
    using = compute(dtype)
    prepared = predictor._transforms(read_image(image.jpeg))[None]
    predictor.set_image(read_image(image.jpeg))

    def bare() -> object:
        _forward(predictor.model, prepared, using)
        return bare_decode(predictor, given, using)

    def reference() -> object:
        predictor.set_image(read_image(image.unseen(next(numbers)).jpeg))
        masks, scores, _ = predictor.predict(given, np.ones(1, np.int32), multimask_output=True)
        return encode_plane(masks[int(np.argmax(scores))], "polygon")

    with (
        our_server(model.weights, preload=f"sam2:{model.version}", dtype=dtype) as server,
        server.client() as client,
    ):

        def cold() -> None:
            body = click_body(model.version, point, image=image.unseen(next(numbers)))
            answer = client.post(SEGMENT, body)
            if answer.headers["x-embedding-cache"] != "miss":
                raise ValueError("the image was already cached")

        ways: dict[str, Callable[[], object]] = {
            "server": cold,
            "bare": bare,
            "reference": reference,
        }
        taken = compare(ways, rounds=rounds)
    ours, least, theirs = (taken[way].median for way in ways)
    return {
        "server (s)": ours,
        "bare model (s)": least,
        "reference (s)": theirs,
        "relative to the bare model (x)": ours / least,
        "speed-up over the reference (x)": theirs / ours,
    }


@torch.inference_mode()
def _forward(model: Any, prepared: torch.Tensor, using: Any) -> object:
    """Run the image encoder alone."""
    with using.autocast():
        return model.forward_image(prepared)
