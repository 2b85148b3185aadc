"""CPU time of a cached click outside the model, in a server with a free model."""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.requests import EMBED, SEGMENT, Picture, click_body, embed_body, picture
from benchmarks.serving import Server, process

OVERHEAD_MS = 3.0
_VERSION = "hiera_tiny"
_NAME = "cached"


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        size: image size as (width, height) in pixels.
        sent: approximate size of the attached image in bytes.
        requests: requests of each kind.
        batches: batches of each kind; the kinds alternate.
    """

    size: tuple[int, int]
    sent: int
    requests: int
    batches: int


FULL = Scale(size=(1920, 1080), sent=750_000, requests=400, batches=4)
SMALL = Scale(size=(320, 180), sent=30_000, requests=10, batches=1)


@dataclass(slots=True)
class Cost:
    """Cost of one kind of request.

    Attributes:
        cpu: CPU seconds per request, for each batch.
        wall: seconds per request, for each batch.
        stages: duration of each request in milliseconds, by stage.
        answer: size of a response in bytes.
    """

    cpu: list[float]
    wall: list[float]
    stages: defaultdict[str, list[float]]
    answer: int = 0


def run(small: bool) -> Report:
    """Run the benchmark.

    Args:
        small: use the demo models and few rounds, for a run of a few seconds.
    """
    scale = SMALL if small else FULL
    report = Report(
        "overhead",
        "CPU time of a click outside the model",
        notes=[
            "The real application with a SAM 2 that returns canned logits at once: its CPU time is "
            "everything but the model. One client on one connection; cached image of "
            f"{scale.size[0]} x {scale.size[1]}; polygons. `masks` and `serialise` are durations "
            "from `server-timing`; the rest is HTTP, parsing, threads and the event loop. The "
            "floor is a bare Starlette route on the same stack that parses the same request and "
            "returns JSON of the same size.",
            "Medians of batches. The kernel counts CPU time in steps of 10 ms, so batches are "
            "long.",
        ],
    )
    environment = {"INFERENCE_AUTH": "off", "INFERENCE_DEVICE": "cpu"}
    environment["INFERENCE_LOG_LEVEL"] = "warning"
    image = picture(1, scale.size)
    point = image.at((0.5, 0.5))
    by_id = click_body(_VERSION, point, image_id=_NAME)
    along = click_body(_VERSION, point, image_id=_NAME, image=padded(image, scale.sent))
    with process(["-m", "benchmarks.stub_server"], label="stub", environment=environment) as server:
        with server.client() as client:
            client.post(EMBED, embed_body(_VERSION, image, _NAME))
            size = len(client.post(SEGMENT, by_id).body)
        echo = ["-m", "benchmarks.stub_server", "--echo", str(size)]
        with process(echo, label="echo") as floor:
            kinds = {
                "click by id": (server, by_id),
                "click with the image attached": (server, along),
                "floor: JSON echo": (floor, by_id),
            }
            costs = {name: Cost([], [], defaultdict(list)) for name in kinds}
            for name, (asked, body) in kinds.items():
                _batch(asked, body, scale.requests // 4, costs[name])
            costs = {name: Cost([], [], defaultdict(list)) for name in kinds}
            for _ in range(scale.batches):
                for name, (asked, body) in kinds.items():
                    _batch(asked, body, scale.requests // scale.batches, costs[name])
    _tabulate(report, costs, {"click with the image attached": len(along)})
    return report


def padded(image: Picture, size: int) -> Picture:
    """Return the image in a larger file, filled up with random comments.

    Args:
        image: image to enlarge.
        size: minimum file size in bytes.
    """
    rng = random.Random(0)  # the same file in every run
    data = image.jpeg
    while len(data) < size:
        comment = rng.randbytes(60_000)
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        data = data[:2] + segment + data[2:]
    return Picture(image.size, data)


def _batch(server: Server, body: bytes, requests: int, cost: Cost) -> None:
    """Send requests one after another, and add their cost."""
    with server.client() as client:
        client.get("/readyz")  # connects
        cpu, wall = server.cpu_seconds, time.perf_counter()
        answers = [client.post(SEGMENT, body) for _ in range(requests)]
        cost.wall.append((time.perf_counter() - wall) / requests)
        cost.cpu.append((server.cpu_seconds - cpu) / requests)
    cost.answer = len(answers[-1].body)
    for answer in answers:
        for stage, duration in answer.stages.items():
            cost.stages[stage].append(duration)


def _tabulate(report: Report, costs: dict[str, Cost], sent: dict[str, int]) -> None:
    rows: list[dict[str, Cell]] = []
    for name, cost in costs.items():
        cpu = 1e3 * statistics.median(cost.cpu)
        masks, serialise = (_median(cost.stages.get(stage, [])) for stage in ("masks", "serialise"))
        rows.append(
            {
                "request": name,
                "CPU (ms)": cpu,
                "masks (ms)": masks,
                "serialise (ms)": serialise,
                "HTTP and framework (ms)": cpu - masks - serialise,
                "wall (ms)": 1e3 * statistics.median(cost.wall),
                "body (bytes)": sent.get(name, 0),
                "response (bytes)": cost.answer,
            }
        )
        if name == "click by id":
            what = "CPU of a click by id"
            report.goals.append(Goal(what, cpu, OVERHEAD_MS, "at most", "ms"))
    report.tables.append(Table("One request", rows))


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0
