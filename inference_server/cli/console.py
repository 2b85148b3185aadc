"""Messages and checks shared by `serve` and `serve --cluster`."""

from __future__ import annotations

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
