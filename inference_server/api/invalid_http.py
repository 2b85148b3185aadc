"""Wording of responses to requests that are not valid HTTP."""

from __future__ import annotations

from types import MappingProxyType

BROKEN_BODY = "inference_server.broken_body"
"""Key in an ASGI scope: why the request's body cannot be read to its end."""

REFUSALS = MappingProxyType(
    {
        400: ("Bad Request", "bad_request"),
        408: ("Request Timeout", "slow_headers"),
        431: ("Request Header Fields Too Large", "large_headers"),
    }
)
"""Reason phrase and code of responses that precede the application, by status."""

_TLS = b"\x16\x03"
"""First bytes of a TLS handshake."""

_LENGTH = (
    "The header `Content-Length` is invalid: it is not a number of bytes. Send the size of the "
    "body in decimal digits, or send `Transfer-Encoding: chunked` instead."
)
_BOTH = (
    "The request has both `Content-Length` and `Transfer-Encoding`. Send one of them: "
    "`Content-Length` if the size of the body is known, otherwise `Transfer-Encoding: chunked`."
)
CODING = (
    "The header `Transfer-Encoding` must be `chunked`. Send that, or `Content-Length` instead; "
    "`Content-Encoding` says whether the body is compressed."
)
"""Another transfer coding than `chunked`."""

_CHUNK = (
    "The chunked body is invalid: a chunk does not begin with its size in hexadecimal digits. Send "
    "the request again, or send the body with `Content-Length`."
)
_HEADER = (
    "A header is invalid: each must be one line `name: value`, without spaces before the colon, "
    "line breaks and control characters. Encode other characters."
)
_FIRST_LINE = (
    "The first line of the request is invalid: it must be `METHOD /path HTTP/1.1`, with the path "
    "percent-encoded."
)

_REASONS = MappingProxyType(
    {
        "Duplicate Content-Length": "The request has several headers `Content-Length`. Send one.",
        "Invalid character in Content-Length": _LENGTH,
        "Empty Content-Length": _LENGTH,
        "Content-Length overflow": _LENGTH,
        "Transfer-Encoding can't be present with Content-Length": _BOTH,
        "Content-Length can't be present with Transfer-Encoding": _BOTH,
        "Invalid `Transfer-Encoding` header value": CODING,
        "Request has invalid `Transfer-Encoding`": CODING,
        "Invalid character in chunk size": _CHUNK,
        "Chunk size overflow": _CHUNK,
        "Invalid header token": _HEADER,
        "Invalid header value char": _HEADER,
        "Unexpected whitespace after header value": _HEADER,
        "Invalid method encountered": _FIRST_LINE,
        "Invalid HTTP version": _FIRST_LINE,
        "Invalid char in url path": _FIRST_LINE,
    }
)
"""Messages by the words of the HTTP parser (llhttp)."""


def wording_of(error: BaseException | None, data: bytes) -> str:
    """Word an error of the HTTP parser.

    Args:
        error: the parser's error.
        data: the bytes that were received last.
    """
    if data.startswith(_TLS):
        return (
            "The request is encrypted (TLS), and this port expects plain HTTP. Use http:// in the "
            "URL, or send the request to the proxy that terminates TLS."
        )
    reason = str(error)
    return _REASONS.get(reason, f"The request is not valid HTTP: {reason or 'unknown error'}.")


def large_head(kibibytes: int) -> str:
    """Word that URL and headers are too large.

    Args:
        kibibytes: the limit.
    """
    return f"The URL and headers are larger than {kibibytes} KiB. Send images in the body."


def large_trailers(kibibytes: int) -> str:
    """Word that what surrounds the chunks of a body is too large.

    Args:
        kibibytes: the limit.
    """
    return (
        f"The trailers or chunk extensions of the body are larger than {kibibytes} KiB. Send none: "
        "the server ignores them."
    )
