"""Slots for requests that segment rasters by windows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from inference_server.errors import CapacityError

_RETRY_AFTER = 30.0
"""Seconds after which a client may try again: such requests take minutes."""


class RasterSlots:
    """Limits the requests in progress that segment rasters by windows. For the event loop only.

    Each takes temporary storage for minutes.

    Args:
        capacity: maximum number of such requests in progress.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._taken = 0

    def __len__(self) -> int:
        """Number of such requests in progress."""
        return self._taken

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Take a slot until the context ends.

        Raises:
            CapacityError: all slots are taken.
        """
        if self._taken >= self._capacity:
            raise CapacityError(
                f"{self._capacity} requests that segment rasters by windows are in progress. Try "
                "again, submit the raster as a job, or raise INFERENCE_MAX_RASTER_REQUESTS.",
                _RETRY_AFTER,
                full="rasters",
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
