"""Many clients clicking on cached images, and clicks while other clients encode."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any

import numpy as np
import torch

from benchmarks.click import clicks
from benchmarks.load import Bodies, Load, Loop, closed_loop
from benchmarks.reference_server import read_image, reference_server
from benchmarks.report import Cell, Goal, Report, Table, in_words
from benchmarks.requests import EMBED, SEGMENT, Picture, click_body, embed_body, picture
from benchmarks.sam2_models import Sam2, bare_decode, compute, demo, predictor_of, softened
from benchmarks.serving import CORES, Server, our_server

THROUGHPUT = {"float32": 2.5, "bfloat16": 4.5}
OF_DECODER, P95_OVER_MEAN, LOADED_OVER_IDLE = 0.8, 1.5, 3.0
ENCODERS = 2


@dataclass(frozen=True, slots=True)
class Scale:
    """Extent of a run.

    Attributes:
        size: image size as (width, height) in pixels.
        images: number of images.
        clients: numbers of concurrent clients, one after another.
        seconds: duration of each measurement.
    """

    size: tuple[int, int]
    images: int
    clients: tuple[int, ...]
    seconds: float


FULL = Scale(size=(1920, 1080), images=8, clients=(1, 8, 32), seconds=12.0)
SMALL = Scale(size=(320, 180), images=2, clients=(1, 4), seconds=0.5)


def run(small: bool, dtype: str = "float32") -> Report:
    """Run the benchmark.

    Args:
        small: use the demo models and few rounds, for a run of a few seconds.
        dtype: precision of the server. Default: float32.
    """
    scale, model = (SMALL, demo()) if small else (FULL, softened("hiera_tiny"))
    report = Report(
        "clients",
        "Many clients clicking on cached images" + in_words(dtype),
        dtype=dtype,
        notes=[
            f"{scale.images} images of {scale.size[0]} x {scale.size[1]}; each client sends the "
            "next click when it has the previous response; polygons. Clients and server share the "
            "cores.",
            "Reference: `SAM2ImagePredictor` behind a lock and the same HTTP stack, under the same "
            "load before the server. Bare decoder: `sam2`'s prompt encoder and mask decoder alone "
            "in the server's precision; the faster of one thread with all cores and one thread per "
            "core.",
        ],
    )
    pictures = [picture(seed, scale.size) for seed in range(scale.images)]
    decoder = decoder_rates(model, pictures[0], scale.seconds / 2, dtype)
    loads: dict[str, dict[int, Load]] = {}
    with reference_server(model) as server:
        bodies = _cached(server, model, pictures)
        loads["reference"] = _loads(server, bodies, scale)
    with our_server(model.weights, preload=f"sam2:{model.version}", dtype=dtype) as server:
        bodies = _cached(server, model, pictures)
        loads["server"] = _loads(server, bodies, scale)
        _encoding(report, server, model, pictures[0], bodies, scale)
    best = max(decoder.values())
    rows: list[dict[str, Cell]] = []
    for clients in scale.clients:
        ours, reference = loads["server"][clients], loads["reference"][clients]
        for who, load in (("server", ours), ("reference", reference)):
            rows.append(
                {
                    "clients": clients,
                    "implementation": who,
                    "clicks per second": load.throughput,
                    "mean (ms)": 1e3 * load.timing.mean,
                    "p95 (ms)": 1e3 * load.timing.percentile(0.95),
                    "relative to the bare decoder (x)": load.throughput / best,
                }
            )
        if clients == 1:
            continue
        what = f"{clients} clients"
        report.goals += [
            Goal(
                f"{what}: throughput relative to the reference",
                ours.throughput / reference.throughput,
                THROUGHPUT[dtype],
                "at least",
            ),
            Goal(
                f"{what}: throughput relative to the bare decoder",
                ours.throughput / best,
                OF_DECODER,
                "at least",
            ),
            Goal(
                f"{what}: p95 relative to the mean",
                ours.timing.percentile(0.95) / ours.timing.mean,
                P95_OVER_MEAN,
                "at most",
            ),
        ]
    table: list[dict[str, Cell]] = [
        {"bare decoder": way, "prompts per second": rate} for way, rate in decoder.items()
    ]
    report.tables[:0] = [Table("Clicks", rows), Table("Bare decoder", table)]
    return report


def _cached(server: Server, model: Sam2, pictures: list[Picture]) -> Bodies:
    """Encode the images in a server; return requests that click on them in turn."""
    sent = []
    with server.client() as client:
        for number, image in enumerate(pictures):
            name = f"cached-{number}"
            client.post(EMBED, embed_body(model.version, image, name))
            sent += [click_body(model.version, point, image_id=name) for point in clicks(5, image)]
    stride = 7  # coprime to the number of bodies, so that clients send different requests
    return lambda client, request: sent[(client * stride + request * 11) % len(sent)]


def _loads(server: Server, bodies: Bodies, scale: Scale) -> dict[int, Load]:
    return {
        clients: closed_loop(
            server,
            SEGMENT,
            bodies,
            clients=clients,
            seconds=scale.seconds,
            warmup=scale.seconds / 6,
        )
        for clients in scale.clients
    }


def _encoding(
    report: Report, server: Server, model: Sam2, image: Picture, bodies: Bodies, scale: Scale
) -> None:
    """Measure the clicks of one client while two others encode new images, and the encodes."""
    numbers = count()

    def unseen(client: int, request: int) -> bytes:
        del client, request
        return embed_body(model.version, image.unseen(next(numbers)))

    idle = closed_loop(server, SEGMENT, bodies, clients=1, seconds=scale.seconds, warmup=0.2)
    with Loop(server, EMBED, unseen, clients=ENCODERS) as encoders:
        time.sleep(scale.seconds / 4)
        alone = encoders.measure(2 * scale.seconds)
        with Loop(server, SEGMENT, bodies, clients=1) as clicker:
            begin = time.perf_counter()
            loaded = clicker.measure(2 * scale.seconds)
            encoders.measure(0.0)
            beside = encoders.since(begin)
    rows: list[dict[str, Cell]] = []
    for what, load in (
        ("clicks, nobody encodes", idle),
        (f"clicks while {ENCODERS} clients encode", loaded),
        ("encodes without clicks", alone),
        ("encodes with clicks", beside),
    ):
        rows.append(
            {
                "requests": what,
                "count": len(load.latencies),
                "per second": load.throughput,
                "p50 (ms)": 1e3 * load.timing.median,
                "p95 (ms)": 1e3 * load.timing.percentile(0.95),
            }
        )
    report.tables.append(Table(f"Clicks of one client while {ENCODERS} others encode", rows))
    ratio = loaded.timing.percentile(0.95) / idle.timing.percentile(0.95)
    what = "p95 of a click while others encode, relative to idle"
    report.goals.append(Goal(what, ratio, LOADED_OVER_IDLE, "at most"))


def decoder_rates(
    model: Sam2, image: Picture, seconds: float, dtype: str = "float32"
) -> dict[str, float]:
    """Measure the rate of the bare decoder.

    Args:
        model: model to measure.
        image: image that is clicked on.
        seconds: duration of each measurement.
        dtype: precision. Default: float32.

    Returns:
        Prompts per second by thread layout.
    """
    predictor = predictor_of(model.load())
    predictor.set_image(read_image(image.jpeg))
    points = clicks(5, image)
    return {
        "one thread with all cores": _rate(predictor, points, 1, CORES, seconds, dtype),
        "one thread per core": _rate(predictor, points, CORES, 1, seconds, dtype),
    }


def _rate(
    predictor: Any,
    points: list[tuple[float, float]],
    threads: int,
    cores: int,
    seconds: float,
    dtype: str,
) -> float:
    """Return prompts per second of `threads` threads with `cores` cores each."""
    using = compute(dtype)
    finished = [0] * threads
    began = threading.Barrier(threads + 1)

    def work(number: int) -> None:
        torch.set_num_threads(cores)  # applies to the calling thread only
        turns = cycle(points)
        bare_decode(predictor, np.array([next(turns)], np.float32), using)
        began.wait()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            bare_decode(predictor, np.array([next(turns)], np.float32), using)
            finished[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    began.wait()
    begin = time.perf_counter()
    for worker in workers:
        worker.join()
    return sum(finished) / (time.perf_counter() - begin)
