"""Messages, checks and output shared by commands."""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from pathlib import Path

import click

from inference_server.settings import Settings

STOPPING = "Stopping after the requests in progress. Interrupt again to cancel them"
"""Message after the first signal."""


def check_models(settings: Settings) -> None:
    """Check that the configured weights and device exist, without loading the weights.

    Args:
        settings: the server's settings.

    Raises:
        ClickException: a setting names weights or a device that do not exist.
    """
    from inference_server.engines.registry import ModelRegistry
    from inference_server.errors import ModelUnavailableError

    try:
        ModelRegistry(settings)
    except ModelUnavailableError as error:
        raise click.ClickException(error.message) from None


def cannot_listen(settings: Settings) -> click.ClickException:
    """Return the error for an address that is in use.

    Args:
        settings: the server's settings, for host and port.
    """
    address = url_of(settings.host, settings.port)
    return click.ClickException(f"Cannot listen on {address}: choose another --port.")


def url_of(host: str, port: int) -> str:
    """Return the URL at which a client on this machine reaches the server.

    Args:
        host: address that the server listens on; a wildcard address becomes loopback.
        port: port that it listens on.
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def to_stdout(file: Path) -> None:
    """Write a file to standard output, if it exists.

    Args:
        file: path of the file.

    Raises:
        ClickException: it cannot be written, such as on a full disk.
    """
    if not file.exists():
        return
    try:
        with file.open("rb") as document:
            shutil.copyfileobj(document, sys.stdout.buffer)
        sys.stdout.flush()
    except BrokenPipeError:  # click ends the command quietly
        raise
    except OSError as error:
        with suppress(OSError):  # or Python writes the rest at exit, and fails again
            sys.stdout.close()
        raise click.ClickException(
            f"Cannot write standard output: {error.strerror or error}."
        ) from None
