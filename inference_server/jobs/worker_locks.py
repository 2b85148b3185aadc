"""File locks that tell which worker processes on this machine have crashed.

Each process locks a file of its own beside the SQLite database. The kernel releases the lock when
the process ends for any reason, so that other processes can requeue its jobs before its leases
expire. Processes that use PostgreSQL may be on other machines, so only leases count there.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: only leases count
    fcntl = None  # type: ignore[assignment]


class WorkerLocks:
    """The lock of this process, and a check of other processes' locks.

    Args:
        directory: holds the lock files; None if only leases count.

    Attributes:
        name: random name of this process, under which it claims jobs.
    """

    def __init__(self, directory: Path | None) -> None:
        self.name = secrets.token_hex(16)
        self._directory = None if fcntl is None else directory
        self._lock = -1
        if self._directory is not None:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._lock = self._locked(self._directory / self.name)

    @staticmethod
    def _locked(file: Path) -> int:
        while True:
            lock = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Before it was locked, another process may have removed it as a crashed process's.
            if _is_at(lock, file):
                return lock
            os.close(lock)

    def is_dead(self, name: str) -> bool:
        """Check whether a process has certainly ended, and remove its lock file if so.

        Args:
            name: name of the process, from a job that it claimed.

        Returns:
            False if the process is running, or if only leases count.
        """
        if self._directory is None or name == self.name:
            return False
        file = self._directory / name
        while True:
            try:
                lock = os.open(file, os.O_RDWR)
            except FileNotFoundError:
                return True
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Otherwise the file was replaced meanwhile: a starting process created another.
                if _is_at(lock, file):
                    file.unlink()
                    return True
            except OSError:
                return False
            finally:
                os.close(lock)

    def sweep(self) -> None:
        """Remove the lock files of processes that ended without a job."""
        if self._directory is not None:
            for file in self._directory.iterdir():
                self.is_dead(file.name)

    def close(self) -> None:
        """Release this process's lock."""
        if self._directory is not None:
            (self._directory / self.name).unlink(missing_ok=True)
            os.close(self._lock)
            self._directory = None


def _is_at(lock: int, file: Path) -> bool:
    """Check whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(lock), file.stat())
    except FileNotFoundError:
        return False
