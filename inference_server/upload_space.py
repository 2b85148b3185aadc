"""Temporary storage for uploads, bounded over all requests together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from inference_server.errors import CapacityError, ImageTooLargeError
from inference_server.settings import MiB


class UploadSpace:
    """Room for the uploads of all requests together. Used from the event loop only.

    Args:
        max_bytes: of all uploads.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.nbytes = 0
        """Bytes of the uploads that are here now."""

    @asynccontextmanager
    async def share(self, stream: AsyncGenerator[bytes, None], limit: int) -> AsyncIterator[Share]:
        """A request's part of the room, which it gives back in the end.

        Args:
            stream: the request's body.
            limit: most bytes of it.
        """
        share = Share(self, stream, limit)
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
                "Other uploads fill the server's temporary storage. Try again, or raise "
                "INFERENCE_UPLOAD_STORAGE_MB."
            )
        self.nbytes += size


class Share:
    """What one request has of the room; see `UploadSpace.share`."""

    def __init__(self, space: UploadSpace, stream: AsyncGenerator[bytes, None], limit: int) -> None:
        self._space = space
        self._stream = stream
        self._limit = limit
        self.nbytes = 0
        """Bytes that arrived."""

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body, as far as there is room for it.

        Raises:
            ImageTooLargeError: it is over the limit.
            CapacityError: there is no room left.
        """
        async for chunk in self._stream:
            if self.nbytes + len(chunk) > self._limit:
                raise too_large(self._limit)
            self._space.take(len(chunk))
            self.nbytes += len(chunk)
            yield chunk


def too_large(limit: int) -> ImageTooLargeError:
    """What is said of an upload of more bytes than this."""
    return ImageTooLargeError(
        f"The upload is larger than {limit // MiB} MiB. Send a smaller image, or raise "
        "INFERENCE_MAX_UPLOAD_MB."
    )
