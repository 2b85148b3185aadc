"""Simultaneous requests for one new image: number of encoder runs, and duration."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

from benchmarks.click import clicks
from benchmarks.reference_server import reference_server
from benchmarks.report import Cell, Goal, Report, Table
from benchmarks.requests import SEGMENT, click_body, picture
from benchmarks.sam2_models import demo, softened
from benchmarks.serving import Server, our_server

REQUESTS = 20


def run(small: bool) -> Report:
    """Run the benchmark.

    Args:
        small: use the demo models and few rounds, for a run of a few seconds.
    """
    model = demo() if small else softened("hiera_tiny")
    size = (320, 180) if small else (1920, 1080)
    rounds = 1 if small else 3
    image = picture(1, size)
    report = Report(
        "flight",
        f"{REQUESTS} simultaneous requests for one new image",
        notes=[
            f"SAM 2.1 {model.version}; each request sends the same JPEG of {size[0]} x {size[1]} "
            "with the same new `image_id` and its own click. The reference looks up the image "
            "while it holds its lock, so it does not encode twice either. Medians of "
            f"{rounds} round(s).",
        ],
    )
    points = clicks(REQUESTS, image)
    rows: list[dict[str, Cell]] = []

    def measure(who: str, server: Server, encodes: Callable[[], float]) -> None:
        def bodies(name: str, many: int) -> list[bytes]:
            new = image.unseen(0)
            return [
                click_body(model.version, point, image_id=name, image=new)
                for point in points[:many]
            ]

        at_once(server, bodies("warm", 2))
        counts, together, alone = [], [], []
        for number in range(rounds):
            alone.append(at_once(server, bodies(f"alone-{number}", 1)))
            before = encodes()
            together.append(at_once(server, bodies(f"flight-{number}", REQUESTS)))
            counts.append(encodes() - before)
        one, many = statistics.median(alone), statistics.median(together)
        rows.append(
            {
                "implementation": who,
                "encoder runs": max(counts),
                "one request (s)": one,
                f"{REQUESTS} simultaneous requests (s)": many,
                "relative to one (x)": many / one,
            }
        )
        if who == "server":
            goal = Goal(f"encoder runs for {REQUESTS} requests", max(counts), 1, "at most", "")
            report.goals.append(goal)

    with our_server(model.weights, preload=f"sam2:{model.version}") as server:
        measure("server", server, lambda: server.metric("inference_embedding_cache_misses_total"))
    with reference_server(model) as server:

        def reference_encodes() -> float:
            with server.client() as client:
                return float(client.get("/encodes").json["encodes"])

        measure("reference", server, reference_encodes)
    report.tables.append(Table("Encoder runs and durations", rows))
    return report


def at_once(server: Server, bodies: list[bytes]) -> float:
    """Send requests simultaneously, each on its own connection.

    Args:
        server: server to ask.
        bodies: JSON requests.

    Returns:
        Seconds until all responses have arrived.
    """
    ready = threading.Barrier(len(bodies) + 1)
    errors: list[BaseException] = []

    def ask(body: bytes) -> None:
        with server.client() as client:
            client.get("/readyz")  # connects
            ready.wait()
            try:
                client.post(SEGMENT, body)
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=ask, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    ready.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return time.perf_counter() - begin
