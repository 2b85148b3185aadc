"""Server processes of tests end with their test, in whatever way it fails."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import processes


@pytest.mark.parametrize("error", [AssertionError, KeyboardInterrupt])
def test_a_server_that_does_not_start_in_time_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def noting(*arguments: Any, **named: Any) -> subprocess.Popen[bytes]:
        started.append(start(*arguments, **named))
        return started[-1]

    def too_late(done: Callable[[], object], *_: float) -> None:
        assert not done()
        raise error

    monkeypatch.setattr(subprocess, "Popen", noting)
    monkeypatch.setattr(processes, "until", too_late)
    with pytest.raises(error), processes.process(tmp_path):
        raise AssertionError
    (server,) = started
    assert server.returncode == -9, "killed and reaped"
