"""Settings of a command: the environment's, overridden by its options."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from inference_server.engines.weights import SAM2_VERSIONS
from inference_server.settings import Settings, misspelled
from inference_server.settings.types import SettingsError

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

size_option = click.option(
    "--size", type=click.Choice(SAM2_VERSIONS), help="Of SAM 2; the largest by default."
)
"""Which SAM 2 a command works with."""


def model_options(command: CommandT) -> CommandT:
    """Options for the weights and where they compute, as settings are called."""
    options = (
        click.option("--sam2-weights", help="SAM 2 weights, as INFERENCE_SAM2_WEIGHTS."),
        click.option("--sam3-weights", help="SAM 3 weights, as INFERENCE_SAM3_WEIGHTS."),
        click.option("--device", help="auto, cpu, cuda, cuda:N or mps."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def settings_of(**options: object) -> Settings:
    """Settings from the environment, overridden by the options that were given."""
    for name, meant in misspelled(os.environ).items():
        hint = f" Is {meant} meant?" if meant else ""
        click.echo(f"{name} is no setting, and is ignored.{hint}", err=True)
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})  # type: ignore[arg-type]
    except SettingsError as error:
        click.echo(str(error), err=True)
        raise SystemExit(2) from None
