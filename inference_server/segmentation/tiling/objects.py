"""The objects of a raster, in a temporary file."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from inference_server.errors import ImageTooLargeError, StorageError
from inference_server.images.file_bytes import write_whole
from inference_server.segmentation.tiling.records import pack, unpack
from inference_server.segmentation.types import Instance
from inference_server.settings import MiB, Settings


class TiledObjects:
    """Objects of a raster on disk: in memory is only where each of them lies.

    A context manager: the file has no name, so the system deletes it even if the process is killed.
    Objects are added first and read afterwards, from any thread, one call at a time.

    Args:
        size: (height, width) of the raster in pixels.
        max_bytes: maximum size of the file.
        directory: directory of the file. Default: that of temporary files.

    Attributes:
        size: (height, width) of the raster in pixels.
        nbytes: size of the file.
    """

    def __init__(
        self, size: tuple[int, int], *, max_bytes: int, directory: Path | None = None
    ) -> None:
        self.size = size
        self.nbytes = 0
        self._max_bytes = max_bytes
        # Without a buffer: what `add` could not write must not be written again by `close`.
        self._file = TemporaryFile(buffering=0, dir=directory)  # noqa: SIM115 - closed by `close`
        self._lock = threading.Lock()
        self._places = array("q")  # offset, bytes, and the box x0, y0, x1, y1 of each object
        self._order: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, settings: Settings, size: tuple[int, int]) -> TiledObjects:
        """Create the file of a request.

        Args:
            settings: maximum size of the file.
            size: (height, width) of the raster in pixels.
        """
        return cls(size, max_bytes=settings.tile_objects_mb * MiB)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete the file."""
        with self._lock, suppress(OSError):
            self._file.close()

    def __len__(self) -> int:
        return len(self._places) // 6

    def add(self, instance: Instance) -> None:
        """Append an object.

        Args:
            instance: the object, with a mask of the raster's size.

        Raises:
            ImageTooLargeError: the file would exceed its limit.
            StorageError: the disk is full.
        """
        data = pack(instance)
        if self.nbytes + len(data) > self._max_bytes:
            raise ImageTooLargeError(
                f"The objects of this raster need more than {self._max_bytes // MiB} MiB of "
                "temporary storage. Send a part of the raster, or raise INFERENCE_TILE_OBJECTS_MB."
            )
        with self._lock:
            try:
                self._file.seek(self.nbytes)
                write_whole(self._file, data)
            except OSError as error:
                raise StorageError(f"Temporary storage cannot be written: {error}") from error
            self._places.extend((self.nbytes, len(data), *instance.mask.box))
            self.nbytes += len(data)
            self._order = None

    def __iter__(self) -> Iterator[Instance]:
        """The objects by their first row, then column."""
        for place in self._places_in_order():
            yield self._read(place)

    def __getitem__(self, number: int) -> Instance:
        """The object with a number, counted from 0 in the order of iteration."""
        return self._read(self._places_in_order()[number])

    def touching(self, rows: range) -> Iterator[tuple[int, Instance]]:
        """The objects whose boxes have any of these rows, with their numbers, in order.

        Args:
            rows: consecutive rows of the raster.

        Yields:
            The number of an object, counted from 0 in the order of iteration, and the object.
        """
        places = self._places_in_order()
        stop = np.searchsorted(places[:, 3], rows.stop)
        for number in np.flatnonzero(places[:stop, 5] > rows.start):
            yield int(number), self._read(places[number])

    def _places_in_order(self) -> NDArray[np.int64]:
        """Offset, bytes and box of each object, int64 [n, 6], by first row, then column."""
        if self._order is None:
            places = np.array(self._places, np.int64).reshape(-1, 6)
            self._order = places[np.lexsort((places[:, 2], places[:, 3]))]
        return self._order

    def _read(self, place: NDArray[np.int64]) -> Instance:
        with self._lock:
            self._file.seek(int(place[0]))
            data = self._file.read(int(place[1]))
        return unpack(data, self.size)
