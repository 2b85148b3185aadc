"""Response headers of operations, in OpenAPI's form."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

HEADERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "x-model": {
            "description": "The checkpoint used; `demo` in its name means the demo weights.",
            "schema": {"type": "string"},
        },
        "x-model-id": {
            "description": "Ids of the models that answered, as `POST /model/add` takes them, "
            "separated by commas and percent-encoded.",
            "schema": {"type": "string"},
        },
        "x-model-cold-start": {
            "description": "Whether the request waited until a model was loaded.",
            "schema": {"type": "string", "enum": ["true", "false"]},
        },
        "x-model-load-time": {
            "description": "Seconds that the request waited until a model was loaded.",
            "schema": {"type": "number", "minimum": 0},
        },
        "x-processing-time": {
            "description": "Seconds from the arrival of the request until the response.",
            "schema": {"type": "number", "minimum": 0},
        },
        "x-embedding-cache": {
            "description": "Whether the image's embedding was in the cache.",
            "schema": {"type": "string", "enum": ["hit", "miss"]},
        },
        "x-image-mismatch": {
            "description": "The image in the request differs from the one cached under its "
            "`image_id`, which was used.",
            "schema": {"type": "string", "enum": ["true"]},
        },
        "x-credits-remaining": {
            "description": "Credit balance of the API key, if it has one.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "idempotent-replayed": {
            "description": "An earlier submission under this `Idempotency-Key` created the job.",
            "schema": {"type": "string", "enum": ["true"]},
        },
        "server-timing": {
            "description": "Milliseconds spent in each stage, as `name;dur=1.2, …`.",
            "schema": {"type": "string"},
        },
        "x-request-id": {
            "description": "Id of this request in the server's log.",
            "schema": {"type": "string"},
        },
        "x-content-type-options": {
            "description": "Sent with everything but JSON: browsers must not guess another type.",
            "schema": {"type": "string", "enum": ["nosniff"]},
        },
        "retry-after": {
            "description": "Seconds to wait before a retry.",
            "schema": {"type": "integer", "minimum": 1},
        },
        "accept-encoding": {
            "description": "The supported encodings of request bodies.",
            "schema": {"type": "string"},
        },
        "www-authenticate": {
            "description": "How to authenticate.",
            "schema": {"type": "string"},
        },
    }
)
"""Response headers of operations, in OpenAPI's form."""

RESULT_HEADERS = (
    "x-model",
    "x-model-id",
    "x-model-cold-start",
    "x-model-load-time",
    "x-processing-time",
    "x-embedding-cache",
    "x-image-mismatch",
    "x-credits-remaining",
    "server-timing",
)
"""Headers of every response about an image."""
