"""Files that are read in small pieces, wherever these lie.

Parsers of file structures index them like `bytes`. A file of gigabytes is not mapped into memory:
the process would be killed if another one cut the file off.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import gettempdir
from typing import IO, Protocol

from inference_server.errors import StorageError
from inference_server.executor import stop_if_cancelled

logger = logging.getLogger(__name__)

_PIECE = 2**20

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""`errno` values of a full disk, an exhausted quota and a file that reached its size limit."""


class Bytes(Protocol):
    """A sequence of bytes that can be sliced; `bytes` or `FileBytes`."""

    def __len__(self) -> int:
        """The number of bytes."""
        ...

    def __getitem__(self, place: slice, /) -> bytes:
        """A part, as short as `bytes` makes it beyond the end."""
        ...


class FileBytes:
    """The bytes of an open file, read when they are asked for.

    It has a descriptor of its own, so the file may be closed or deleted meanwhile.

    Args:
        file: an open file with a descriptor. What was written to it must be complete.
    """

    def __init__(self, file: IO[bytes]) -> None:
        file.flush()
        # Closed when this object is collected, at the latest.
        self._file = os.fdopen(os.dup(file.fileno()), "rb", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size

    def __len__(self) -> int:
        """The number of bytes when the file was opened."""
        return self._size

    def __getitem__(self, place: slice, /) -> bytes:
        """Read a part; fewer bytes beyond the end."""
        start, stop, step = place.indices(self._size)
        if step != 1:
            raise ValueError("a file has no strides")
        pieces = []
        while start < stop:
            piece = os.pread(self._file.fileno(), min(stop - start, _PIECE), start)
            if not piece:  # another process has cut the file off
                break
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)

    @property
    def path(self) -> str:
        """A path of the open file, whether or not it still has a name."""
        folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
        return f"{folder}/{self._file.fileno()}"

    def close(self) -> None:
        """Close the file; repeatedly if you like."""
        self._file.close()


def sha256(data: Bytes) -> str:
    """Hash a file of any size, in a worker thread; returns hexadecimal digits.

    Args:
        data: the file.
    """
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    found = hashlib.sha256()
    for start in range(0, len(data), _PIECE):
        stop_if_cancelled()
        found.update(data[start : start + _PIECE])
    return found.hexdigest()


def write_whole(file: IO[bytes], data: bytes) -> None:
    """Write all bytes; a file without a buffer may take only some of them at once.

    Args:
        file: the file.
        data: the bytes.
    """
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def write_all(file: IO[bytes], data: bytes, setting: str) -> None:
    """Write all bytes to a temporary file.

    Args:
        file: a temporary file.
        data: the bytes.
        setting: setting that bounds the temporary files.

    Raises:
        StorageError: the file cannot grow.
    """
    with no_space_reported(setting):
        write_whole(file, data)


@contextmanager
def no_space_reported(setting: str) -> Iterator[None]:
    """Log a temporary file that cannot grow, and raise the error for it. Also a decorator.

    Args:
        setting: setting that bounds the temporary files.

    Raises:
        StorageError: a temporary file cannot grow.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        logger.error("No space for temporary files in %s: %s", gettempdir(), error.strerror)
        raise StorageError(
            "The server's temporary storage is full. Retry later; on the server, enlarge the "
            f"temporary storage, or lower {setting}."
        ) from None
