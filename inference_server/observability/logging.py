"""Logging: one line per event, as text or JSON, with the id of its request and without API keys.

`about` adds fields such as the request's id to all lines of a block, including those of tasks and
worker threads that inherit its context. The formatter is `python-json-logger`; only these context
fields and the text format are our own.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from inference_server.settings import Settings

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

_ABOUT: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Add fields to every line logged in the block, by this task and by tasks that it starts.

    Args:
        fields: fields such as `request_id`; empty values are omitted.
    """
    known = {name: value for name, value in fields.items() if value}
    token = _ABOUT.set({**_ABOUT.get(), **known})
    try:
        yield
    finally:
        _ABOUT.reset(token)


class _Text(logging.Formatter):
    """A text line that ends with the fields of `about`."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line without its traceback."""
        marks = "".join(f" {name}={value}" for name, value in _ABOUT.get().items())
        return super().formatMessage(record) + getattr(record, "marks", "") + marks


class _Json(JsonFormatter):
    """A JSON object per line, with the fields of `about` and of `extra`."""

    def __init__(self) -> None:
        super().__init__(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger"},
            # Duplicates: fields as text, and uvicorn's message with colours.
            reserved_attrs=[*RESERVED_ATTRS, "marks", "color_message"],
        )

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Add the time, the line, and the fields of `about`."""
        at = datetime.fromtimestamp(record.created, UTC)
        log_data["timestamp"] = at.isoformat(timespec="milliseconds")
        super().add_fields(log_data, record, message_dict)
        log_data.update(_ABOUT.get())


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """The server's handler; its type tells it from other handlers when logging is reconfigured."""


class _WithoutQuery(logging.Filter):
    """Cuts the query, which may hold an API key, off the paths in uvicorn's access log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple) and len(record.args) == 5:
            client, method, path, *rest = record.args
            record.args = (client, method, str(path).split("?", 1)[0], *rest)
        return True


def in_text(settings: Settings) -> bool:
    """Whether the log is text: configured so, or standard error is a terminal."""
    return settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())


def configure_logging(settings: Settings) -> None:
    """Send the logs of the server, uvicorn and libraries to standard error.

    If a program that embeds the server has handlers on the root logger, they are kept instead.

    Args:
        settings: the server's settings; `log_level` and `log_format` are used.
    """
    root = logging.getLogger()
    logging.getLogger("inference_server").setLevel(settings.log_level.upper())
    access = logging.getLogger("uvicorn.access")
    if not any(isinstance(f, _WithoutQuery) for f in access.filters):
        access.addFilter(_WithoutQuery())
    # httpx logs every URL that it fetches, with its query.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if not all(isinstance(handler, _Handler) for handler in root.handlers):
        return
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Text() if in_text(settings) else _Json())
    root.handlers[:] = [handler]
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.captureWarnings(True)


def warn_of_keys(settings: Settings) -> None:
    """Warn if authentication is off and other machines can reach the server.

    Args:
        settings: the server's settings; `auth` and `host` are used.
    """
    logger = logging.getLogger("inference_server")
    if settings.auth == "off" and settings.host not in ("127.0.0.1", "::1", "localhost"):
        logger.warning(
            "INFERENCE_AUTH=off on %s: EVERYBODY who can reach this address may use the server. "
            "Set INFERENCE_API_KEYS and remove INFERENCE_AUTH=off.",
            settings.host,
        )
