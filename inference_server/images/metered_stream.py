"""A network stream that counts what it receives, and refuses too much of it."""

from __future__ import annotations

import httpcore

from inference_server.images.failures import could_not_load

_NEXT_RESPONSE = b"\nHTTP/"  # what follows an interim response
_HEAD_PIECE = 4096  # bytes to read at a time until the response has begun


class MeteredStream(httpcore.AsyncNetworkStream):
    """A stream that counts what it receives, because httpcore limits neither interim responses
    (`100 Continue`) nor the overhead of chunks.

    Args:
        stream: The connection; TLS has begun.
        max_head_bytes: Maximum bytes until the response has begun.
        max_interim: Maximum number of interim responses: parsing one takes a thousand times as
            long as sending it.
        max_bytes: Maximum bytes in all.
        url: What is fetched, for error messages.
    """

    def __init__(
        self,
        stream: httpcore.AsyncNetworkStream,
        max_head_bytes: int,
        max_interim: int,
        max_bytes: int,
        url: str,
    ) -> None:
        self._stream = stream
        self._max_head_bytes = max_head_bytes
        self._max_interim = max_interim
        self._max_bytes = max_bytes
        self._url = url
        self._received = 0
        self._interim = 0
        self._last = b""
        self.in_body = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read bytes and count them; `ImageError` if there are too many."""
        # In small pieces, because httpcore parses all that came in one go.
        size = max_bytes if self.in_body else min(max_bytes, _HEAD_PIECE)
        data = await self._stream.read(size, timeout)
        self._received += len(data)
        if not self.in_body:
            self._check_head(data)
        if self._received > self._max_bytes:
            raise could_not_load(
                f"{self._url} sends its content in chunks that are far too small.",
                "Give another URL, or send the image as base64.",
            )
        return data

    def _check_head(self, data: bytes) -> None:
        """Refuse too many bytes or interim responses before the response, unparsed."""
        told = self._last + data
        self._interim += told.count(_NEXT_RESPONSE)
        self._last = told[1 - len(_NEXT_RESPONSE) :]
        if self._received > self._max_head_bytes or self._interim > self._max_interim:
            raise could_not_load(
                f"{self._url} sent more than {self._max_head_bytes // 1024} KiB of headers, or "
                f"more than {self._max_interim} interim responses.",
                "Give another URL, or send the image as base64.",
            )

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write bytes."""
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()
