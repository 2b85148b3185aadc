"""Bytes of images and rasters being fetched: bounded per tenant and in all."""

from __future__ import annotations

from collections import Counter, deque

from inference_server.errors import CapacityError


class Shares:
    """A byte budget that tenants share; no tenant can take all of it.

    Bytes are taken in the event loop. They may be released in any thread, for example when the last
    reference to an image ends there.

    Args:
        max_bytes: Maximum bytes in use.
        tenant_max_bytes: Maximum bytes in use per tenant.
        setting: Setting of `max_bytes`; default that of images in memory.
        tenant_setting: Setting of `tenant_max_bytes`; default that of images in memory.
        what: What is used up, for error messages; default the memory for fetched images.
    """

    def __init__(
        self,
        max_bytes: int,
        tenant_max_bytes: int,
        *,
        setting: str = "INFERENCE_FETCH_MEMORY_MB",
        tenant_setting: str = "INFERENCE_FETCH_TENANT_MEMORY_MB",
        what: str = "memory for fetched images",
    ) -> None:
        self._setting = setting
        self._tenant_setting = tenant_setting
        self._what = what
        self._max_bytes = max_bytes
        self._tenant_max_bytes = tenant_max_bytes
        self._used: Counter[str] = Counter()
        # Not subtracted where they are released: that would need a lock, which a thread may hold
        # while the garbage collector runs another release in it.
        self._released: deque[tuple[str, int]] = deque()

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        self._settle()
        return self._used.total()

    def open(self, tenant: str) -> Share:
        """Begin to use bytes for one image of a tenant."""
        return Share(self, tenant)

    def take(self, tenant: str, size: int) -> None:
        """Take bytes.

        Args:
            tenant: Whose bytes they are.
            size: Number of bytes.

        Raises:
            CapacityError: The tenant, or all together, use too many already.
        """
        self._settle()
        if self._used[tenant] + size > self._tenant_max_bytes:
            raise self._full("This API key's", self._tenant_setting)
        if self._used.total() + size > self._max_bytes:
            raise self._full("All", self._setting)
        self._used[tenant] += size

    def _full(self, whose: str, setting: str) -> CapacityError:
        return CapacityError(
            f"{whose} requests with image URLs use up the server's {self._what}. Try again, send "
            f"fewer requests at a time, or raise {setting} on the server.",
            full="fetches",
        )

    def release(self, tenant: str, size: int) -> None:
        """Release bytes; safe in any thread."""
        self._released.append((tenant, size))

    def _settle(self) -> None:
        while self._released:
            tenant, size = self._released.popleft()
            self._used[tenant] -= size
            if not self._used[tenant]:
                del self._used[tenant]


class Share:
    """The bytes of one image; made by `Shares.open`.

    Attributes:
        nbytes: Bytes taken.
    """

    def __init__(self, shares: Shares, tenant: str) -> None:
        self._shares = shares
        self._tenant = tenant
        self.nbytes = 0

    def take(self, size: int) -> None:
        """Take more bytes; raises `CapacityError` if too many are in use."""
        self._shares.take(self._tenant, size)
        self.nbytes += size

    def release(self) -> None:
        """Release all bytes; safe in any thread, and repeatedly."""
        size, self.nbytes = self.nbytes, 0
        if size:
            self._shares.release(self._tenant, size)
