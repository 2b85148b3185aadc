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
    from inference_server.engines.weights import SAM3_NAME
    from inference_server.errors import ModelUnavailableError

    try:
        registry = ModelRegistry(settings_of())
    except ModelUnavailableError as error:
        raise click.ClickException(error.message) from None
    click.echo(f"sam3  {SAM3_NAME:<15}  {registry.concept_name}")
    for version, name in registry.versions.items():
        click.echo(f"sam2  {version:<15}  {name}")
    click.echo(f"on {registry.compute.device} in {registry.compute.dtype}")
