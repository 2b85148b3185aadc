"""A clock for leases and retention that does not jump when the system clock is set."""

from __future__ import annotations

import time
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SteadyClock:
    """Seconds since 1970, by the system clock when it began, and by the time since boot after that.

    All processes on a machine that have the same `state` read the same time. Where the system has
    no boot id (it is not Linux), the clock is the system clock.

    Args:
        state: what an earlier clock had as `state`; ignored if the machine was started since.

    Attributes:
        state: text that makes clocks in other processes equal to this one; empty if they cannot be.
    """

    def __init__(self, state: str = "") -> None:
        self.state = ""
        self._offset: float | None = None
        boot = boot_id()
        if not boot:
            return
        known, _, offset = state.partition(" ")
        self._offset = float(offset) if known == boot else time.time() - since_boot()
        self.state = f"{boot} {self._offset!r}"

    def now(self) -> float:
        """The current time in seconds since 1970."""
        return time.time() if self._offset is None else self._offset + since_boot()


def boot_id() -> str:
    """Random id that the system draws at each boot; empty if it has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def since_boot() -> float:
    """Seconds since the machine was started, equal in all processes; for systems with a boot id."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
