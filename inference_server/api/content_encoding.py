"""Compressed request bodies: `Content-Encoding: gzip` and `deflate`, decoded in bounded pieces."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator

from inference_server.errors import EncodingError, PromptError, RequestError

_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15
"""`wbits` of zlib's decompressor."""

_HEADER_BYTES = 2
_INLINE_BYTES = 64 * 1024
"""Bytes that are decoded on the event loop; a thread would cost more."""

_PIECE_BYTES = 1024 * 1024


class BodyDecoder:
    """Decodes a compressed body.

    Args:
        coding: `gzip` or `deflate`.
        max_members: maximum number of gzip members: each costs time, also if it is empty.
    """

    def __init__(self, coding: str, max_members: int) -> None:
        self._coding = coding
        self._max_members = max_members
        self._begin = b""
        self._members = 0
        self._decompressor: zlib._Decompress | None = None

    async def pieces(self, data: bytes) -> AsyncGenerator[bytes, None]:
        """Decode a chunk of the body into pieces of up to 1 MiB.

        Nothing is decoded before the caller asks for it, so that a body is not decoded beyond its
        limit.

        Args:
            data: the next chunk of the compressed body.

        Raises:
            PromptError: If the data is damaged.
            RequestError: If it has too many gzip members.
        """
        data = self._started(data)
        most = _INLINE_BYTES
        while data:
            if most == _INLINE_BYTES:
                piece, data, more = self._decode(data, most)
            else:
                piece, data, more = await asyncio.to_thread(self._decode, data, most)
            most = _PIECE_BYTES
            if piece:
                yield piece
            while more:  # the decompressor still holds output
                piece, data, more = await asyncio.to_thread(self._decode, data, most)
                if piece:
                    yield piece

    def finish(self) -> None:
        """Check that the body has been decoded to its end.

        Raises:
            PromptError: If it is cut off.
        """
        if self._decompressor is None or not self._decompressor.eof:
            raise self._damaged("it is cut off")

    def _started(self, data: bytes) -> bytes:
        """Choose the format by the first bytes; return no data until they have arrived."""
        if self._decompressor is not None:
            return data
        self._begin += data
        if len(self._begin) < _HEADER_BYTES:
            return b""
        # `deflate` is zlib's format, but some clients send the bare stream.
        first, second = self._begin[0], self._begin[1]
        is_zlib = first & 0x0F == zlib.DEFLATED and (first << 8 | second) % 31 == 0
        wbits = _ZLIB if is_zlib else _RAW_DEFLATE
        self._decompressor = zlib.decompressobj(_GZIP if self._coding == "gzip" else wbits)
        return self._begin

    def _decode(self, data: bytes, most: int) -> tuple[bytes, bytes, bool]:
        """Decode data.

        Args:
            data: compressed data.
            most: maximum number of bytes to return.

        Returns:
            (decoded piece, data that is left, whether the decompressor may hold more output).
        """
        decompressor = self._decompressor
        assert decompressor is not None  # noqa: S101 - made by `_started`
        try:
            if decompressor.eof:
                decompressor = self._next_member(data)
            piece = decompressor.decompress(data, most)
        except zlib.error:
            raise self._damaged("its data is invalid") from None
        left = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
        more = not left and not decompressor.eof and len(piece) == most
        return piece, left, more

    def _next_member(self, data: bytes) -> zlib._Decompress:
        """Start the next member of a gzip body, which may consist of several."""
        self._members += 1
        if self._coding != "gzip":
            raise self._damaged("data follows its end")
        if self._members >= self._max_members:
            raise RequestError(
                f"The gzip body has more than {self._max_members:,} members. Compress it in one "
                "piece, or raise INFERENCE_MAX_GZIP_MEMBERS on the server."
            )
        self._decompressor = zlib.decompressobj(_GZIP)
        return self._decompressor

    def _damaged(self, why: str) -> PromptError:
        return PromptError(
            f"The body is not valid {self._coding}, as its Content-Encoding says: {why}. Send it "
            "again, or uncompressed."
        )


def decoder_of(content_encoding: str, max_members: int) -> BodyDecoder | None:
    """Make the decoder of a body.

    Args:
        content_encoding: the request's `Content-Encoding`; empty if it has none.
        max_members: maximum number of gzip members.

    Returns:
        The decoder; None if the body is not compressed.

    Raises:
        EncodingError: If the encoding is not supported.
    """
    names = [name.strip().lower() for name in content_encoding.split(",")]
    codings = [name for name in names if name not in ("", "identity")]
    if not codings:
        return None
    known = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
    if len(codings) > 1 or codings[0] not in known:
        raise EncodingError(
            f"The body's Content-Encoding {', '.join(codings)[:64]!r} is not supported. Send it "
            "uncompressed, or compressed once with gzip or deflate."
        )
    return BodyDecoder(known[codings[0]], max_members)
