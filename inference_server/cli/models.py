"""`inference-server models`: list the configured models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from inference_server.cli.options import model_options, settings_of

if TYPE_CHECKING:
    from inference_server.engines.catalog import Catalog


@click.command()
@model_options
def models(**options: str | None) -> None:
    """List the configured models and their weights.

    Nothing is loaded. The lines after the list tell who answers words, and who answers points and
    boxes of requests that name no model; the last line is the device and the dtype.
    """
    from inference_server.engines.registry import ModelRegistry
    from inference_server.errors import ModelUnavailableError

    try:
        registry = ModelRegistry(settings_of(**options))
    except ModelUnavailableError as error:
        raise click.ClickException(error.message) from None
    for key in registry.catalog.keys:
        click.echo(f"{key.family}  {key.name:<15}  {registry.catalog.checkpoint(key).name}")
    catalog = registry.catalog
    click.echo(f"words: {catalog.label(catalog.concept(None))}")
    click.echo(f"points and boxes: {_answering_points(catalog)}")
    click.echo(f"on {registry.compute.device} in {registry.compute.dtype}")


def _answering_points(catalog: Catalog) -> str:
    """Describe the model that answers points and boxes of requests that name none."""
    if not catalog.answers_points:
        return "none; INFERENCE_SAM2_WEIGHTS names weights of SAM 2"
    key = catalog.visual(None)
    if key.family == "sam3":
        return f"{catalog.label(key)}, with the image encoding of words"
    return f"{catalog.label(key)} ({key.name})"
