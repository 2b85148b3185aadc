"""`inference-server models`: list the configured models."""

from __future__ import annotations

import click

from inference_server.cli.options import settings_of


@click.command()
def models() -> None:
    """List the configured models and their weights.

    Nothing is loaded. The last line is the device and the dtype.
    """
    from inference_server.engines.registry import ModelRegistry
    from inference_server.errors import ModelUnavailableError

    try:
        registry = ModelRegistry(settings_of())
    except ModelUnavailableError as error:
        raise click.ClickException(error.message) from None
    for key in registry.catalog.keys:
        click.echo(f"{key.family}  {key.name:<15}  {registry.catalog.checkpoint(key).name}")
    click.echo(f"on {registry.compute.device} in {registry.compute.dtype}")
