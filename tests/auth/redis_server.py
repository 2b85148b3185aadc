"""A Redis server for the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.waiting import until


class Redis:
    """A Redis server that can be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            why = "Redis is not installed: apt-get install redis-server"
            if os.environ.get("CI"):
                pytest.fail(why)
            pytest.skip(why)
        self._command = [program, "--save", "", "--appendonly", "no", "--dir", str(directory)]
        self._process: subprocess.Popen[bytes] | None = None
        self._announced = False
        self._choose_port()

    def _choose_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it and wait until it listens.

        Another process may have taken the port since it was chosen. Before a test has been given
        the URL, another port is chosen then.
        """
        for _ in range(20):
            if self._started():
                self._announced = True
                return
            if not self._announced:
                self._choose_port()
        raise AssertionError("Redis does not start")

    def _started(self) -> bool:
        command = [*self._command, "--port", str(self._port), "--bind", "127.0.0.1"]
        process = self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(lambda: process.poll() is not None or self._listens())
        return process.poll() is None

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
