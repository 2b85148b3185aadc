"""Room for the bodies of requests, bounded over all of them together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from inference_server.errors import CapacityError, InferenceServerError, SlowBodyError


class BodyBudget:
    """Room for the bodies of all requests together. Used from the event loop only.

    Args:
        max_bytes: of all bodies.
        timeout: seconds that one of them may take to arrive.
        setting: the variable that `max_bytes` is set by, for the error.
    """

    def __init__(self, max_bytes: int, timeout: float, setting: str) -> None:
        self._max_bytes = max_bytes
        self._setting = setting
        self.timeout = timeout
        self.nbytes = 0
        """Bytes of the bodies that are here now."""

    @asynccontextmanager
    async def share(
        self, stream: AsyncGenerator[bytes, None], limit: int, over: InferenceServerError
    ) -> AsyncIterator[Share]:
        """A request's part of the room, which it gives back in the end.

        Args:
            stream: the request's body.
            limit: most bytes of it.
            over: what is raised if there are more.
        """
        share = Share(self, stream, limit, over)
        try:
            yield share
        finally:
            self.nbytes -= share.nbytes

    def take(self, size: int) -> None:
        """Take room.

        Raises:
            CapacityError: there is none left.
        """
        if self.nbytes + size > self._max_bytes:
            raise CapacityError(
                "Other requests fill the server's room for bodies. Try again, or raise "
                f"{self._setting}.",
                full="bodies",
            )
        self.nbytes += size


class Share:
    """What one request has of the room; see `BodyBudget.share`."""

    def __init__(
        self,
        space: BodyBudget,
        stream: AsyncGenerator[bytes, None],
        limit: int,
        over: InferenceServerError,
    ) -> None:
        self._space = space
        self._stream = stream
        self._limit = limit
        self._over = over
        self.nbytes = 0
        """Bytes that arrived."""

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body, as far as there is room for it.

        Raises:
            InferenceServerError: it is over the limit.
            CapacityError: there is no room left.
            SlowBodyError: it takes too long.
        """
        seconds = self._space.timeout
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    chunk = await anext(self._stream, None)
            except TimeoutError:
                raise SlowBodyError(
                    f"The body of the request did not arrive within {seconds:g} seconds. Send a "
                    "smaller image, or its URL, or raise INFERENCE_BODY_TIMEOUT."
                ) from None
            if chunk is None:
                return
            if self.nbytes + len(chunk) > self._limit:
                raise self._over
            self._space.take(len(chunk))
            self.nbytes += len(chunk)
            yield chunk
