"""Closed-loop load: clients that send one request after another, and what they measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from benchmarks.serving import Server
from inference_server.bench.timing import Timing


@dataclass(slots=True)
class Load:
    """Measurements of clients.

    Attributes:
        latencies: latency of each request in seconds, by client, in order. Default: none.
        seconds: duration of the measurement. Default: 0.
    """

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def timing(self) -> Timing:
        """Statistics of the latencies."""
        return Timing.of(self.latencies)

    @property
    def throughput(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds


Bodies = Callable[[int, int], bytes]
"""Returns a request body for the number of the client and the number of its request, from 0."""


def closed_loop(
    server: Server, path: str, body: Bodies, *, clients: int, seconds: float, warmup: float = 0.0
) -> Load:
    """Measure clients that each send a request as soon as they have the previous response.

    Args:
        server: server to ask.
        path: path of all requests.
        body: returns the body of a request; called between requests, so it must be cheap.
        clients: number of clients; each is a thread with one connection.
        seconds: duration of the measurement.
        warmup: seconds before the measurement. Default: 0.

    Raises:
        RuntimeError: A response's status was not 200.
    """
    with Loop(server, path, body, clients=clients) as loop:
        time.sleep(warmup)
        return loop.measure(seconds)


class Loop:
    """Clients in a closed loop while the context is open; see `closed_loop`.

    Args:
        server: server to ask.
        path: path of all requests.
        body: returns the body of a request.
        clients: number of clients.
    """

    def __init__(self, server: Server, path: str, body: Bodies, *, clients: int) -> None:
        self._server = server
        self._path = path
        self._body = body
        self._stop = threading.Event()
        self._done: list[list[tuple[float, float]]] = [[] for _ in range(clients)]
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._errors and kind is None:
            raise self._errors[0]

    def _run(self, number: int) -> None:
        try:
            with self._server.client() as client:
                count = 0
                while not self._stop.is_set():
                    body = self._body(number, count)
                    begin = time.perf_counter()
                    client.post(self._path, body)
                    self._done[number].append((begin, time.perf_counter()))
                    count += 1
        except BaseException as error:
            self._errors.append(error)
            self._stop.set()

    def since(self, begin: float) -> Load:
        """Return the requests completed since a point in time.

        Args:
            begin: value of `time.perf_counter`.
        """
        now = time.perf_counter()
        finished = [pair for pairs in self._done for pair in list(pairs) if begin <= pair[1] <= now]
        return Load([end - start for start, end in finished], now - begin)

    def measure(self, seconds: float, *, least: int = 3) -> Load:
        """Measure for some time, and until enough requests have completed.

        Args:
            seconds: minimum duration.
            least: minimum number of completed requests. Default: 3.

        Raises:
            RuntimeError: A response's status was not 200.
        """
        begin = time.perf_counter()
        while True:
            failed = self._stop.wait(seconds if time.perf_counter() - begin < seconds else 0.1)
            if failed:
                raise RuntimeError("a client failed") from next(iter(self._errors), None)
            load = self.since(begin)
            if len(load.latencies) >= least:
                return load
