"""The file of an SQLite database: creating it with private permissions, and telling whether it was
replaced.

An existing file is never opened here. Closing a file drops the locks that the whole process has on
it, whoever took them (section 2.2 of https://www.sqlite.org/howtocorrupt.html). Without its locks,
a process is invisible to others: the next one that closes the database takes itself for the last
and deletes the write-ahead log, and then each of the two goes on with a log of its own.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

Identity: TypeAlias = tuple[int, int]
"""Device and inode of a file."""

_creating = threading.Lock()
"""Held until a new file is closed, so that no other thread has locks on it by then."""


def create(path: Path) -> Identity:
    """Create an empty file for its owner only, if there is none.

    SQLite would create it with the permissions of the umask. It gives those of the database to the
    files beside it.

    Args:
        path: the file, in a directory that exists.

    Raises:
        OSError: it cannot be created.
    """
    with _creating:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        return _identity_of(os.stat(path))


def identity(path: Path) -> Identity | None:
    """The identity of a file; None if there is none.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be found out.
    """
    try:
        return _identity_of(os.stat(path))
    except FileNotFoundError:
        return None


def _identity_of(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino
