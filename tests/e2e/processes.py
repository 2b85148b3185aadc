"""`inference-server serve` in a process of its own, to be stopped in every way."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.environment import clean_environment
from tests.http.serving import ALICE, TIMEOUT, Running, until

ROOT = Path(__file__).parents[2]


class Process(Running):
    """A server in a process.

    Attributes:
        popen: the process.
        log: what it prints.
    """

    def __init__(self, directory: Path, options: Sequence[str] = (), **settings: object) -> None:
        used = {
            "api_keys": ALICE,
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
            return re.search(r" on (http://[^\s\"]+)", self.log.read_text()[begin:])

        until(address, TIMEOUT, 0.05)
        found = address()
        assert found
        super().__init__(found[1], httpx.Client(base_url=found[1], timeout=TIMEOUT))

    def until_listening(self) -> None:
        """Waits until requests are answered."""

        def listens() -> bool:
            assert self.popen.poll() is None, self.log.read_text()
            try:
                return self.http.get("/livez").is_success
            except httpx.TransportError:
                return False

        until(listens, TIMEOUT, 0.05)

    def tell(self, how: signal.Signals) -> None:
        """Sends a signal."""
        self.popen.send_signal(how)

    def ended(self) -> int:
        """Waits for the process's end: its exit status."""
        return self.popen.wait(TIMEOUT)


@contextmanager
def process(
    directory: Path, *, ready: bool = True, options: Sequence[str] = (), **settings: object
) -> Iterator[Process]:
    """Runs a server, which is killed in the end if it still lives.

    Args:
        directory: for its data and its log.
        ready: wait until its models are loaded.
        options: of `serve`.
        settings: that differ from the defaults.
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
