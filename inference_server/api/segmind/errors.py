"""Segmind's error responses: bodies, status codes and their table for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from inference_server.api.openapi import Answer
from inference_server.errors import InferenceServerError
from schemas.segmind import SegmindFailure

STATUSES: Mapping[int, int] = MappingProxyType({408: 400, 413: 400, 402: 406, 503: 502})
"""Status codes that Segmind's API does not have, and those sent in their place."""


def wording(error: InferenceServerError) -> dict[str, Any]:
    """Build an error body: `error` and `code`; no `status`, which clients would trust."""
    return {"error": error.message, "code": error.reason}


def _error(name: str, description: str, *headers: str) -> Answer:
    return Answer(description, SegmindFailure, headers=headers, component=f"{name}Segmind")


ERRORS: Mapping[int, Answer] = MappingProxyType(
    {
        400: _error("BadRequest", "The request is invalid, or the image cannot be read."),
        401: _error(
            "Unauthorized",
            "The API key is missing, unknown, expired or revoked.",
            "www-authenticate",
        ),
        403: _error("Forbidden", "The API key lacks the required scope."),
        406: _error("OutOfCredits", "The API key has insufficient credits."),
        415: _error(
            "Encoding", "The body's `Content-Encoding` is not supported.", "accept-encoding"
        ),
        429: _error(
            "Busy",
            "The API key exceeded its rate limit, or too many requests are queued. Retry later.",
            "retry-after",
        ),
        500: _error("Internal", "Internal error; the server's log has it under the request id."),
        502: _error(
            "Unavailable",
            "Temporarily unavailable: weights are missing, the server is stopping or out of "
            "memory, or a database is unreachable. The message says which.",
            "retry-after",
        ),
        504: _error("TimedOut", "The request exceeded the server's time limit."),
    }
)
"""Error responses by status code."""
