"""Waiting for conditions in tests."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(done: Callable[[], object], seconds: float = 300.0, pause: float = 0.02) -> None:
    """Wait until a condition holds, and fail if it does not within some seconds."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "the condition did not hold in time"
        time.sleep(pause)
