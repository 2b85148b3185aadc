"""File locks that tell which worker processes on this machine have crashed.

Each process locks a file of its own beside the SQLite database. The kernel releases the lock when
the process ends for any reason, so that other processes can requeue its jobs before its leases
expire. Processes that use PostgreSQL may be on other machines, so only leases count there.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: only leases count
    fcntl = None  # type: ignore[assignment]

_REMEMBERED = 1000
"""Number of dead processes to remember."""


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
        # Whose files this process has removed. A few: their jobs are requeued within seconds.
        self._dead: deque[str] = deque(maxlen=_REMEMBERED)
        self.keep()

    @property
    def _own(self) -> Path:
        assert self._directory is not None  # noqa: S101 - its callers have checked that
        return self._directory / self.name

    def keep(self) -> None:
        """Lock this process's file again if it, or the directory, was removed."""
        if self._directory is None or (self._lock >= 0 and _is_at(self._lock, self._own)):
            return
        # Not the parents: a data directory that is missing is not to be replaced by an empty one.
        self._directory.mkdir(mode=0o700, exist_ok=True)
        lock = self._locked(self._own)
        if lock != self._lock and self._lock >= 0:
            os.close(self._lock)
        self._lock = lock

    def _locked(self, file: Path) -> int:
        while True:
            lock = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
            # A directory that was away may be back by now, with the file that this process has
            # locked already: then it would wait for itself.
            if self._lock >= 0 and os.path.samestat(os.fstat(lock), os.fstat(self._lock)):
                os.close(lock)
                return self._lock
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Before it was locked, another process may have removed it as a crashed process's.
            if _is_at(lock, file):
                return lock
            os.close(lock)

    def is_dead(self, name: str) -> bool:
        """Check whether a process has certainly ended, and remove its lock file if so.

        A file that somebody else removed proves nothing: then only the leases count.

        Args:
            name: name of the process, from a job that it claimed.

        Returns:
            False if the process is running, or if only leases count.
        """
        if self._directory is None or name == self.name:
            return False
        if name in self._dead:
            return True
        file = self._directory / name
        while True:
            try:
                lock = os.open(file, os.O_RDWR)
            except FileNotFoundError:
                return False
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Otherwise the file was replaced meanwhile: a starting process created another.
                if _is_at(lock, file):
                    file.unlink()
                    self._dead.append(name)
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
            self._own.unlink(missing_ok=True)
            os.close(self._lock)
            self._directory = None


def _is_at(lock: int, file: Path) -> bool:
    """Check whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(lock), file.stat())
    except FileNotFoundError:
        return False
