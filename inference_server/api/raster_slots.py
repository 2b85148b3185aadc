"""Slots for requests that segment rasters by windows."""

from __future__ import annotations

from collections import Counter
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
        per_tenant: maximum number of those of one tenant. Default: all.
    """

    def __init__(self, capacity: int, per_tenant: int | None = None) -> None:
        self._capacity = capacity
        self._per_tenant = capacity if per_tenant is None else per_tenant
        self._taken: Counter[str] = Counter()

    def __len__(self) -> int:
        """Number of such requests in progress."""
        return self._taken.total()

    @contextmanager
    def enter(self, tenant: str) -> Iterator[None]:
        """Take a slot until the context ends.

        Args:
            tenant: owner of the request.

        Raises:
            CapacityError: all slots are taken, or all those that the tenant may take.
        """
        if self._taken[tenant] >= self._per_tenant:
            raise CapacityError(
                f"{self._per_tenant} requests of this API key that segment rasters by windows are "
                "in progress. Try again, submit the raster as a job, or raise "
                "INFERENCE_MAX_RASTER_REQUESTS_PER_KEY.",
                _RETRY_AFTER,
                full="rasters",
            )
        if len(self) >= self._capacity:
            raise CapacityError(
                f"{self._capacity} requests that segment rasters by windows are in progress. Try "
                "again, submit the raster as a job, or raise INFERENCE_MAX_RASTER_REQUESTS.",
                _RETRY_AFTER,
                full="rasters",
            )
        self._taken[tenant] += 1
        try:
            yield
        finally:
            self._taken[tenant] -= 1
            if not self._taken[tenant]:
                del self._taken[tenant]
