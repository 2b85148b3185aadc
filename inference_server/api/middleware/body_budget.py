"""A byte budget for the bodies of all requests in progress together, and the pace of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
    cannot use it up.

    Args:
        megabytes: maximum size of all bodies together, in MiB.
        keyless_share: fraction of it for requests that have not shown a valid key.
        pace: how fast each body must arrive.
        setting: environment variable that sets `megabytes`, for the error message.

    Attributes:
        nbytes: bytes reserved now.
        keyless: bytes of them that requests without a valid key have reserved.
        pace: how fast each body must arrive.
    """

    def __init__(self, megabytes: int, keyless_share: float, pace: BodyPace, setting: str) -> None:
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
        decoder: BodyDecoder | None = None,
    ) -> AsyncIterator[BodyReservation]:
        """Open a reservation for one body; its bytes are released when the context ends.

        Args:
            stream: chunks of the body.
            limit: maximum size of the body in bytes, as sent and decoded.
            over: error to raise if the body is larger.
            has_key: whether the request has shown a valid key.
            decoder: decodes the body. Default: it is not compressed.
        """
        reservation = BodyReservation(self, stream, limit, over, has_key, decoder)
        try:
            yield reservation
        finally:
            reservation.release()

    def reserve(self, size: int, *, has_key: bool) -> None:
        """Reserve bytes.

        Args:
            size: number of bytes.
            has_key: whether the request has shown a valid key.

        Raises:
            CapacityError: If fewer bytes are left.
        """
        if self.nbytes + size > self._max_bytes:
            raise CapacityError(
                "Other requests use up the server's memory for request bodies. Try again, or raise "
                f"{self._setting}.",
                full="bodies",
            )
        if not has_key:
            if self.keyless + size > self._max_keyless:
                raise CapacityError(
                    "Requests without an API key in their URL or headers use up their share of the "
                    "server's memory for request bodies. Send the key in a header, such as "
                    f"`x-api-key`, try again, or raise {self._setting} or "
                    "INFERENCE_KEYLESS_BODY_PERCENT.",
                    full="keyless_bodies",
                )
            self.keyless += size
        self.nbytes += size


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
        decoder: BodyDecoder | None,
    ) -> None:
        self._budget = budget
        self._stream = stream
        self._limit = limit
        self._over = over
        self._decoder = decoder
        self.nbytes = 0
        self.has_key = has_key
        self.is_compressed = decoder is not None

    def show_key(self) -> None:
        """Leave the share of requests without a key: a valid one has been found in the body."""
        if not self.has_key:
            self.has_key = True
            self._budget.keyless -= self.nbytes

    def release(self) -> None:
        """Give back the bytes."""
        self._budget.nbytes -= self.nbytes
        if not self.has_key:
            self._budget.keyless -= self.nbytes
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
        self._budget.reserve(len(chunk), has_key=self.has_key)
        self.nbytes += len(chunk)

    async def _received(self) -> AsyncGenerator[bytes, None]:
        """Receive the body, at the pace that its budget asks for."""
        pace, clock = self._budget.pace, asyncio.get_running_loop().time
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
        pace = self._budget.pace
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
