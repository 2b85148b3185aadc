"""Run `inference-server serve` in a separate process, and stop it in several ways."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.api.serving import ALICE, KEPT, TIMEOUT, Running, until
from tests.environment import clean_environment

ROOT = Path(__file__).parents[2]


class Process(Running):
    """A server in a process.

    Attributes:
        popen: The process.
        log: File with its output.
    """

    def __init__(self, directory: Path, options: Sequence[str] = (), **settings: object) -> None:
        used = {
            "api_keys": ALICE,
            "min_rate_window": TIMEOUT,
            "data_dir": directory / "data",
            "preload": "sam2:sam2-hiera-large",
            **settings,
        }
        environment = {f"INFERENCE_{name.upper()}": str(value) for name, value in used.items()}
        self.log = directory / "log"
        begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "inference_server.cli", "serve", "--port", "0", *options],
                cwd=ROOT,
                env={**clean_environment(), **environment},
                stderr=log,
            )

        def address() -> re.Match[str] | None:
            assert self.popen.poll() is None, self.log.read_text()
            # With the next character, because the line may be incomplete.
            return re.search(r" on (http://[^\s\"]+)[\s\"]", self.log.read_text()[begin:])

        try:
            until(address, TIMEOUT, 0.05)
            found = address()
            assert found
        except BaseException:
            self.popen.kill()
            self.popen.wait()
            raise
        super().__init__(found[1], httpx.Client(base_url=found[1], timeout=TIMEOUT, limits=KEPT))

    def until_listening(self) -> None:
        """Wait until requests are answered."""

        def listens() -> bool:
            assert self.popen.poll() is None, self.log.read_text()
            try:
                return self.http.get("/livez").is_success
            except httpx.TransportError:
                return False

        until(listens, TIMEOUT, 0.05)

    def signal_process(self, how: signal.Signals) -> None:
        """Send a signal."""
        self.popen.send_signal(how)

    def ended(self) -> int:
        """Wait for the end of the process, and return its exit status."""
        return self.popen.wait(TIMEOUT)


@contextmanager
def process(
    directory: Path, *, ready: bool = True, options: Sequence[str] = (), **settings: object
) -> Iterator[Process]:
    """Run a server, and kill it at the end if it still runs.

    Args:
        directory: Directory for its data and its log.
        ready: Wait until its models are loaded.
        options: Options of `serve`.
        settings: Settings that differ from the defaults.
    """
    running = Process(directory, options, **settings)
    try:
        running.until_listening()
        if ready:
            running.until_ready()
        yield running
    finally:
        running.http.close()
        running.popen.kill()
        running.popen.wait()


class PartialRequest(socket.socket):
    """A request that the server has admitted, and whose body is incomplete until `finish`.

    Args:
        server: The server.
        path: Path of the endpoint.
        body: Body of the request.
    """

    def __init__(self, server: Running, path: str, body: Mapping[str, Any]) -> None:
        super().__init__()
        host, port = server.url.removeprefix("http://").split(":")
        self.settimeout(TIMEOUT)
        self.connect((host, int(port)))
        self._body = json.dumps(body).encode()
        lines = (
            *(f"POST {path} HTTP/1.1", "host: x", f"x-api-key: {ALICE}"),
            *(f"content-length: {len(self._body)}", "expect: 100-continue"),
        )
        self.sendall("\r\n".join([*lines, "", ""]).encode())
        self.sendall(self._body[:10])
        # The server requests the body when it has admitted the request.
        assert self.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"

    def finish(self) -> bytes:
        """Send the rest of the body, and return the first bytes of the response."""
        self.sendall(self._body[10:])
        return self.recv(1000)


class PausedImages(socket.socket):
    """A web server of one image, whose requests wait until the test responds."""

    def __init__(self) -> None:
        super().__init__()
        self.bind(("127.0.0.1", 0))
        self.listen()
        self.settimeout(TIMEOUT)
        self.url = f"http://127.0.0.1:{self.getsockname()[1]}/picture.png"

    def accept_request(self) -> socket.socket:
        """Wait for a request for the image, and return its connection."""
        return self.accept()[0]


def send_image(image: bytes, request: socket.socket) -> None:
    """Respond to a request with an image."""
    with request:
        request.settimeout(TIMEOUT)
        received = b""
        while b"\r\n\r\n" not in received:
            received += request.recv(1000)
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(image)}\r\n\r\n"
        request.sendall(head.encode() + image)
