"""A cluster whose SAM 2 only sleeps, to measure the cost of serving without one GPU per replica.

Everything else is real: Ray, ingress, router, wire format, image decoding, caches, queues
and the masks, which are made from constant logits.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import click
import cv2
import numpy as np

from benchmarks.serving import Server, process
from benchmarks.synthetic import mask_logits
from inference_server.engines.base import (
    Candidates,
    Embedding,
    Prepared,
    Query,
    RGBImage,
    VisualPrompt,
)
from inference_server.engines.registry import ModelRegistry
from inference_server.engines.sam1.weights import Sam1Checkpoint
from inference_server.engines.weights import Sam2Checkpoint
from inference_server.settings import MiB, Settings

NAME = "simulated"
VERSION = "hiera_tiny"
Router = Literal["ring", "default"]
"""This server's router, or Ray Serve's default."""

_DEFAULT_ROUTER = "ray.serve._private.request_router.PowerOfTwoChoicesRequestRouter"
_COSTS = "costs"
_DONE = "*.done"
_SLICE = 0.02
_SEED = 3
"""Seed of a mask that covers about 5 % of the image."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Simulated costs at a replica's device.

    Attributes:
        encode: seconds per image.
        decode: seconds per prompt.
    """

    encode: float
    decode: float

    def write(self, directory: Path) -> None:
        """Make these the costs of all engines.

        Args:
            directory: directory of the engines.
        """
        written = directory / "costs.new"
        written.write_text(f"{self.encode} {self.decode}")
        written.replace(directory / _COSTS)

    @classmethod
    def read(cls, directory: Path) -> Costs:
        """Read the current costs.

        Args:
            directory: directory of the engines.
        """
        encode, decode = map(float, (directory / _COSTS).read_text().split())
        return cls(encode, decode)


class Device:
    """A device that sleeps instead of working; concurrent users share its speed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = 0

    def work(self, seconds: float) -> None:
        """Sleep until some work is done.

        Args:
            seconds: device seconds of the work.
        """
        self._enter(1)
        try:
            while seconds > 0:
                share = 1 / self._busy
                begin = time.perf_counter()
                time.sleep(min(_SLICE, seconds / share))
                seconds -= (time.perf_counter() - begin) * share
        finally:
            self._enter(-1)

    def _enter(self, number: int) -> None:
        with self._lock:
            self._busy += number


class SimulatedEngine:
    """An `Engine[VisualPrompt]` that sleeps and always returns the same mask.

    Args:
        directory: directory with the costs; the engine logs one letter per image and prompt there.
    """

    checkpoint = NAME
    side = 256

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._device = Device()
        self._canned = mask_logits(1, seed=_SEED)
        file = directory / _DONE.replace("*", str(os.getpid()))
        self._done = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def prepare(
        self,
        pixels: RGBImage,
        size: tuple[int, int] | None = None,
        extent: tuple[float, float] | None = None,
    ) -> Prepared:
        """See `Engine`."""
        del extent
        height, width = size or pixels.shape[:2]
        return Prepared(cv2.resize(pixels, (self.side, self.side)), (height, width))

    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        """See `Engine`."""
        self._device.work(len(images) * Costs.read(self._directory).encode)
        os.write(self._done, b"e" * len(images))
        return [Embedding(image.size, None, MiB) for image in images]

    def decode(self, queries: Sequence[Query[VisualPrompt]]) -> list[Candidates]:
        """See `Engine`."""
        self._device.work(len(queries) * Costs.read(self._directory).decode)
        os.write(self._done, b"d" * len(queries))
        score = np.full(1, 0.9, np.float32)
        return [Candidates(self._canned, 0.0, score, self._canned) for _ in queries]


class SimulatedModels(ModelRegistry):
    """A model registry with a simulated SAM 2.

    Args:
        settings: settings of the server.
        directory: directory of the engines; see `SimulatedEngine`.
    """

    def __init__(self, settings: Settings, directory: Path) -> None:
        super().__init__(settings)
        self.catalog.rename("sam2", NAME)
        self._directory = directory

    def visual_engine(self, checkpoint: Sam1Checkpoint | Sam2Checkpoint) -> SimulatedEngine:
        """See `ModelRegistry`."""
        del checkpoint
        return SimulatedEngine(self._directory)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Work done by the engines of a cluster.

    Attributes:
        encodes: number of encoded images by replica.
        decodes: number of decoded prompts by replica.
    """

    encodes: Mapping[str, int]
    decodes: Mapping[str, int]

    def __sub__(self, before: BatchResult) -> BatchResult:
        """Return the work done since an earlier result."""
        return BatchResult(
            {name: count - before.encodes.get(name, 0) for name, count in self.encodes.items()},
            {name: count - before.decodes.get(name, 0) for name, count in self.decodes.items()},
        )


@dataclass(frozen=True, slots=True)
class Simulated:
    """A running cluster.

    Attributes:
        server: its HTTP server.
        directory: directory of its engines.
    """

    server: Server
    directory: Path

    @property
    def done(self) -> BatchResult:
        """Work done so far."""
        texts = {file.name: file.read_bytes() for file in self.directory.glob(_DONE)}
        return BatchResult(
            {name: text.count(b"e") for name, text in texts.items()},
            {name: text.count(b"d") for name, text in texts.items()},
        )

    def cost(self, costs: Costs) -> None:
        """Change the costs of future requests.

        Args:
            costs: new costs.
        """
        costs.write(self.directory)


@contextmanager
def simulated_cluster(replicas: int, costs: Costs, router: Router = "ring") -> Iterator[Simulated]:
    """Run `inference-server serve --cluster` with simulated engines.

    Args:
        replicas: number of SAM 2 replicas.
        costs: simulated costs.
        router: router of requests to replicas. Default: `ring`.
    """
    with TemporaryDirectory() as name:
        directory = Path(name)
        costs.write(directory)
        arguments = ["-m", "benchmarks.simulated", "--directory", name, "--router", router]
        environment = {
            "INFERENCE_AUTH": "off",
            "INFERENCE_PORT": "0",
            "INFERENCE_DEVICE": "cpu",
            "INFERENCE_LOG_LEVEL": "warning",
            "INFERENCE_LOG_FORMAT": "text",
            "INFERENCE_PRELOAD": f"sam2:{VERSION}",
            "INFERENCE_CLUSTER_VISUAL_REPLICAS": str(replicas),
        }
        label = f"cluster of {replicas}, {router}"
        with process(arguments, label=label, environment=environment) as server:
            yield Simulated(server, directory)


@click.command()
@click.option(
    "--directory", type=click.Path(path_type=Path), required=True, help="Directory of the engines."
)
@click.option("--router", type=click.Choice(["ring", "default"]), required=True)
def main(directory: Path, router: Router) -> None:
    """Serve with settings from the environment."""
    from inference_server.cli.cluster import serve_on_cluster
    from inference_server.cluster import launcher as running
    from inference_server.cluster.deployments import ROUTER, build

    registry = partial(SimulatedModels, directory=directory)
    running.build = partial(  # type: ignore[attr-defined]
        build, registry=registry, router=ROUTER if router == "ring" else _DEFAULT_ROUTER
    )
    serve_on_cluster(Settings(), click.echo, lambda url: click.echo(f"on {url}"))


if __name__ == "__main__":
    # Replicas import the classes by module name, which must not be `__main__`.
    from benchmarks import simulated

    simulated.main()
