"""Clicks on a cached image beside large overlays whose clients hang up."""

from __future__ import annotations

import socket
import time
from itertools import count

import cv2
import numpy as np
import orjson

from benchmarks.click import clicks
from benchmarks.load import Bodies, Load, Loop
from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.requests import EMBED, SEGMENT, Picture, click_body, embed_body, picture
from benchmarks.sam2_models import demo, softened
from benchmarks.serving import Server, our_server

OVERLAY = "/v1/sam3-image"
OVERLAYS = 2
P50_RATIO, P95_RATIO = 2.0, 3.0

_FULL = (8192, 6100)
_SMALL = (800, 600)


def run(small: bool) -> Report:
    """Run the benchmark.

    Args:
        small: use the demo models, small images and one round, for a run of a few seconds.
    """
    model = demo() if small else softened("hiera_tiny")
    size, rounds, seconds = (_SMALL, 1, 0.5) if small else (_FULL, 5, 6.0)
    large = enlarged(picture(3, (800, 600)), size)
    image = picture(1, (320, 180) if small else (1920, 1080))
    megapixels = size[0] * size[1] / 1e6
    report = Report(
        "abandoned",
        "Clicks beside large overlays whose clients hang up",
        notes=[
            f"One client clicks on a cached image of {image.size[0]} x {image.size[1]} with SAM "
            f"2.1 {model.version}. Meanwhile {OVERLAYS} clients request an overlay of an image of "
            f"{megapixels:.3g} million pixels; they wait for it, or hang up after "
            "half of its time. Each overlay is of a new file. Clicks count from the hang-up on, or "
            f"from the requests on if the clients wait, for {seconds:g} s. {rounds} round(s), "
            "alternating; clients and server share the cores.",
        ],
    )
    loads = {"alone": Load(), "overlays in progress": Load(), "overlays abandoned": Load()}
    numbers = count()
    with our_server(model.weights) as server:
        with server.client() as client:
            client.post(EMBED, embed_body(model.version, image, "cached"))
            begin = time.perf_counter()
            client.post(OVERLAY, overlay_body(large.unseen(next(numbers))))
            alone = time.perf_counter() - begin
        bodies = _clicks(model.version, image)
        for _ in range(rounds):
            with Loop(server, SEGMENT, bodies, clients=1) as loop:
                _add(loads["alone"], loop.measure(seconds))
            for name, patience in (
                ("overlays in progress", 0.0),
                ("overlays abandoned", alone / 2),
            ):
                sent = [overlay_body(large.unseen(next(numbers))) for _ in range(OVERLAYS)]
                connections = [ask(server, body) for body in sent]
                time.sleep(patience)
                if patience:
                    for connection in connections:
                        connection.close()
                with Loop(server, SEGMENT, bodies, clients=1) as loop:
                    _add(loads[name], loop.measure(seconds))
                for connection in connections:
                    if not patience:
                        connection.recv(1)  # until it is drawn
                        connection.close()
                _until_idle(server)
    rows: list[dict[str, Cell]] = []
    for name, load in loads.items():
        rows.append(
            {
                "clicks": name,
                "count": len(load.latencies),
                "p50 (ms)": 1e3 * load.timing.median,
                "p95 (ms)": 1e3 * load.timing.percentile(0.95),
                "slowest (ms)": 1e3 * load.timing.seconds[-1],
            }
        )
    report.tables = [
        Table("Clicks", rows),
        Table("Overlay", [{"megapixels": megapixels, "alone (s)": alone}]),
    ]
    idle, beside = loads["alone"].timing, loads["overlays abandoned"].timing
    report.goals = [
        Goal("p50 beside abandoned overlays", beside.median / idle.median, P50_RATIO, "at most"),
        Goal(
            "p95 beside abandoned overlays",
            beside.percentile(0.95) / idle.percentile(0.95),
            P95_RATIO,
            "at most",
        ),
    ]
    return report


def enlarged(image: Picture, size: tuple[int, int]) -> Picture:
    """Enlarge an image to another size.

    Args:
        image: image to enlarge.
        size: (width, height) in pixels.
    """
    pixels = cv2.imdecode(np.frombuffer(image.jpeg, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(image.size)
    done, data = cv2.imencode(".jpg", cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR))
    if not done:
        raise ValueError(size)
    return Picture(size, data.tobytes())


def overlay_body(image: Picture) -> bytes:
    """Build a request for an overlay.

    Args:
        image: image to attach.
    """
    body = {"image": image.field["value"], "text_prompt": "circle", "return_overlay": True}
    return orjson.dumps({**body, "return_preview": False})


def ask(server: Server, body: bytes) -> socket.socket:
    """Send a request for an overlay; return the connection without waiting for the response.

    Args:
        server: server to ask.
        body: JSON.
    """
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=600)
    head = f"POST {OVERLAY} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def _clicks(version: str, image: Picture) -> Bodies:
    sent = [click_body(version, point, image_id="cached") for point in clicks(16, image)]
    return lambda client, request: sent[(client + request) % len(sent)]


def _add(load: Load, more: Load) -> None:
    load.latencies += more.latencies
    load.seconds += more.seconds


def _until_idle(server: Server) -> None:
    """Wait until the server uses less than a tenth of a core."""
    while True:
        before = server.cpu_seconds
        time.sleep(0.5)
        if server.cpu_seconds - before <= 0.05:
            return
