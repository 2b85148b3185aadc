"""A byte budget for the bodies of all requests in progress together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from inference_server.errors import CapacityError, InferenceServerError, SlowBodyError


class BodyBudget:
    """A byte budget that all requests in progress share. Used from the event loop only.

    Args:
        max_bytes: maximum size of all bodies together.
        timeout: seconds within which a body must arrive.
        setting: environment variable that sets `max_bytes`, for the error message.

    Attributes:
        nbytes: bytes reserved now.
    """

    def __init__(self, max_bytes: int, timeout: float, setting: str) -> None:
        self._max_bytes = max_bytes
        self._setting = setting
        self.timeout = timeout
        self.nbytes = 0

    @asynccontextmanager
    async def reserve_for(
        self, stream: AsyncGenerator[bytes, None], limit: int, over: InferenceServerError
    ) -> AsyncIterator[BodyReservation]:
        """Open a reservation for one body; its bytes are released when the context ends.

        Args:
            stream: chunks of the body.
            limit: maximum size of the body in bytes.
            over: error to raise if the body is larger.
        """
        reservation = BodyReservation(self, stream, limit, over)
        try:
            yield reservation
        finally:
            self.nbytes -= reservation.nbytes

    def reserve(self, size: int) -> None:
        """Reserve bytes.

        Args:
            size: number of bytes.

        Raises:
            CapacityError: If fewer bytes are left.
        """
        if self.nbytes + size > self._max_bytes:
            raise CapacityError(
                "Other requests use up the server's memory for request bodies. Try again, or raise "
                f"{self._setting}.",
                full="bodies",
            )
        self.nbytes += size


class BodyReservation:
    """The bytes that one body has reserved; made by `BodyBudget.reserve_for`.

    Attributes:
        nbytes: bytes that have arrived and are reserved.
    """

    def __init__(
        self,
        budget: BodyBudget,
        stream: AsyncGenerator[bytes, None],
        limit: int,
        over: InferenceServerError,
    ) -> None:
        self._budget = budget
        self._stream = stream
        self._limit = limit
        self._over = over
        self.nbytes = 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Receive the body, reserving the bytes of each chunk before yielding it.

        Raises:
            InferenceServerError: If the body is larger than its limit.
            CapacityError: If the budget is used up.
            SlowBodyError: If the body does not arrive in time.
        """
        seconds = self._budget.timeout
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    chunk = await anext(self._stream, None)
            except TimeoutError:
                raise SlowBodyError(
                    f"The request body did not arrive within {seconds:g} seconds. Send a smaller "
                    "image or its URL, or raise INFERENCE_BODY_TIMEOUT."
                ) from None
            if chunk is None:
                return
            if self.nbytes + len(chunk) > self._limit:
                raise self._over
            self._budget.reserve(len(chunk))
            self.nbytes += len(chunk)
            yield chunk
