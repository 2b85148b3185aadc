"""Messages and checks that `serve` shares with `serve --cluster`."""

from __future__ import annotations

import click

from inference_server.settings import Settings

STOPPING = "Stopping: requests under way are answered first. Interrupt again to drop them"
"""Message at the first signal."""


def check_models(settings: Settings) -> None:
    """Check that the weights and the device in the settings exist, without loading them.

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
    """Return the error for an address that is in use."""
    address = url_of(settings.host, settings.port)
    return click.ClickException(f"Cannot listen on {address}: choose another --port.")


def url_of(host: str, port: int) -> str:
    """Return the URL at which a client on this machine reaches the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
