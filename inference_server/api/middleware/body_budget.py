"""A byte budget for the bodies of all requests in progress together, and the pace of each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Self

from inference_server.api.content_encoding import BodyDecoder
from inference_server.errors import CapacityError, InferenceServerError, SlowBodyError
from inference_server.settings import MiB, Settings


@dataclass(frozen=True, slots=True)
class BodyPace:
    """How fast a body must arrive.

    Attributes:
        timeout: seconds within which it must arrive.
        min_rate: bytes per second, at least.
        window: seconds over which `min_rate` is measured.
    """

    timeout: float
    min_rate: float
    window: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the pace that the settings ask for."""
        rate = settings.min_rate_kb * 1024
        return cls(settings.body_timeout, rate, settings.min_rate_window)


class BodyBudget:
    """A byte budget that all requests in progress share. Used from the event loop only.

    Bodies of requests that have not shown a valid API key get a share of it only, so that strangers
    cannot use it up. Those of one tenant may get a share of it, too.

    Args:
        megabytes: maximum size of all bodies together, in MiB.
        keyless_share: fraction of it for requests that have not shown a valid key.
        pace: how fast each body must arrive.
        setting: environment variable that sets `megabytes`, for the error message.
        tenant_megabytes: maximum size of one tenant's bodies together, in MiB; default `megabytes`.
        tenant_setting: environment variable that sets it.

    Attributes:
        nbytes: bytes reserved now.
        keyless: bytes of them that requests without a valid key have reserved.
        pace: how fast each body must arrive.
    """

    def __init__(
        self,
        megabytes: int,
        keyless_share: float,
        pace: BodyPace,
        setting: str,
        tenant_megabytes: int | None = None,
        tenant_setting: str = "",
    ) -> None:
        self._tenants: Counter[str] = Counter()
        self._max_of_tenant = (tenant_megabytes or megabytes) * MiB
        self._tenant_setting = tenant_setting
        self._max_bytes = megabytes * MiB
        self._max_keyless = round(megabytes * MiB * keyless_share)
        self._setting = setting
        self.pace = pace
        self.nbytes = 0
        self.keyless = 0

    @asynccontextmanager
    async def reserve_for(
        self,
        stream: AsyncGenerator[bytes, None],
        limit: int,
        over: InferenceServerError,
        *,
        has_key: bool,
        tenant: str | None = None,
        decoder: BodyDecoder | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[BodyReservation]:
        """Open a reservation for one body; its bytes are released when the context ends.

        Args:
            stream: chunks of the body.
            limit: maximum size of the body in bytes, as sent and decoded.
            over: error to raise if the body is larger.
            has_key: whether the request has shown a valid key.
            tenant: owner of that key. Default: no tenant's share counts.
            decoder: decodes the body. Default: it is not compressed.
            timeout: seconds within which the body must arrive. Default: those of `pace`.
        """
        pace = self.pace if timeout is None else replace(self.pace, timeout=timeout)
        reservation = BodyReservation(self, stream, limit, over, has_key, tenant, decoder, pace)
        try:
            yield reservation
        finally:
            reservation.release()

    def reserve(self, size: int, *, has_key: bool, tenant: str | None = None) -> None:
        """Reserve bytes.

        Args:
            size: number of bytes.
            has_key: whether the request has shown a valid key.
            tenant: owner of that key. Default: no tenant's share counts.

        Raises:
            CapacityError: If fewer bytes are left.
        """
        if self.nbytes + size > self._max_bytes:
            raise CapacityError(
                "Other requests use up the server's memory for request bodies. Try again, or raise "
                f"{self._setting}.",
                full="bodies",
            )
        if not has_key and self.keyless + size > self._max_keyless:
            raise CapacityError(
                "Requests without an API key in their URL or headers use up their share of the "
                "server's memory for request bodies. Send the key in a header, such as "
                f"`x-api-key`, try again, or raise {self._setting} or "
                "INFERENCE_KEYLESS_BODY_PERCENT.",
                full="keyless_bodies",
            )
        if tenant is not None:
            self.share(size, tenant)
        if not has_key:
            self.keyless += size
        self.nbytes += size

    def share(self, size: int, tenant: str) -> None:
        """Count bytes as those of a tenant, in all of which they are counted elsewhere.

        Args:
            size: number of bytes; negative to give them back.
            tenant: the tenant.

        Raises:
            CapacityError: If the tenant has fewer bytes left.
        """
        if size > 0 and self._tenants[tenant] + size > self._max_of_tenant:
            raise CapacityError(
                "Other uploads with this API key use up its share of the server's storage for "
                f"uploads. Try again, send fewer at a time, or raise {self._tenant_setting}.",
                full="tenant_bodies",
            )
        self._tenants[tenant] += size
        if not self._tenants[tenant]:
            del self._tenants[tenant]


class BodyReservation:
    """The bytes that one body has reserved; made by `BodyBudget.reserve_for`.

    Attributes:
        nbytes: bytes that have arrived, decoded, and are reserved.
        has_key: whether the request has shown a valid key.
        is_compressed: whether the body is compressed.
    """

    def __init__(
        self,
        budget: BodyBudget,
        stream: AsyncGenerator[bytes, None],
        limit: int,
        over: InferenceServerError,
        has_key: bool,
        tenant: str | None,
        decoder: BodyDecoder | None,
        pace: BodyPace,
    ) -> None:
        self._tenant = tenant
        self._pace = pace
        self._budget = budget
        self._stream = stream
        self._limit = limit
        self._over = over
        self._decoder = decoder
        self.nbytes = 0
        self.has_key = has_key
        self.is_compressed = decoder is not None

    def show_key(self, tenant: str | None = None) -> None:
        """Leave the share of requests without a key: a valid one has been found in the body.

        Args:
            tenant: owner of the key. Default: no tenant's share counts.

        Raises:
            CapacityError: If the tenant has fewer bytes left.
        """
        if tenant is not None and self._tenant is None:
            self._budget.share(self.nbytes, tenant)
            self._tenant = tenant
        if not self.has_key:
            self.has_key = True
            self._budget.keyless -= self.nbytes

    def release(self) -> None:
        """Give back the bytes."""
        self._budget.nbytes -= self.nbytes
        if not self.has_key:
            self._budget.keyless -= self.nbytes
        if self._tenant is not None:
            self._budget.share(-self.nbytes, self._tenant)
        self.nbytes = 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Receive and decode the body, reserving the bytes of each chunk before yielding it.

        Raises:
            InferenceServerError: If the body is larger than its limit.
            CapacityError: If the budget is used up.
            SlowBodyError: If the body does not arrive in time, or too slowly.
            PromptError: If the compressed body is damaged.
            RequestError: If it has too many gzip members.
        """
        received = 0
        async for chunk in self._received():
            received += len(chunk)
            if received > self._limit:
                raise self._over
            if self._decoder is None:
                self._reserve(chunk)
                yield chunk
                continue
            async for piece in self._decoder.pieces(chunk):
                self._reserve(piece)
                yield piece
        if self._decoder is not None and received:
            self._decoder.finish()

    def _reserve(self, chunk: bytes) -> None:
        if self.nbytes + len(chunk) > self._limit:
            raise self._over
        self._budget.reserve(len(chunk), has_key=self.has_key, tenant=self._tenant)
        self.nbytes += len(chunk)

    async def _received(self) -> AsyncGenerator[bytes, None]:
        """Receive the body, at the pace that its budget asks for."""
        pace, clock = self._pace, asyncio.get_running_loop().time
        deadline = clock() + pace.timeout
        quota = max(1, round(pace.min_rate * pace.window))
        # The client's time only: the server may be slow to store what has arrived.
        arrived, patience = 0, pace.window
        while True:
            begin = clock()
            try:
                async with asyncio.timeout_at(min(deadline, begin + patience)):
                    chunk = await anext(self._stream, None)
            except TimeoutError:
                raise self._too_slow(within=deadline <= begin + patience) from None
            if chunk is None:
                return
            patience -= clock() - begin
            arrived += len(chunk)
            if arrived >= quota:
                arrived, patience = 0, pace.window
            yield chunk

    def _too_slow(self, *, within: bool) -> SlowBodyError:
        pace = self._pace
        if within:
            return SlowBodyError(
                f"The request body did not arrive within {pace.timeout:g} seconds. Send a smaller "
                "image or its URL, or raise INFERENCE_BODY_TIMEOUT."
            )
        return SlowBodyError(
            f"The request body arrives slower than {pace.min_rate / 1024:g} KiB/s, measured over "
            f"{pace.window:g} seconds. Send it faster, send a smaller image or its URL, or lower "
            "INFERENCE_MIN_RATE_KB."
        )
