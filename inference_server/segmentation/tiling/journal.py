"""Windows that are done, in a file, so that an interrupted run continues where it was.

The file begins with the digest of what the run is; the file of another run is overwritten. Then
comes a record per window, in order. A record that was cut off, by a crash or a full disk, is
removed.
"""

from __future__ import annotations

import hashlib
import struct
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from inference_server.errors import ImageTooLargeError, StorageError
from inference_server.segmentation.tiling.grid import Grid
from inference_server.segmentation.tiling.records import pack, unpack
from inference_server.segmentation.types import Instance
from inference_server.settings import MiB

_RECORD = struct.Struct("<QIi")
"""Bytes, checksum and number of instances of a window; -1 for a window without data."""

_LENGTH = struct.Struct("<Q")
_VERSION = b"windows 1\n"


class WindowJournal:
    """The windows of one run that are done, in order. A context manager.

    Used from any thread, also concurrently, by one process.

    Args:
        path: the file; created if it does not exist.
        identity: what the run is, besides its grid: the raster's digest, the model and the prompts.
        grid: the windows.
        max_bytes: maximum size of the file.

    Raises:
        StorageError: the file cannot be read or written.
    """

    def __init__(self, path: Path, identity: str, grid: Grid, *, max_bytes: int) -> None:
        self._grid = grid
        self._max_bytes = max_bytes
        self._places: list[tuple[int, int, int]] = []
        self._lock = threading.Lock()  # of the file's position
        named = _VERSION + hashlib.sha256(f"{identity}\n{grid}".encode()).digest()
        try:
            path.touch()
            self._file = path.open("r+b")
            if self._file.read(len(named)) != named:
                self._file.seek(0)
                self._file.truncate()
                self._file.write(named)
                self._file.flush()
            self._end = len(named)
            self._scan()
        except OSError as error:
            raise StorageError(f"The journal {path.name} cannot be used: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, index: int) -> bool:
        """Whether a window is done."""
        return index < len(self._places)

    def close(self) -> None:
        """Close the file; it stays."""
        with suppress(OSError):  # bytes that `add` could not write are still in the buffer
            self._file.close()

    def read(self, index: int) -> list[Instance] | None:
        """The instances of a window that is done, in the window; None if it has no data.

        Args:
            index: number of the window.
        """
        offset, length, count = self._places[index]
        if count < 0:
            return None
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(length)
        size = self._grid[index].size
        found, at = [], 0
        for _ in range(count):
            (part,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
            found.append(unpack(data[at : at + part], size))
            at += part
        return found

    def add(self, index: int, found: Sequence[Instance] | None) -> None:
        """Record the next window; do nothing if it is recorded.

        Args:
            index: number of the window.
            found: its instances, in the window; None if it has no data.

        Raises:
            ImageTooLargeError: the file would exceed its limit.
            StorageError: the disk is full.
        """
        if index in self:
            return
        parts = [pack(instance) for instance in found or ()]
        data = b"".join(_LENGTH.pack(len(part)) + part for part in parts)
        if self._end + _RECORD.size + len(data) > self._max_bytes:
            raise ImageTooLargeError(
                f"The windows of this raster need more than {self._max_bytes // MiB} MiB in the "
                "journal. Send a part of the raster, or raise INFERENCE_TILE_OBJECTS_MB."
            )
        count = -1 if found is None else len(parts)
        try:
            with self._lock:
                self._file.seek(self._end)
                self._file.write(_RECORD.pack(len(data), zlib.crc32(data), count) + data)
                self._file.flush()
        except OSError as error:
            raise StorageError(f"The journal cannot be written: {error}") from error
        self._places.append((self._end + _RECORD.size, len(data), count))
        self._end += _RECORD.size + len(data)

    def _scan(self) -> None:
        """Find the records, and cut off what follows the last complete one."""
        while len(self._places) < len(self._grid):
            head = self._file.read(_RECORD.size)
            if len(head) < _RECORD.size:
                break
            length, checksum, count = _RECORD.unpack(head)
            if length > self._max_bytes:
                break
            data = self._file.read(length)
            if len(data) < length or zlib.crc32(data) != checksum:
                break
            self._places.append((self._end + _RECORD.size, length, count))
            self._end += _RECORD.size + length
        self._file.truncate(self._end)
