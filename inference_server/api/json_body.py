"""JSON bodies: their media types, and limits of their structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request

from inference_server.errors import MediaTypeError, PromptError
from inference_server.settings import Settings
from inference_server.settings.types import variable_of

JSON_ONLY = "Send the body as application/json."
"""What to send to an endpoint that takes JSON only."""

_JSON_TYPES = frozenset(
    {
        *("", "application/json", "text/json", "application/octet-stream"),
        # What `curl -d` and a browser's `fetch` say about any text.
        *("application/x-www-form-urlencoded", "text/plain"),
    }
)
"""Types of bodies that are read as JSON, in lower case; `+json` as well."""


def media_type_of(request: Request) -> str:
    """Return the type of a request's body in lower case, without parameters; empty if missing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def unsupported_media_type(request: Request, remedy: str) -> MediaTypeError:
    """Return the error for a body of another type.

    Args:
        request: the request.
        remedy: what to send instead.
    """
    kind = media_type_of(request)
    return MediaTypeError(f"The Content-Type {kind[:64]!r} is not supported here. {remedy}")


def is_json_type(request: Request) -> bool:
    """Tell whether a body of this type is read as JSON; without a type it is."""
    kind = media_type_of(request)
    return kind in _JSON_TYPES or kind.endswith("+json")


def is_mislabelled(request: Request, raw: bytes) -> bool:
    """Tell whether a body that is no valid JSON was not meant to be.

    Args:
        request: the request.
        raw: its body.
    """
    of_any_text = media_type_of(request) in ("application/x-www-form-urlencoded", "text/plain")
    return of_any_text and raw.lstrip()[:1] not in (b"{", b"[", b'"')


MaxValues = tuple[str, int]
"""Name and value of the setting that limits the number of values in a JSON body."""


def parse_object(
    raw: bytes, settings: Settings, max_values: MaxValues | None = None
) -> dict[str, Any]:
    """Parse a JSON object that a client sent.

    Args:
        raw: the JSON.
        settings: limits of values and depth.
        max_values: limit on the number of values. Default: `max_json_values`.

    Raises:
        PromptError: If it is not a JSON object, or has too many values or levels.
    """
    _check_structure(raw, settings, max_values)
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise PromptError(f"The body is not valid JSON: {error}.") from None
    if not isinstance(data, dict):
        raise PromptError("The body must be a JSON object.")
    _check_depth(data, settings)
    return data


def _check_structure(raw: bytes, settings: Settings, limit: MaxValues | None = None) -> None:
    """Refuse JSON that would become too many objects: 60 MiB of `[],` take gigabytes.

    Base64 has none of the characters counted, and a few commas within texts do not matter.
    """
    name, most = limit or ("max_json_values", settings.max_json_values)
    count = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    if count > most:
        raise PromptError(
            f"The body has more than {most:,} JSON values. Send fewer prompts, points or boxes per "
            f"request, or raise {variable_of(name)} on the server."
        )


def _check_depth(data: Mapping[str, Any], settings: Settings) -> None:
    most = settings.max_json_depth
    level: list[Any] = [data]
    for _ in range(most):
        level = [
            item
            for node in level
            for item in (node.values() if isinstance(node, dict) else node)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise PromptError(
        f"The body is nested more than {most} levels deep. Remove levels, or raise "
        "INFERENCE_MAX_JSON_DEPTH on the server."
    )
