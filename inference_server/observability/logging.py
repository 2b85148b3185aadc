"""Logging: one line an event, with the request that it belongs to, and never a key in any of them.

Lines are JSON objects for machines, or text for a person at a terminal. What a request or a job
does is marked by `about`; the mark follows it into tasks, and into the worker threads that take
the context along.
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
    """Mark every line that is logged in the block, in this task and those that it starts.

    Args:
        fields: such as `request_id`; empty ones are left out.
    """
    known = {name: value for name, value in fields.items() if value}
    token = _ABOUT.set({**_ABOUT.get(), **known})
    try:
        yield
    finally:
        _ABOUT.reset(token)


class _Text(logging.Formatter):
    """A line for people, which ends with what it is about."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line without its traceback."""
        marks = "".join(f" {name}={value}" for name, value in _ABOUT.get().items())
        return super().formatMessage(record) + getattr(record, "marks", "") + marks


class _Json(JsonFormatter):
    """An object a line, with what the line is about and what was given as `extra`."""

    def __init__(self) -> None:
        super().__init__(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger"},
            # What is said otherwise: fields as text, and uvicorn's message with colours.
            reserved_attrs=[*RESERVED_ATTRS, "marks", "color_message"],
        )

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """The time first, then the line, then what it is about."""
        at = datetime.fromtimestamp(record.created, UTC)
        log_data["timestamp"] = at.isoformat(timespec="milliseconds")
        super().add_fields(log_data, record, message_dict)
        log_data.update(_ABOUT.get())


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """The server's own handler, by which it is known when logging is configured again."""


class _WithoutQuery(logging.Filter):
    """Cuts the query, where API keys travel, off the paths in uvicorn's own access log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple) and len(record.args) == 5:
            client, method, path, *rest = record.args
            record.args = (client, method, str(path).split("?", 1)[0], *rest)
        return True


def in_text(settings: Settings) -> bool:
    """Whether the log is for people: said so, or standard error is a terminal."""
    return settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())


def configure_logging(settings: Settings) -> None:
    """Send the logs of the server, of uvicorn and of the libraries to standard error.

    A program that has the server inside, and handlers of its own, keeps them.

    Args:
        settings: `log_level` and `log_format`.
    """
    root = logging.getLogger()
    logging.getLogger("inference_server").setLevel(settings.log_level.upper())
    access = logging.getLogger("uvicorn.access")
    if not any(isinstance(f, _WithoutQuery) for f in access.filters):
        access.addFilter(_WithoutQuery())
    # httpx tells every URL that it fetches, with its query.
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
    """Log who may call the server, where that is hardly what was meant."""
    logger = logging.getLogger("inference_server")
    if settings.auth == "off" and settings.host not in ("127.0.0.1", "::1", "localhost"):
        logger.warning(
            "INFERENCE_AUTH=off on %s: EVERYBODY who reaches this address may use this server. "
            "Set INFERENCE_API_KEYS and remove INFERENCE_AUTH=off.",
            settings.host,
        )
