"""Who works on jobs on this machine, and whether they still live.

Each process holds a lock on a file of its own beside the SQLite database. The kernel drops the lock
when the process dies, however it dies, so that others need not wait for its leases to end.
PostgreSQL's processes may be on other machines: there the leases alone count.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks: the leases alone count
    fcntl = None  # type: ignore[assignment]


class WorkerLocks:
    """The locks of processes.

    Args:
        directory: with the files; None where only leases count.

    Attributes:
        name: of this process.
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
            # Another process may have taken it for a dead one's before it was locked.
            if _is_at(lock, file):
                return lock
            os.close(lock)

    def is_dead(self, name: str) -> bool:
        """Whether an owner has certainly died; its file is then removed."""
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
                # If not, it was removed meanwhile, and its owner, if it just began, has another.
                if _is_at(lock, file):
                    file.unlink()
                    return True
            except OSError:
                return False
            finally:
                os.close(lock)

    def sweep(self) -> None:
        """Remove the files of those who died without a job."""
        if self._directory is not None:
            for file in self._directory.iterdir():
                self.is_dead(file.name)

    def close(self) -> None:
        """Give up this process's lock."""
        if self._directory is not None:
            (self._directory / self.name).unlink(missing_ok=True)
            os.close(self._lock)
            self._directory = None


def _is_at(lock: int, file: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(lock), file.stat())
    except FileNotFoundError:
        return False
