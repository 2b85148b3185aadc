"""An image as a file of a form beside the same image as base64 in JSON."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

import orjson

from benchmarks.overhead import padded
from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.requests import EMBED, SEGMENT, Picture, click_body, embed_body, picture
from benchmarks.serving import Server, process

BYTES = 0.76
"""A form has 3 bytes where base64 has 4, and a kilobyte of its own."""

_VERSION = "hiera_tiny"
_NAME = "cached"
_BOUNDARY = "benchmark"
_FORM = f"multipart/form-data; boundary={_BOUNDARY}"
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        size: image size as (width, height) in pixels.
        sent: approximate sizes of the image file in bytes.
        requests: requests of each kind in a batch.
        batches: batches of each kind; the kinds alternate.
    """

    size: tuple[int, int]
    sent: tuple[int, ...]
    requests: int
    batches: int


FULL = Scale(size=(1920, 1080), sent=(750_000, 8_000_000), requests=40, batches=7)
SMALL = Scale(size=(320, 180), sent=(30_000,), requests=5, batches=1)


@dataclass(slots=True)
class _Kind:
    """A kind of request, and what it costs.

    Attributes:
        media_type: type of the body.
        body: the body.
        cpu: CPU seconds of the server per request, for each batch.
        wall: seconds per request, for each batch.
    """

    media_type: str
    body: bytes
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


def run(small: bool) -> Report:
    """Run the benchmark.

    Args:
        small: use the demo models and few rounds, for a run of a few seconds.
    """
    scale = SMALL if small else FULL
    report = Report(
        "forms",
        "An image as a file of a form, or as base64",
        notes=[
            "A click with the image attached, on an image that is cached under its id: receiving, "
            "parsing, hashing and comparing the image is nearly all of the work. The real "
            "application with a SAM 2 that returns canned logits at once; one client on one "
            "connection. Batches of both kinds alternate; the ratios are medians of the batches' "
            "ratios, form to JSON.",
        ],
    )
    environment = {"INFERENCE_AUTH": "off", "INFERENCE_DEVICE": "cpu"}
    environment["INFERENCE_LOG_LEVEL"] = "warning"
    rows: list[dict[str, Cell]] = []
    with process(["-m", "benchmarks.stub_server"], label="stub", environment=environment) as server:
        for nbytes in scale.sent:
            image = padded(picture(1, scale.size), nbytes)
            with server.client() as client:
                client.post(EMBED, embed_body(_VERSION, image, f"{_NAME}-{nbytes}"))
            rows += _compared(report, server, image, f"{_NAME}-{nbytes}", scale)
    report.tables.append(Table("One request", rows))
    return report


def _compared(
    report: Report, server: Server, image: Picture, name: str, scale: Scale
) -> list[dict[str, Cell]]:
    """Measure one image, and add the goals of its ratios to the report."""
    point = image.at((0.5, 0.5))
    fields = click_body(_VERSION, point, image_id=name)
    kinds = {
        "JSON with base64": _Kind(_JSON, click_body(_VERSION, point, image_id=name, image=image)),
        "form with a file": _Kind(_FORM, form_body(fields, image)),
    }
    for kind in kinds.values():
        _batch(server, kind, scale.requests)
        kind.cpu.clear()
        kind.wall.clear()
    for _ in range(scale.batches):
        for kind in kinds.values():
            _batch(server, kind, scale.requests)
    by_json, by_form = kinds.values()
    megabytes = f"{len(image.jpeg) / 1e6:.2g} MB"
    fewer = len(by_form.body) / len(by_json.body)
    report.goals.append(Goal(f"bytes sent, {megabytes}", fewer, BYTES, "at most"))
    for what, mine, theirs in (
        ("CPU time", by_form.cpu, by_json.cpu),
        ("wall time", by_form.wall, by_json.wall),
    ):
        ratios = [a / b for a, b in zip(mine, theirs, strict=True) if b]
        ratio = statistics.median(ratios) if ratios else 1.0
        report.goals.append(Goal(f"{what}, {megabytes}", ratio, 1.0, "at most"))
    return [
        {
            "file": megabytes,
            "request": what,
            "body (bytes)": len(kind.body),
            "CPU (ms)": 1e3 * statistics.median(kind.cpu),
            "wall (ms)": 1e3 * statistics.median(kind.wall),
        }
        for what, kind in kinds.items()
    ]


def form_body(fields: bytes, image: Picture) -> bytes:
    """Build the form of a request.

    Args:
        fields: the fields without the image, as JSON.
        image: the image.
    """
    orjson.loads(fields)  # a mistake here would be measured as a fast refusal
    head = f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="'
    return b"".join(
        [
            f'{head}request"\r\ncontent-type: {_JSON}\r\n\r\n'.encode(),
            fields,
            f'\r\n{head}image"; filename="image.jpg"\r\n\r\n'.encode(),
            image.jpeg,
            f"\r\n--{_BOUNDARY}--\r\n".encode(),
        ]
    )


def _batch(server: Server, kind: _Kind, requests: int) -> None:
    """Send requests one after another, and add their cost."""
    with server.client() as client:
        client.get("/readyz")  # connects
        cpu, wall = server.cpu_seconds, time.perf_counter()
        for _ in range(requests):
            client.post(SEGMENT, kind.body, kind.media_type)
        kind.wall.append((time.perf_counter() - wall) / requests)
        kind.cpu.append((server.cpu_seconds - cpu) / requests)
