"""Logging: one line an event, and never a key in any of them."""

from __future__ import annotations

import logging

from inference_server.settings import Settings

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class _WithoutQuery(logging.Filter):
    """Cuts the query, where API keys travel, off the paths in uvicorn's own access log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple) and len(record.args) == 5:
            client, method, path, *rest = record.args
            record.args = (client, method, str(path).split("?", 1)[0], *rest)
        return True


def configure_logging(settings: Settings) -> None:
    """Send the server's log to standard error, once.

    Args:
        settings: `log_level`, and what to warn about.
    """
    package = logging.getLogger("inference_server")
    package.setLevel(settings.log_level.upper())
    if not package.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_FORMAT))
        package.addHandler(handler)
        package.propagate = False
    access = logging.getLogger("uvicorn.access")
    if not any(isinstance(f, _WithoutQuery) for f in access.filters):
        access.addFilter(_WithoutQuery())
    # httpx tells every URL that it fetches, with its query.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if settings.auth == "off" and settings.host not in ("127.0.0.1", "::1", "localhost"):
        package.warning(
            "INFERENCE_AUTH=off on %s: EVERYBODY who reaches this address may use this server. "
            "Set INFERENCE_API_KEYS and remove INFERENCE_AUTH=off.",
            settings.host,
        )
    elif settings.auth == "on" and not settings.api_keys:
        package.warning(
            "No API key is configured, so every request will be answered with 401. Set "
            "INFERENCE_API_KEYS, or INFERENCE_AUTH=off, or use `inference-server serve`, which "
            "makes a key for the run."
        )
